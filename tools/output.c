/* SPDX-License-Identifier: Apache-2.0 */
/* output.c - tables, bars, units, JSON, progress. */
#include "output.h"

#include <langinfo.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct style output_style(FILE *stream)
{
    const char *no_color = getenv("NO_COLOR"), *terminal = getenv("TERM");
    bool colour = isatty(fileno(stream)) && !(no_color && no_color[0]) && !(terminal && strcmp(terminal, "dumb") == 0);
    if (!colour)
        return (struct style){"", "", "", "", ""};
    return (struct style){"\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m"};
}

/* -------------------------------------------------------------------------------------------------- tables -- */

struct table table_begin(const struct column *columns, size_t count)
{
    return (struct table){.columns = columns, .column_count = count};
}

void table_cell(struct table *table, const char *format, ...)
{
    if (table->cell_count == table->capacity) {
        size_t capacity = table->capacity ? 2 * table->capacity : 64;
        void *cells = realloc(table->cells, capacity * sizeof(table->cells[0]));
        if (!cells) {
            table->out_of_memory = true;
            return;
        }
        table->cells = cells;
        table->capacity = capacity;
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(table->cells[table->cell_count++], sizeof(table->cells[0]), format, arguments);
    va_end(arguments);
}

/* Characters, not bytes, of UTF-8 text. */
static size_t text_width(const char *text)
{
    size_t width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static size_t column_width(const struct table *table, size_t column)
{
    size_t width = table->columns[column].width, title = text_width(table->columns[column].title);
    if (width < title)
        width = title;
    for (size_t i = column; i < table->cell_count; i += table->column_count) {
        size_t cell = text_width(table->cells[i]);
        if (width < cell)
            width = cell;
    }
    return width;
}

static void print_cell(const struct table *table, size_t column, const char *text)
{
    size_t padding = column_width(table, column) - text_width(text);
    bool right = table->columns[column].right, last = column + 1 == table->column_count;
    if (right)
        printf("%*s", (int)padding, "");
    fputs(text, stdout);
    if (!right && !last)
        printf("%*s", (int)padding, "");
    fputs(last ? "\n" : "  ", stdout);
}

enum outcome table_print(struct table *table, struct fault *fault)
{
    if (table->out_of_memory)
        return fault_memory(fault, "a table");
    struct style style = output_style(stdout);
    if (table->printed == 0) {
        fputs(style.bold, stdout);
        for (size_t i = 0; i < table->column_count; i++)
            print_cell(table, i, table->columns[i].title);
        fputs(style.reset, stdout);
    }
    for (size_t column = 0; table->printed < table->cell_count; table->printed++) {
        print_cell(table, column, table->cells[table->printed]);
        column = column + 1 < table->column_count ? column + 1 : 0;
    }
    fflush(stdout);
    return OUTCOME_SUCCESS;
}

void table_end(struct table *table)
{
    free(table->cells);
    *table = (struct table){0};
}

/* ---------------------------------------------------------------------------------------------------- bars -- */

bool output_has_blocks(void)
{
    return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

void output_bar(double fraction, size_t width)
{
    static const char *const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    bool blocks = output_has_blocks();
    size_t steps = (size_t)lround(fraction * (double)width * 8), least = blocks ? 1 : 4;
    if (fraction > 0 && steps < least)
        steps = least;
    size_t full = blocks ? steps / 8 : (steps + 4) / 8, part = blocks ? steps % 8 : 0;
    for (size_t i = 0; i < full; i++)
        fputs(blocks ? "█" : "#", stdout);
    fputs(eighths[part], stdout);
    printf("%*s", (int)(width - full - (part > 0)), "");
}

/* --------------------------------------------------------------------------------------------------- units -- */

static const char *scaled(char text[OUTPUT_TEXT], double value, double step, const char *const *units, size_t count)
{
    size_t unit = 0;
    for (; value >= step && unit + 1 < count; unit++)
        value /= step;
    snprintf(text, OUTPUT_TEXT, unit == 0 || value >= 100 ? "%.0f %s" : "%.3g %s", value, units[unit]);
    size_t length = strlen(text);
    if (text[length - 1] == ' ')
        text[length - 1] = '\0';
    return text;
}

const char *output_bytes(char text[OUTPUT_TEXT], double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    return scaled(text, bytes, 1024, units, sizeof(units) / sizeof(units[0]));
}

const char *output_amount(char text[OUTPUT_TEXT], double amount)
{
    static const char *const units[] = {"", "k", "M", "G", "T", "P"};
    return scaled(text, amount, 1000, units, sizeof(units) / sizeof(units[0]));
}

const char *output_integer(char text[OUTPUT_TEXT], uint64_t integer)
{
    char *at = text + OUTPUT_TEXT - 1;
    *at = '\0';
    for (int digits = 0; digits == 0 || integer > 0; digits++, integer /= 10) {
        if (digits > 0 && digits % 3 == 0)
            *--at = ',';
        *--at = (char)('0' + integer % 10);
    }
    return at;
}

/* ---------------------------------------------------------------------------------------------------- JSON -- */

json_t *output_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *output_string(const char *text)
{
    json_t *json = json_string(text);
    char *plain = json ? NULL : strdup(text);
    for (char *at = plain; at && *at; at++) {
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    }
    if (plain)
        json = json_string(plain);
    free(plain);
    return json;
}

enum outcome output_json(json_t *json, struct fault *fault)
{
    if (!json)
        return fault_memory(fault, "the JSON");
    /* What cannot be written is met by main(), which flushes standard output in the end. */
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(json);
    return OUTCOME_SUCCESS;
}

/* ------------------------------------------------------------------------------------------------ progress -- */

void output_progress(const char *format, ...)
{
    if (!isatty(STDERR_FILENO))
        return;
    va_list arguments;
    va_start(arguments, format);
    fputs("\r\033[K", stderr);
    vfprintf(stderr, format, arguments);
    fflush(stderr);
    va_end(arguments);
}
