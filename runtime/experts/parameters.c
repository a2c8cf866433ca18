/* SPDX-License-Identifier: Apache-2.0 */
/* parameters.c - reading and checking a variant's tunable parameters. */
#include "parameters.h"

#include <string.h>

static bool value_allowed(const struct moecl_parameter *parameter, unsigned value)
{
    for (size_t i = 0; i < parameter->value_count; i++)
        if (parameter->values[i] == value)
            return true;
    return false;
}

static const struct moecl_parameter *find_parameter(const struct moecl_parameter_space *space, const char *name,
                                                    size_t length)
{
    for (size_t i = 0; i < space->count; i++)
        if (strlen(space->parameters[i].name) == length && strncmp(space->parameters[i].name, name, length) == 0)
            return &space->parameters[i];
    return NULL;
}

/* Reads one "name=value" that ends at `end`. */
static moecl_status read_assignment(struct moecl_context *context, const struct moecl_parameter_space *space,
                                    const char *text, const char *end, unsigned *values)
{
    moecl_status status = MOECL_OK;
    const char *equals = memchr(text, '=', (size_t)(end - text));
    if (!equals || equals + 1 == end)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "parameters: '%.*s' is not of the form name=value",
             (int)(end - text), text);
    const struct moecl_parameter *parameter = find_parameter(space, text, (size_t)(equals - text));
    if (!parameter)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "parameters: the variant has no parameter '%.*s'",
             (int)(equals - text), text);
    unsigned value = 0;
    for (const char *digit = equals + 1; digit < end; digit++) {
        if (*digit < '0' || *digit > '9' || value > 100000)
            FAIL(&context->error, MOECL_INVALID_ARGUMENT, "parameters: '%.*s' is not a small number",
                 (int)(end - equals - 1), equals + 1);
        value = value * 10 + (unsigned)(*digit - '0');
    }
    if (!value_allowed(parameter, value))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "parameters: %s cannot be %u", parameter->name, value);
    values[parameter - space->parameters] = value;
out:
    return status;
}

static uint64_t product(unsigned set, const unsigned *values)
{
    uint64_t result = set ? 1 : 0;
    for (unsigned i = 0; i < MOECL_MAX_PARAMETERS; i++)
        if (set & (1u << i))
            result *= values[i];
    return result;
}

static moecl_status check_constraints(struct moecl_context *context, const struct moecl_parameter_space *space,
                                      const unsigned *values)
{
    moecl_status status = MOECL_OK;
    for (size_t i = 0; i < space->constraint_count; i++) {
        const struct moecl_constraint *constraint = &space->constraints[i];
        const uint64_t needed = constraint->factor * (product(constraint->a, values) + product(constraint->b, values));
        const uint64_t limit = constraint->limit == MOECL_LIMIT_WORK_GROUP     ? context->info.max_work_group
                               : constraint->limit == MOECL_LIMIT_LOCAL_MEMORY ? context->info.local_memory
                                                                               : constraint->constant;
        if (needed > limit)
            FAIL(&context->error, MOECL_UNSUPPORTED, "parameters: they need %llu %s, the limit is %llu",
                 (unsigned long long)needed, constraint->about, (unsigned long long)limit);
    }
out:
    return status;
}

moecl_status moecl_parameters_read(struct moecl_context *context, const struct moecl_parameter_space *space,
                                   const char *text, unsigned *values)
{
    moecl_status status = MOECL_OK;
    while (text && *text) {
        const char *end = strchr(text, ',');
        if (!end)
            end = text + strlen(text);
        TRY(read_assignment(context, space, text, end, values));
        text = *end ? end + 1 : end;
    }
    TRY(check_constraints(context, space, values));
out:
    return status;
}
