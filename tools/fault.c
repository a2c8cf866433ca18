/* SPDX-License-Identifier: Apache-2.0 */
/* fault.c - sentences, hints and exit statuses. */
#include "fault.h"

#include <stdarg.h>
#include <stdio.h>

enum outcome fault_set(struct fault *fault, enum outcome outcome, const char *format, ...)
{
    if (!fault)
        return outcome;
    fault->hint[0] = '\0';
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fault->sentence, sizeof(fault->sentence), format, arguments);
    va_end(arguments);
    return outcome;
}

enum outcome fault_hint(struct fault *fault, enum outcome outcome, const char *format, ...)
{
    if (!fault)
        return outcome;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fault->hint, sizeof(fault->hint), format, arguments);
    va_end(arguments);
    return outcome;
}

/* What the statuses mean for a command; all others are OUTCOME_ERROR without a hint. */
static const struct {
    moecl_status status;
    enum outcome outcome;
    const char *hint;
} meanings[] = {
    {MOECL_INVALID_ARGUMENT, OUTCOME_WRONG_USE, ""},
    {MOECL_NO_PLATFORM, OUTCOME_ERROR,
     "install an OpenCL implementation: the GPU vendor's driver, or PoCL for the CPU (Debian: pocl-opencl-icd)"},
    {MOECL_NO_DEVICE, OUTCOME_ERROR, "'moecl devices' lists what there is"},
    {MOECL_AMBIGUOUS_DEVICE, OUTCOME_ERROR, "name one by its number P:D, as 'moecl devices' lists them"},
    {MOECL_DEVICE_TOO_SMALL, OUTCOME_ERROR, "'moecl devices' shows the memory of each device"},
    {MOECL_OUT_OF_DEVICE_MEMORY, OUTCOME_ERROR, "'moecl devices' shows the memory of each device"},
};

enum outcome fault_moecl(struct fault *fault, const moecl_context *context, moecl_status status)
{
    if (status == MOECL_OK)
        return OUTCOME_SUCCESS;
    const char *sentence = moecl_context_error(context);
    if (sentence[0] == '\0')
        sentence = moecl_status_message(status);
    for (size_t i = 0; i < sizeof(meanings) / sizeof(meanings[0]); i++) {
        if (meanings[i].status == status) {
            fault_set(fault, meanings[i].outcome, "%s", sentence);
            return fault_hint(fault, meanings[i].outcome, "%s", meanings[i].hint);
        }
    }
    return fault_set(fault, OUTCOME_ERROR, "%s", sentence);
}

enum outcome fault_memory(struct fault *fault, const char *what)
{
    return fault_set(fault, OUTCOME_ERROR, "the host is out of memory for %s", what);
}
