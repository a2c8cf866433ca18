/* SPDX-License-Identifier: Apache-2.0 */
/* command.h - what a subcommand is: one row of main.c's table, defined in the file of its name. */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include "fault.h"
#include "options.h"

struct command {
    const char *name;
    const char *summary;  /* one line, for the list of commands */
    const char *details;  /* paragraphs for --help, after the options; "" for none */
    const char *examples; /* lines for --help */

    const struct option *options; /* its own; the common ones are added */
    size_t option_count;
    const void *defaults; /* a struct that begins with struct common_options; `size` bytes */
    size_t size;

    /* Runs with the options parsed into a copy of `defaults`. */
    enum outcome (*run)(const void *options, struct fault *fault);
};

extern const struct command command_devices;
extern const struct command command_inspect;
extern const struct command command_run;
extern const struct command command_verify;
extern const struct command command_bench;

#endif
