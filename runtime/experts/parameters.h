/* SPDX-License-Identifier: Apache-2.0 */
/* parameters.h - the tunable parameters of a variant, and what constrains them, as data. */
#ifndef MOECL_RUNTIME_PARAMETERS_H
#define MOECL_RUNTIME_PARAMETERS_H

#include "device/context.h"

enum { MOECL_MAX_PARAMETERS = 8 };

/* A parameter takes one of a few values. */
struct moecl_parameter {
    const char *name;
    const char *about;
    unsigned values[12]; /* those it may have, rising; ends with a repetition of the last or the array's end */
    size_t value_count;
};

/* factor * (product of the parameters in a + product of those in b) <= limit. Sets are bit masks over the table. */
struct moecl_constraint {
    unsigned a, b; /* b 0: no second product */
    unsigned factor;
    enum { MOECL_LIMIT_WORK_GROUP, MOECL_LIMIT_LOCAL_MEMORY, MOECL_LIMIT_CONSTANT } limit;
    unsigned constant; /* of MOECL_LIMIT_CONSTANT */
    const char *about; /* the sentence's end: "work-items a group" */
};

struct moecl_parameter_space {
    const struct moecl_parameter *parameters;
    size_t count;
    const struct moecl_constraint *constraints;
    size_t constraint_count;
};

/* Overwrites values[] by "name=value,...", NULL or "" for none, then checks all against the space and the device.
 * MOECL_INVALID_ARGUMENT (no such name, value or form), MOECL_UNSUPPORTED (a constraint is broken). */
moecl_status moecl_parameters_read(struct moecl_context *context, const struct moecl_parameter_space *space,
                                   const char *text, unsigned *values);

#endif
