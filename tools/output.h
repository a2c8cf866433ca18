/* SPDX-License-Identifier: Apache-2.0 */
/* output.h - what goes to standard output: aligned tables and bars for people, JSON for programs; and progress on
 * standard error. Colour and progress are for terminals only, and NO_COLOR turns colour off. */
#ifndef TOOLS_OUTPUT_H
#define TOOLS_OUTPUT_H

#include <jansson.h>
#include <stdio.h>

#include "fault.h"

/* Escape sequences, all "" where the stream takes no colour. */
struct style {
    const char *bold, *dim, *good, *bad, *reset;
};
struct style output_style(FILE *stream);

struct column {
    const char *title;
    bool right;   /* aligned to the right */
    size_t width; /* at least */
};

/* A table that is printed as far as it is filled: the header once, then the rows not yet printed. */
struct table {
    const struct column *columns;
    size_t column_count;
    char (*cells)[256];
    size_t cell_count, printed, capacity;
    bool out_of_memory;
};

struct table table_begin(const struct column *columns, size_t count);
/* The next cell of the current row, printf-style, or "" for an empty one. */
void table_cell(struct table *table, const char *format, ...) TOOLS_PRINTF(2, 3);
enum outcome table_print(struct table *table, struct fault *fault);
void table_end(struct table *table);

/* Whether the terminal's character set has block characters: '#' stands in for them otherwise. */
bool output_has_blocks(void);
/* Prints `fraction` (0 to 1) of a bar `width` characters wide, padded with spaces; more than nothing always shows. */
void output_bar(double fraction, size_t width);

/* "1.5 GiB"; "1.2 T"; "1,024". Each writes into `text` and returns it. */
enum { OUTPUT_TEXT = 32 };
const char *output_bytes(char text[OUTPUT_TEXT], double bytes);
const char *output_amount(char text[OUTPUT_TEXT], double amount);
const char *output_integer(char text[OUTPUT_TEXT], uint64_t integer);

/* null where `value` is not finite. */
json_t *output_number(double value);
/* A path or name from outside: bytes that are no UTF-8 become '?'. */
json_t *output_string(const char *text);
/* Prints and releases `json`; NULL means that there was no memory to make it. */
enum outcome output_json(json_t *json, struct fault *fault);

/* A line on standard error that the next one overwrites; an empty format clears it. */
void output_progress(const char *format, ...) TOOLS_PRINTF(1, 2);

#endif
