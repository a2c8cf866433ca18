/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - the one option parser: each command's options are a table, from which its usage is printed too. */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include <stdio.h>

#include "fault.h"

struct command;
struct option;

/* Parses `text` into `destination`; OUTCOME_WRONG_USE with a sentence where it is malformed. */
typedef enum outcome option_parser(const struct option *option, const char *text, void *destination,
                                   struct fault *fault);

struct option {
    const char *name;     /* "layer" is --layer; NULL: the positional argument */
    const char *argument; /* what usage calls its value, "N"; NULL: a flag */
    option_parser *parse;
    size_t offset; /* of the destination in the command's options */
    bool required;
    const char *help; /* later lines after '\n' */
};

/* What every command takes; the first member of its options. */
struct common_options {
    const char *device; /* NULL: the default */
    bool json;
};

/* The row of commands that open a model; `type` is their options', with a member `family`. */
#define OPTION_FAMILY(type)                                                                                            \
    {                                                                                                                  \
        "family", "FILE", option_text, offsetof(type, family), false,                                                  \
            "what the model's config.json and tensors mean, as JSON\n(default: the family of its model_type)"          \
    }

/* The parsers, and what each stores. Numbers are plain decimals without sign. */
option_parser option_flag;     /* bool */
option_parser option_text;     /* const char *, borrowed from argv; not empty */
option_parser option_size;     /* size_t */
option_parser option_seed;     /* uint64_t */
option_parser option_real;     /* double, finite and >= 0 */
option_parser option_type;     /* int: a moecl_type */
option_parser option_types;    /* struct type_list */
option_parser option_sizes;    /* struct size_list */
option_parser option_variant;  /* const char *: one of moecl_variant_name() */
option_parser option_variants; /* struct variant_list */

enum { OPTION_LIST_CAPACITY = 32, OPTION_NO_TYPE = -1 };
struct type_list {
    size_t count;
    moecl_type items[OPTION_LIST_CAPACITY];
};
struct size_list {
    size_t count;
    size_t items[OPTION_LIST_CAPACITY];
};
struct variant_list {
    size_t count;
    const char *items[OPTION_LIST_CAPACITY];
};

/* For parsers of a command's own: "--tokens takes WANTED, not 'text'". */
enum outcome option_refuse(const struct option *option, const char *text, const char *wanted, struct fault *fault);
/* Reads one of `words` (ends with NULL) and stores its index. */
enum outcome option_word(const struct option *option, const char *text, const char *const *words, int *index,
                         struct fault *fault);
/* Reads `text` as one whole number. */
bool option_number(const char *text, size_t length, uint64_t largest, uint64_t *number);

/* Parses `count` arguments into `options`, which holds the defaults. *help tells that --help was among them; nothing
 * else was then looked at. */
enum outcome options_parse(const struct command *command, int count, char **arguments, void *options, bool *help,
                           struct fault *fault);
void options_print_help(const struct command *command, FILE *stream);

#endif
