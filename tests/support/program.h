/* SPDX-License-Identifier: Apache-2.0 */
/* program.h - running a program and looking at how it ended and what it said. */
#ifndef MOECL_TEST_PROGRAM_H
#define MOECL_TEST_PROGRAM_H

struct program_result {
    int status; /* the exit status; 128 + the number of the signal that ended it */
    char *output, *error;
};

/* Runs `arguments` (the first is the program's path, NULL ends them). Its standard output goes to the file `output`,
 * or into the result where that is NULL. */
struct program_result program_run(const char *const *arguments, const char *output);
void program_result_free(struct program_result *result);

#endif
