/* SPDX-License-Identifier: Apache-2.0 */
/* route_call.c - one run of the route stage on the device, and its comparison with the model. */
#include "route_call.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The columns of the logits: R, groups, two of others, R of noise, one of others; the others are NaN. */
struct route route_make(const moecl_layer_options *options, size_t tokens)
{
    const moecl_router *router = &options->router;
    struct route route = {.options = *options, .tokens = tokens};
    route.outputs = options->experts + router->zero_experts;
    route.groups = router->score == MOECL_SCORE_HIERARCHICAL ? router->groups : 0;
    route.noise_column = route.outputs + route.groups + 2;
    route.stride = route.noise_column + route.outputs + 1;
    route.logits = make(tokens * route.stride, sizeof(float));
    for (size_t i = 0; i < tokens * route.stride; i++)
        route.logits[i] = NAN;
    for (size_t t = 0; t < tokens; t++)
        memset(route.logits + t * route.stride, 0, (route.outputs + route.groups) * sizeof(float));
    route.router_bias = make(route.outputs, sizeof(float));
    route.selection_bias = make(route.outputs, sizeof(float));
    route.expert_scale = make(route.outputs, sizeof(float));
    route.table = make(router->table_rows * options->top_k, sizeof(int32_t));
    route.token_ids = make(tokens, sizeof(int32_t));
    route.z = make(tokens * route.stride, sizeof(float));
    route.ids = make(tokens * options->top_k, sizeof(int32_t));
    route.weights = make(tokens * options->top_k, sizeof(float));
    return route;
}

void route_free(struct route *route)
{
    void *const all[] = {route->logits, route->router_bias, route->selection_bias, route->expert_scale,
                         route->table,  route->token_ids,   route->keys,           route->z,
                         route->ids,    route->weights};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        free(all[i]);
}

struct route_arrays route_upload(moecl_context *context, const struct route *route, size_t scratch_bytes)
{
    const size_t vector = route->outputs * sizeof(float), choices = route->tokens * route->options.top_k;
    const moecl_router *router = &route->options.router;
    const uint32_t zero = 0;
    return (struct route_arrays){
        .logits = array_make(context, route->tokens * route->stride * sizeof(float), route->logits),
        .router_bias = array_make(context, vector, route->router_bias),
        .selection_bias = array_make(context, vector, route->selection_bias),
        .expert_scale = array_make(context, vector, route->expert_scale),
        .table = array_make(context, router->table_rows * route->options.top_k * sizeof(int32_t), route->table),
        .token_ids = array_make(context, route->tokens * sizeof(int32_t), route->token_ids),
        .keys = array_make(context, route->keys ? route->tokens * vector : 4, route->keys),
        .scratch = array_make(context, scratch_bytes, NULL),
        .ids = array_make(context, choices * sizeof(int32_t), NULL),
        .weights = array_make(context, choices * sizeof(float), NULL),
        .flag = array_make(context, sizeof(zero), &zero),
    };
}

void route_download(moecl_context *context, struct route_arrays *arrays, struct route *route)
{
    struct array *const all[] = {&arrays->logits,       &arrays->router_bias, &arrays->selection_bias,
                                 &arrays->expert_scale, &arrays->table,       &arrays->token_ids,
                                 &arrays->keys,         &arrays->scratch,     &arrays->ids,
                                 &arrays->weights,      &arrays->flag};
    array_read(context, arrays->logits, route->z);
    array_read(context, arrays->ids, route->ids);
    array_read(context, arrays->weights, route->weights);
    array_read(context, arrays->flag, &route->flag);
    free(array_bytes(context, arrays->scratch)); /* for its guards */
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        array_release(all[i]);
}

/* A buffer where the options have it. */
static moecl_buffer where(bool there, const struct array *array)
{
    return there ? array->buffer : (moecl_buffer){0};
}

struct moecl_route_call route_call(const struct route *route, const struct route_arrays *arrays)
{
    const moecl_router *router = &route->options.router;
    const bool table = router->selection == MOECL_SELECTION_TABLE;
    return (struct moecl_route_call){
        .tokens = route->tokens,
        .first_token = route->first_token,
        .logits = arrays->logits.buffer,
        .stride = route->stride,
        .noise_column = route->noise_column,
        .router_bias = where(router->biased, &arrays->router_bias),
        .selection_bias = where(router->selection_biased, &arrays->selection_bias),
        .expert_scale = where(router->expert_scaled, &arrays->expert_scale),
        .table = where(table, &arrays->table),
        .token_ids = where(table, &arrays->token_ids),
        .keys = where(route->keys != NULL, &arrays->keys),
        .scratch = where(arrays->scratch.size > 0, &arrays->scratch),
        .noisy = route->noisy,
        .step = route->step,
        .routing = {arrays->ids.buffer, arrays->weights.buffer},
        .flag = arrays->flag.buffer,
    };
}

void route_run(moecl_context *context, struct route *route)
{
    struct moecl_route_kernels kernels;
    struct moecl_chain chain;
    ASSERT_OK(context, moecl_route_kernels_create(context, &route->options, &kernels));
    struct route_arrays arrays = route_upload(context, route, moecl_route_scratch_bytes(&kernels, route->tokens));
    const struct moecl_route_call call = route_call(route, &arrays);
    ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
    if (route->keys != NULL) /* they were made of z */
        ASSERT_OK(context, moecl_route_scores_enqueue(&kernels, &chain, &call, (moecl_buffer){0}));
    ASSERT_OK(context, moecl_chain_end(&chain, moecl_route_enqueue(&kernels, &chain, &call), NULL));
    route_download(context, &arrays, route);
    moecl_route_kernels_release(&kernels);
}

/* The model's input of token t. */
struct model_input route_input(const struct route *route, size_t t)
{
    const float *logits = route->logits + t * route->stride;
    const int32_t id = route->token_ids[t];
    const bool known = id >= 0 && (size_t)id < route->options.router.table_rows;
    return (struct model_input){
        .logits = logits,
        .group_logits = logits + route->outputs,
        .noise_logits = logits + route->noise_column,
        .router_bias = route->router_bias,
        .selection_bias = route->selection_bias,
        .expert_scale = route->expert_scale,
        .keys = route->keys ? route->keys + t * route->outputs : NULL,
        .table_row = known ? route->table + (size_t)id * route->options.top_k : NULL,
        .noisy = route->noisy,
        .step = route->step,
        .token = (uint32_t)(route->first_token + t),
    };
}

/* ------------------------------------------------------------------------------------------------ comparisons -- */

/* Ids must be the same; weights agree to the rounding of fp32, times what normalisation makes of it. */
static const double logit_tolerance = 1e-5;

static void check_token(const struct route *route, const struct model_output *expected, size_t t)
{
    const size_t k = route->options.top_k;
    const moecl_score score = route->options.router.score;
    const bool cancels = score == MOECL_SCORE_LOGIT; /* a weight is a sum that may nearly vanish */
    double most = 0;
    for (size_t j = 0; j < k; j++)
        most = fmax(most, fabs(expected->weights[j]));
    for (size_t e = 0; e < route->outputs; e++) {
        const double z = route->z[t * route->stride + e];
        if (!(z == expected->z[e] || fabs(z - expected->z[e]) <= logit_tolerance * (1 + fabs(expected->z[e]))))
            fail_msg("token %zu: z of expert %zu is %g, not %g", t, e, z, expected->z[e]);
    }
    for (size_t j = 0; j < k; j++) {
        const double weight = route->weights[t * k + j], right = expected->weights[j];
        const double tolerance =
            ROUTE_TOLERANCE * expected->condition * (fabs(right) + (cancels ? fmax(most, 0.03) : 0)) + FLT_MIN;
        if (route->ids[t * k + j] != expected->ids[j])
            fail_msg("token %zu: choice %zu is expert %d, not %d (margin %g)", t, j, (int)route->ids[t * k + j],
                     (int)expected->ids[j], expected->margin);
        if (!(weight == right || fabs(weight - right) <= tolerance))
            fail_msg("token %zu: the weight of choice %zu is %.9g, not %.9g", t, j, weight, right);
    }
}

/* Runs it and compares every token with the model. */
void route_check(moecl_context *context, struct route *route)
{
    struct model_output *expected = make(1, sizeof(*expected));
    route_run(context, route);
    for (size_t t = 0; t < route->tokens; t++) {
        const struct model_input input = route_input(route, t);
        model_route(&route->options, &input, expected);
        check_token(route, expected, t);
    }
    free(expected);
}
