/* SPDX-License-Identifier: Apache-2.0 */
/* choice.c - what depends on all tokens of a pass: expert choice, Sinkhorn keys, capacity. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device/error.h"
#include "device/memory.h"
#include "parts.h"
#include "router.h"
#include "stages/capacity.h"

/* A number and where it comes from; larger ones go first, ties to the lower index. */
struct ranked {
    double value;
    size_t index;
};

static int by_falling_value(const void *first, const void *second)
{
    const struct ranked *a = first, *b = second;
    if (a->value != b->value)
        return a->value > b->value ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

/* ------------------------------------------------------------------------------------------ expert choice -- */

size_t moecl_reference_taken(const moecl_layer_options *options, size_t tokens)
{
    size_t taken = moecl_divide_up(tokens * options->top_k, options->experts);
    return taken < tokens ? taken : tokens;
}

moecl_status moecl_reference_expert_choice(const struct moecl_reference_router *router, const double *keys,
                                           size_t tokens, int32_t *ids)
{
    const size_t experts = router->outputs, taken = moecl_reference_taken(router->options, tokens);
    struct ranked *ranked = moecl_allocate(tokens, sizeof(*ranked));
    if (ranked == NULL)
        return MOECL_OUT_OF_HOST_MEMORY;
    for (size_t e = 0; e < experts; e++) {
        for (size_t t = 0; t < tokens; t++) {
            ranked[t] = (struct ranked){keys[t * experts + e], t};
            ids[t * experts + e] = -1;
        }
        qsort(ranked, tokens, sizeof(*ranked), by_falling_value);
        for (size_t i = 0; i < taken; i++)
            ids[ranked[i].index * experts + e] = (int32_t)e;
    }
    moecl_free(ranked);
    return MOECL_OK;
}

/* ------------------------------------------------------------------------------------------------ Sinkhorn -- */

/* keys[t][e] = exp(z - the row's largest), 0 where masked */
static void exponentials(const struct moecl_reference_router *router, const double *logits, size_t tokens, double *keys)
{
    for (size_t t = 0; t < tokens; t++) {
        const double *z = &logits[t * router->columns];
        double largest = -INFINITY;
        for (size_t e = 0; e < router->outputs; e++)
            largest = fmax(largest, z[e]);
        for (size_t e = 0; e < router->outputs; e++)
            keys[t * router->outputs + e] = moecl_reference_is_masked(z[e]) ? 0 : exp(z[e] - largest);
    }
}

/* rows[t] = 1 / (T (sum_e columns[e] keys[t][e] + epsilon)), then the columns likewise */
static void balance(const double *keys, size_t tokens, size_t outputs, double *rows, double *columns, double *sums)
{
    const double epsilon = 1e-8;
    memset(sums, 0, outputs * sizeof(*sums));
    for (size_t t = 0; t < tokens; t++) {
        const double *key = &keys[t * outputs];
        rows[t] = 1 / ((double)tokens * (moecl_reference_inner_product(columns, key, outputs) + epsilon));
        for (size_t e = 0; e < outputs; e++)
            sums[e] += rows[t] * key[e];
    }
    for (size_t e = 0; e < outputs; e++)
        columns[e] = 1 / ((double)outputs * (sums[e] + epsilon));
}

moecl_status moecl_reference_sinkhorn(const struct moecl_reference_router *router, const double *logits, size_t tokens,
                                      double *keys)
{
    moecl_status status = MOECL_OK;
    const size_t outputs = router->outputs, asked = router->options->router.sinkhorn_iterations;
    double *rows = moecl_reference_doubles(1, tokens), *columns = moecl_reference_doubles(2, outputs);
    if (rows == NULL || columns == NULL)
        TRY(MOECL_OUT_OF_HOST_MEMORY);
    exponentials(router, logits, tokens, keys);
    for (size_t e = 0; e < outputs; e++)
        columns[e] = 1;
    for (size_t i = 0; i < (asked > 0 ? asked : 10); i++)
        balance(keys, tokens, outputs, rows, columns, columns + outputs);
    for (size_t t = 0; t < tokens; t++)
        for (size_t e = 0; e < outputs; e++) {
            double *key = &keys[t * outputs + e];
            *key = moecl_reference_is_masked(logits[t * router->columns + e]) ? -INFINITY : columns[e] * *key * rows[t];
        }
out:
    moecl_free(rows);
    moecl_free(columns);
    return status;
}

/* ------------------------------------------------------------------------------------------------ capacity -- */

size_t moecl_reference_capacity(const moecl_layer_options *options, size_t tokens)
{
    if (options->router.capacity.kind == MOECL_CAPACITY_NONE)
        return SIZE_MAX;
    return moecl_capacity_rows(&options->router.capacity, tokens, options->top_k, options->experts);
}

/* The assignments in the order in which they have their expert's room. */
static void order(const struct moecl_reference_router *router, size_t tokens, const double *weights,
                  struct ranked *ranked)
{
    const size_t slots = router->slots;
    for (size_t t = 0; t < tokens; t++)
        for (size_t j = 0; j < slots; j++) {
            size_t at = t * slots + j;
            if (router->options->router.capacity.order == MOECL_CAPACITY_ORDER_CHOICE)
                ranked[j * tokens + t] = (struct ranked){0, at};
            else
                ranked[at] = (struct ranked){weights[at], at};
        }
    if (router->options->router.capacity.order == MOECL_CAPACITY_ORDER_PROBABILITY)
        qsort(ranked, tokens * slots, sizeof(*ranked), by_falling_value);
}

moecl_status moecl_reference_drop(const struct moecl_reference_router *router, size_t tokens, int32_t *ids,
                                  double *weights)
{
    moecl_status status = MOECL_OK;
    const size_t experts = router->options->experts, count = tokens * router->slots;
    const size_t room = moecl_reference_capacity(router->options, tokens);
    struct ranked *ranked = moecl_allocate(count, sizeof(*ranked));
    size_t *taken = moecl_allocate(experts, sizeof(*taken));
    if (ranked == NULL || taken == NULL)
        TRY(MOECL_OUT_OF_HOST_MEMORY);
    order(router, tokens, weights, ranked);
    for (size_t i = 0; i < count; i++) {
        size_t at = ranked[i].index;
        if (ids[at] < 0 || (size_t)ids[at] >= experts || taken[ids[at]]++ < room)
            continue;
        ids[at] = -1;
        weights[at] = 0;
    }
out:
    moecl_free(ranked);
    moecl_free(taken);
    return status;
}
