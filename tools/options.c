/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - table-driven option parsing and usage. */
#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

static const struct option common_table[] = {
    {"device", "SPEC", option_text, offsetof(struct common_options, device), false,
     "the OpenCL device: its number P:D, or a part of its name\n"
     "(default: $MOECL_DEVICE, else the first GPU, accelerator or CPU)"},
    {"json", NULL, option_flag, offsetof(struct common_options, json), false, "print JSON, for programs"},
};
enum { COMMON_COUNT = sizeof(common_table) / sizeof(common_table[0]), ROWS_MAX = 32 };

/* The command's options, then the common ones; NULL past the last. */
static const struct option *row(const struct command *command, size_t index)
{
    if (index < command->option_count)
        return &command->options[index];
    index -= command->option_count;
    return index < COMMON_COUNT ? &common_table[index] : NULL;
}

/* ------------------------------------------------------------------------------------------------- parsers -- */

enum outcome option_refuse(const struct option *option, const char *text, const char *wanted, struct fault *fault)
{
    return fault_set(fault, OUTCOME_WRONG_USE, "--%s takes %s, not '%s'", option->name, wanted, text);
}

enum outcome option_word(const struct option *option, const char *text, const char *const *words, int *index,
                         struct fault *fault)
{
    char wanted[256] = "";
    for (int i = 0; words[i]; i++) {
        if (strcmp(text, words[i]) == 0) {
            *index = i;
            return OUTCOME_SUCCESS;
        }
        const char *between = i == 0 ? "" : words[i + 1] ? ", " : " or ";
        size_t length = strlen(wanted);
        snprintf(wanted + length, sizeof(wanted) - length, "%s%s", between, words[i]);
    }
    return option_refuse(option, text, wanted, fault);
}

bool option_number(const char *text, size_t length, uint64_t largest, uint64_t *number)
{
    uint64_t value = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (value > (largest - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *number = value;
    return length > 0;
}

enum outcome option_flag(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    (void)option, (void)text, (void)fault;
    *(bool *)destination = true;
    return OUTCOME_SUCCESS;
}

enum outcome option_text(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    if (text[0] == '\0')
        return fault_set(fault, OUTCOME_WRONG_USE, "%s%s may not be empty", option->name ? "--" : "",
                         option->name ? option->name : option->argument);
    *(const char **)destination = text;
    return OUTCOME_SUCCESS;
}

enum outcome option_size(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    uint64_t number = 0;
    if (!option_number(text, strlen(text), SIZE_MAX / 2, &number))
        return option_refuse(option, text, "a whole number", fault);
    *(size_t *)destination = (size_t)number;
    return OUTCOME_SUCCESS;
}

enum outcome option_seed(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    if (!option_number(text, strlen(text), INT64_MAX, (uint64_t *)destination))
        return option_refuse(option, text, "a whole number below 2^63", fault);
    return OUTCOME_SUCCESS;
}

enum outcome option_real(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (strspn(text, "0123456789.eE+-") != strlen(text) || end == text || *end != '\0' || !isfinite(value) || value < 0)
        return option_refuse(option, text, "a number that is not negative", fault);
    *(double *)destination = value;
    return OUTCOME_SUCCESS;
}

enum outcome option_type(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    moecl_type type;
    if (!moecl_type_from_name(text, &type))
        return option_refuse(option, text, "f32, f16 or bf16", fault);
    *(int *)destination = (int)type;
    return OUTCOME_SUCCESS;
}

enum outcome option_variant(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    const char *words[OPTION_LIST_CAPACITY] = {NULL};
    for (size_t i = 0; i + 1 < OPTION_LIST_CAPACITY && moecl_variant_name(i); i++)
        words[i] = moecl_variant_name(i);
    int index = 0;
    enum outcome outcome = option_word(option, text, words, &index, fault);
    if (outcome == OUTCOME_SUCCESS)
        *(const char **)destination = words[index];
    return outcome;
}

/* Parses the items of a comma-separated list, each by `parse` into an element of `size` bytes. */
static enum outcome parse_list(const struct option *option, const char *text, option_parser *parse, void *items,
                               size_t size, size_t *count, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    for (*count = 0; outcome == OUTCOME_SUCCESS; (*count)++) {
        char item[64];
        size_t length = strcspn(text, ",");
        if (*count == OPTION_LIST_CAPACITY)
            return fault_set(fault, OUTCOME_WRONG_USE, "--%s takes at most %d items", option->name,
                             OPTION_LIST_CAPACITY);
        snprintf(item, sizeof(item), "%.*s", length > 63 ? 63 : (int)length, text);
        outcome = parse(option, item, (char *)items + *count * size, fault);
        if (text[length] == '\0') {
            (*count)++;
            return outcome;
        }
        text += length + 1;
    }
    return outcome;
}

enum outcome option_types(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    struct type_list *list = destination;
    return parse_list(option, text, option_type, list->items, sizeof(list->items[0]), &list->count, fault);
}

enum outcome option_sizes(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    struct size_list *list = destination;
    return parse_list(option, text, option_size, list->items, sizeof(list->items[0]), &list->count, fault);
}

enum outcome option_variants(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    struct variant_list *list = destination;
    return parse_list(option, text, option_variant, list->items, sizeof(list->items[0]), &list->count, fault);
}

/* ------------------------------------------------------------------------------------------- a command line -- */

/* The index of the option called name[0..length-1] (NULL: the positional one), or of none: that past the last. */
static size_t find(const struct command *command, const char *name, size_t length)
{
    size_t index = 0;
    for (const struct option *option; (option = row(command, index)); index++) {
        if (name ? option->name && strlen(option->name) == length && memcmp(option->name, name, length) == 0
                 : !option->name)
            break;
    }
    return index;
}

/* Parses the argument at *position, and the next one where that is its value; moves *position past them. */
static enum outcome parse_argument(const struct command *command, int count, char **arguments, int *position,
                                   bool *seen, void *options, struct fault *fault)
{
    const char *argument = arguments[(*position)++];
    bool positional = argument[0] != '-' || argument[1] == '\0';
    const char *name = positional ? NULL : argument + 2;
    if (!positional && argument[1] != '-')
        return fault_set(fault, OUTCOME_WRONG_USE, "unknown option '%s'", argument);
    size_t length = positional ? 0 : strcspn(name, "=");
    size_t index = find(command, name, length);
    const struct option *option = row(command, index);
    if (!option && positional)
        return fault_set(fault, OUTCOME_WRONG_USE, "unexpected argument '%s'", argument);
    if (!option)
        return fault_set(fault, OUTCOME_WRONG_USE, "unknown option '--%.*s'", (int)length, name);
    if (seen[index] && positional)
        return fault_set(fault, OUTCOME_WRONG_USE, "one %s is enough: unexpected '%s'", option->argument, argument);
    if (seen[index])
        return fault_set(fault, OUTCOME_WRONG_USE, "--%s is given twice", option->name);
    seen[index] = true;

    const char *value = positional ? argument : name[length] == '=' ? name + length + 1 : NULL;
    if (!option->argument && value)
        return fault_set(fault, OUTCOME_WRONG_USE, "--%s takes no value", option->name);
    if (option->argument && !value) {
        if (*position == count || strncmp(arguments[*position], "--", 2) == 0)
            return fault_set(fault, OUTCOME_WRONG_USE, "--%s needs a value, %s", option->name, option->argument);
        value = arguments[(*position)++];
    }
    return option->parse(option, value, (char *)options + option->offset, fault);
}

enum outcome options_parse(const struct command *command, int count, char **arguments, void *options, bool *help,
                           struct fault *fault)
{
    bool seen[ROWS_MAX] = {false};
    enum outcome outcome = OUTCOME_SUCCESS;
    *help = false;
    for (int i = 0; i < count && !*help; i++)
        *help = strcmp(arguments[i], "--help") == 0 || strcmp(arguments[i], "-h") == 0;
    if (*help)
        return OUTCOME_SUCCESS;

    for (int position = 0; position < count && outcome == OUTCOME_SUCCESS;)
        outcome = parse_argument(command, count, arguments, &position, seen, options, fault);
    const struct option *option;
    for (size_t i = 0; outcome == OUTCOME_SUCCESS && (option = row(command, i)); i++) {
        if (option->required && !seen[i])
            outcome = fault_set(fault, OUTCOME_WRONG_USE, "%s%s is missing", option->name ? "--" : "",
                                option->name ? option->name : option->argument);
    }
    if (outcome != OUTCOME_SUCCESS)
        fault_hint(fault, outcome, "try 'moecl %s --help'", command->name);
    return outcome;
}

/* --------------------------------------------------------------------------------------------------- usage -- */

static void print_option(const struct option *option, FILE *stream)
{
    char left[64];
    if (!option->name)
        snprintf(left, sizeof(left), "%s", option->argument);
    else
        snprintf(left, sizeof(left), "--%s%s%s", option->name, option->argument ? " " : "",
                 option->argument ? option->argument : "");
    fprintf(stream, "  %-26s", left);
    for (const char *line = option->help; line;) {
        size_t length = strcspn(line, "\n");
        fprintf(stream, "%.*s\n", (int)length, line);
        line = line[length] ? line + length + 1 : NULL;
        if (line)
            fprintf(stream, "  %-26s", "");
    }
}

void options_print_help(const struct command *command, FILE *stream)
{
    const struct option *option;
    fprintf(stream, "moecl %s - %s\n\nUsage: moecl %s", command->name, command->summary, command->name);
    for (size_t i = 0; (option = row(command, i)); i++) {
        if (!option->name)
            fprintf(stream, option->required ? " %s" : " [%s]", option->argument);
        else if (option->required)
            fprintf(stream, " --%s %s", option->name, option->argument);
    }
    fprintf(stream, " [options]\n\n");
    for (size_t i = 0; (option = row(command, i)); i++)
        print_option(option, stream);
    fprintf(stream, "  %-26s%s\n", "--help", "print this");
    if (command->details[0])
        fprintf(stream, "\n%s\n", command->details);
    fprintf(stream, "\nExamples:\n%s\n", command->examples);
}
