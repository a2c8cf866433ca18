/* SPDX-License-Identifier: Apache-2.0 */
/* load.c - the load of the experts, as bars. */
#include "load.h"

#include <stdio.h>

#include "output.h"

enum { LINE = 76, BARS_MAX = 64, SPARKS_A_LINE = 64 };

/* Bars side by side, downwards first: "  7 ####      128". */
static void print_bars(const uint32_t *counts, size_t experts, uint32_t largest)
{
    size_t columns = experts <= 8 ? 1 : experts <= 16 ? 2 : 4;
    size_t rows = (experts + columns - 1) / columns, digits = (size_t)snprintf(NULL, 0, "%u", (unsigned)largest);
    size_t fixed = 2 + 2 + 1 + 1 + digits + 2; /* indent, number, spaces around the bar, count, gap */
    size_t width = LINE / columns > fixed + 4 ? LINE / columns - fixed : 4;
    if (width > 40)
        width = 40;
    for (size_t row = 0; row < rows; row++) {
        for (size_t e = row; e < experts; e += rows) {
            printf("  %2zu ", e);
            output_bar((double)counts[e] / (double)largest, width);
            printf(" %*u%s", (int)digits, (unsigned)counts[e], e + rows < experts ? "  " : "");
        }
        putchar('\n');
    }
}

/* A character an expert: "  64-127  ..". */
static void print_sparks(const uint32_t *counts, size_t experts, uint32_t largest)
{
    static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const ascii[] = {" ", ".", ":", "-", "=", "+", "*", "#", "@"};
    const char *const *sparks = output_has_blocks() ? blocks : ascii;
    for (size_t start = 0; start < experts; start += SPARKS_A_LINE) {
        size_t end = start + SPARKS_A_LINE < experts ? start + SPARKS_A_LINE : experts;
        printf("  %4zu-%-4zu ", start, end - 1);
        for (size_t e = start; e < end; e++)
            fputs(sparks[((size_t)counts[e] * 8 + largest - 1) / largest], stdout); /* any token shows */
        putchar('\n');
    }
}

void load_print(const uint32_t *counts, size_t experts)
{
    uint32_t largest = 1;
    for (size_t e = 0; e < experts; e++)
        largest = counts[e] > largest ? counts[e] : largest;
    if (experts <= BARS_MAX)
        print_bars(counts, experts, largest);
    else
        print_sparks(counts, experts, largest);
}
