/* SPDX-License-Identifier: Apache-2.0 */
/* fault.h - how a command ends: an exit status, and for a failure one sentence and perhaps a hint.
 *
 * A function that can fail takes a `struct fault *fault`, declares `enum outcome outcome = OUTCOME_SUCCESS;`, uses the
 * macros below and ends in a label `out:` that releases what it holds. main() alone prints the sentence. */
#ifndef TOOLS_FAULT_H
#define TOOLS_FAULT_H

#include <moecl/moecl.h>

/* The exit statuses. */
enum outcome {
    OUTCOME_SUCCESS = 0,
    OUTCOME_CHECK_FAILED = 1, /* everything ran, and what was to be checked does not hold */
    OUTCOME_WRONG_USE = 2,    /* the command line is wrong */
    OUTCOME_ERROR = 3         /* a device or a file failed */
};

struct fault {
    char sentence[2560]; /* without the program's name; "" where there is nothing to say */
    char hint[512];      /* what to try next; "" for none */
};

#if defined(__GNUC__)
#define TOOLS_PRINTF(position, first) __attribute__((format(printf, position, first)))
#else
#define TOOLS_PRINTF(position, first)
#endif

/* Sets the sentence, clears the hint, returns `outcome`. A NULL fault is for who asks about the outcome alone. */
enum outcome fault_set(struct fault *fault, enum outcome outcome, const char *format, ...) TOOLS_PRINTF(3, 4);
/* Adds a hint to the sentence just set; returns `outcome`. */
enum outcome fault_hint(struct fault *fault, enum outcome outcome, const char *format, ...) TOOLS_PRINTF(3, 4);
/* The outcome of a library call: its sentence is the context's, its hint goes by the status. */
enum outcome fault_moecl(struct fault *fault, const moecl_context *context, moecl_status status);
enum outcome fault_memory(struct fault *fault, const char *what);

#define TRY(expression)                                                                                                \
    do {                                                                                                               \
        outcome = (expression);                                                                                        \
        if (outcome != OUTCOME_SUCCESS)                                                                                \
            goto out;                                                                                                  \
    } while (0)

#define TRY_MOECL(context, call) TRY(fault_moecl(fault, (context), (call)))

#define FAIL(failure, ...)                                                                                             \
    do {                                                                                                               \
        outcome = fault_set(fault, (failure), __VA_ARGS__);                                                            \
        goto out;                                                                                                      \
    } while (0)

#endif
