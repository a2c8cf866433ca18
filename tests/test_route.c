/* SPDX-License-Identifier: Apache-2.0 */
/* test_route.c - the route stage: random routers of the whole grammar against a model in double precision, and what
 * happens at the edges. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "random.h"
#include "router_model.h"
#include "stages/flag.h"
#include "stages/route.h"

/* ----------------------------------------------------------------------------------------------- a route call -- */

/* A router, what it is given of some tokens, and what came of it. */
struct route {
    moecl_layer_options options;
    size_t outputs, groups; /* R; group logits */
    size_t tokens, first_token, stride, noise_column;
    float *logits; /* [tokens,stride] */
    float *router_bias, *selection_bias, *expert_scale;
    int32_t *table, *token_ids;
    float *keys; /* NULL: none */
    bool noisy;
    uint64_t step;
    float *z; /* [tokens,stride], afterwards */
    int32_t *ids;
    float *weights;
    uint32_t flag;
};

/* The columns of the logits: R, groups, two of others, R of noise, one of others; the others are NaN. */
static struct route route_make(const moecl_layer_options *options, size_t tokens)
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

static void route_free(struct route *route)
{
    void *const all[] = {route->logits, route->router_bias, route->selection_bias, route->expert_scale,
                         route->table,  route->token_ids,   route->keys,           route->z,
                         route->ids,    route->weights};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        free(all[i]);
}

/* What lies on the device meanwhile. */
struct arrays {
    struct array logits, router_bias, selection_bias, expert_scale, table, token_ids, keys, scratch, ids, weights, flag;
};

static struct arrays upload(moecl_context *context, const struct route *route, size_t scratch_bytes)
{
    const size_t vector = route->outputs * sizeof(float), choices = route->tokens * route->options.top_k;
    const moecl_router *router = &route->options.router;
    const uint32_t zero = 0;
    return (struct arrays){
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

static void download(moecl_context *context, struct arrays *arrays, struct route *route)
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

static void route_run(moecl_context *context, struct route *route)
{
    const moecl_router *router = &route->options.router;
    const bool table = router->selection == MOECL_SELECTION_TABLE;
    struct moecl_route_kernels kernels;
    struct moecl_chain chain;
    ASSERT_OK(context, moecl_route_kernels_create(context, &route->options, &kernels));
    const size_t scratch_bytes = moecl_route_scratch_bytes(&kernels, route->tokens);
    struct arrays arrays = upload(context, route, scratch_bytes);
    const struct moecl_route_call call = {
        .tokens = route->tokens,
        .first_token = route->first_token,
        .logits = arrays.logits.buffer,
        .stride = route->stride,
        .noise_column = route->noise_column,
        .router_bias = where(router->biased, &arrays.router_bias),
        .selection_bias = where(router->selection_biased, &arrays.selection_bias),
        .expert_scale = where(router->expert_scaled, &arrays.expert_scale),
        .table = where(table, &arrays.table),
        .token_ids = where(table, &arrays.token_ids),
        .keys = where(route->keys != NULL, &arrays.keys),
        .scratch = where(scratch_bytes > 0, &arrays.scratch),
        .noisy = route->noisy,
        .step = route->step,
        .routing = {arrays.ids.buffer, arrays.weights.buffer},
        .flag = arrays.flag.buffer,
    };
    ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
    if (route->keys != NULL) /* they were made of z */
        ASSERT_OK(context, moecl_route_scores_enqueue(&kernels, &chain, &call, (moecl_buffer){0}));
    ASSERT_OK(context, moecl_chain_end(&chain, moecl_route_enqueue(&kernels, &chain, &call), NULL));
    download(context, &arrays, route);
    moecl_route_kernels_release(&kernels);
}

/* The model's input of token t. */
static struct model_input input_of(const struct route *route, size_t t)
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
static const double weight_tolerance = 3e-5, logit_tolerance = 1e-5;

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
            weight_tolerance * expected->condition * (fabs(right) + (cancels ? fmax(most, 0.03) : 0)) + FLT_MIN;
        if (route->ids[t * k + j] != expected->ids[j])
            fail_msg("token %zu: choice %zu is expert %d, not %d (margin %g)", t, j, (int)route->ids[t * k + j],
                     (int)expected->ids[j], expected->margin);
        if (!(weight == right || fabs(weight - right) <= tolerance))
            fail_msg("token %zu: the weight of choice %zu is %.9g, not %.9g", t, j, weight, right);
    }
}

/* Runs it and compares every token with the model. */
static void check_route(moecl_context *context, struct route *route)
{
    struct model_output *expected = make(1, sizeof(*expected));
    route_run(context, route);
    for (size_t t = 0; t < route->tokens; t++) {
        const struct model_input input = input_of(route, t);
        model_route(&route->options, &input, expected);
        check_token(route, expected, t);
    }
    free(expected);
}

/* --------------------------------------------------------------------------------------------- random routers -- */

static bool one_in(uint64_t *seed, size_t n)
{
    return random_between(seed, 1, n) == 1;
}

static float pick(uint64_t *seed, const float *values, size_t count)
{
    return values[random_between(seed, 0, count - 1)];
}
#define PICK(seed, ...) pick((seed), (const float[]){__VA_ARGS__}, sizeof((const float[]){__VA_ARGS__}) / sizeof(float))

static void random_selection(uint64_t *seed, size_t groups, moecl_layer_options *options)
{
    moecl_router *router = &options->router;
    router->selection = one_in(seed, 8)   ? MOECL_SELECTION_TABLE
                        : one_in(seed, 8) ? MOECL_SELECTION_SINKHORN
                                          : MOECL_SELECTION_TOP_K;
    if (router->selection == MOECL_SELECTION_TABLE)
        router->table_rows = random_between(seed, 1, 20);
    router->selection_biased = one_in(seed, 3);
    if (groups > 1 || router->score == MOECL_SCORE_HIERARCHICAL) {
        router->groups = groups;
        router->top_groups = random_between(seed, 1, groups);
        router->group_score = (moecl_group_score)random_between(seed, 0, 1);
        router->group_mask = (moecl_group_mask)random_between(seed, 0, 1);
    }
    router->top_p = one_in(seed, 4) ? PICK(seed, 0.213f, 0.617f, 0.953f) : 0;
    router->threshold = one_in(seed, 4) ? PICK(seed, 0.0217f, 0.213f, 0.617f) : 0;
}

static moecl_layer_options random_options(uint64_t *seed)
{
    const bool large = one_in(seed, 12) && !small_sizes();
    const size_t most = large ? MOECL_MAX_EXPERTS : small_sizes() ? 20 : 70;
    const size_t groups = one_in(seed, 2) ? 1 : random_between(seed, 2, 8);
    const size_t outputs = groups * random_between(seed, 1, most / groups);
    moecl_layer_options options = {.hidden = 1, .intermediate = 1};
    moecl_router *router = &options.router;
    router->zero_experts = outputs > 1 && one_in(seed, 4) ? random_between(seed, 1, outputs - 1) : 0;
    options.experts = outputs - router->zero_experts;
    options.top_k = random_between(seed, 1, outputs < MOECL_MAX_TOP_K ? outputs : MOECL_MAX_TOP_K);
    if (one_in(seed, 2) && options.top_k > 8)
        options.top_k = random_between(seed, 1, 8);

    router->score = (moecl_score)random_between(seed, 0, 5);
    router->biased = one_in(seed, 3);
    router->softcap = one_in(seed, 5) ? PICK(seed, 3, 30) : 0;
    router->jitter = PICK(seed, 0, 0.01f, 0.25f);
    random_selection(seed, groups, &options);
    router->weight = one_in(seed, 2) ? MOECL_WEIGHT_SCORE : (moecl_weight)random_between(seed, 0, 3);
    router->normalisation = (moecl_normalisation)random_between(seed, 0, 3);
    router->epsilon = PICK(seed, 0, 1e-20f, 1e-12f, 1e-6f, 0.1f);
    router->power = PICK(seed, 1, 2, 3);
    router->scale = PICK(seed, 0, 1, 2.5f);
    router->expert_scaled = one_in(seed, 4);
    if (one_in(seed, 6))
        router->capacity = (moecl_capacity){MOECL_CAPACITY_FIXED, 1, MOECL_CAPACITY_ORDER_POSITION, one_in(seed, 2)};
    router->noise = one_in(seed, 4);
    router->random_second = one_in(seed, 4);
    router->seed = random_between(seed, 0, SIZE_MAX - 1);
    return options;
}

/* Ties come of logits that are whole numbers, masks of -infinity. Spreads that make probabilities vanish are for
 * routers that need not look at them. */
struct logit_kind {
    double deviation;
    bool whole, masked;
};

static void random_logits(uint64_t *seed, const struct logit_kind *kind, const struct route *route, float *logits)
{
    random_fill(seed, kind->deviation, logits, route->outputs + route->groups);
    random_fill(seed, 1, logits + route->noise_column, route->outputs);
    for (size_t e = 0; e < route->outputs + route->groups; e++) {
        if (kind->whole)
            logits[e] = rintf(logits[e]);
        if (kind->masked && one_in(seed, 4))
            logits[e] = -INFINITY;
    }
}

static void describe(const struct route *route)
{
    const moecl_router *r = &route->options.router;
    print_message("           E %zu + %zu, k %zu, T %zu, %s, %s, groups %zu of %zu (%s, %s), bias %d %d, "
                  "top_p %g, threshold %g, weight %s, %s, noisy %d (%d %d), softcap %g, jitter %g\n",
                  route->options.experts, r->zero_experts, route->options.top_k, route->tokens,
                  moecl_choice_name(MOECL_CHOICE_SCORE, r->score),
                  moecl_choice_name(MOECL_CHOICE_SELECTION, r->selection), r->top_groups, r->groups,
                  moecl_choice_name(MOECL_CHOICE_GROUP_SCORE, r->group_score),
                  moecl_choice_name(MOECL_CHOICE_GROUP_MASK, r->group_mask), r->biased, r->selection_biased,
                  (double)r->top_p, (double)r->threshold, moecl_choice_name(MOECL_CHOICE_WEIGHT, r->weight),
                  moecl_choice_name(MOECL_CHOICE_NORMALISATION, r->normalisation), route->noisy, r->noise,
                  r->random_second, (double)r->softcap, (double)r->jitter);
}

/* Logits and keys of token t that are not too near to another choice. */
static void draw_token(uint64_t *seed, const struct logit_kind *kind, struct route *route, size_t t)
{
    static const double margin = 1e-5, condition = 100;
    struct model_output *output = make(1, sizeof(*output));
    size_t tries = 0;
    do {
        if (tries++ == 100) {
            describe(route);
            fail_msg("no logits that are clear of other choices: margin %g, condition %g", output->margin,
                     output->condition);
        }
        random_logits(seed, kind, route, route->logits + t * route->stride);
        if (route->keys != NULL)
            random_fill(seed, 1, route->keys + t * route->outputs, route->outputs);
        const struct model_input input = input_of(route, t);
        model_route(&route->options, &input, output);
    } while (output->margin < margin || output->condition > condition);
    free(output);
}

static struct route random_route(uint64_t *seed)
{
    const moecl_layer_options options = random_options(seed);
    const moecl_router *router = &options.router;
    struct route route = route_make(&options, random_between(seed, 1, small_sizes() ? 3 : 8));
    const bool vanish = router->score == MOECL_SCORE_SOFTMAX && router->selection == MOECL_SELECTION_TOP_K &&
                        !router->selection_biased && router->groups == 0 && router->softcap == 0;
    /* Scores of two groups of a hierarchical router may be the same but for their rounding. */
    const bool whole = router->score != MOECL_SCORE_HIERARCHICAL && one_in(seed, 4);
    const struct logit_kind kind = {vanish && one_in(seed, 4) ? 60 : one_in(seed, 2) ? 2 : 0.5, whole, one_in(seed, 5)};
    route.first_token = random_between(seed, 0, MOECL_MAX_TOKENS - route.tokens);
    route.noisy = one_in(seed, 2);
    route.step = random_between(seed, 0, SIZE_MAX - 1);
    random_fill(seed, 0.5, route.router_bias, route.outputs);
    random_fill(seed, 0.3, route.selection_bias, route.outputs);
    random_fill(seed, 1, route.expert_scale, route.outputs);
    for (size_t i = 0; i < router->table_rows * options.top_k; i++)
        route.table[i] = (int32_t)random_between(seed, 0, route.outputs - 1);
    for (size_t t = 0; t < route.tokens && router->table_rows > 0; t++)
        route.token_ids[t] = (int32_t)random_between(seed, 0, router->table_rows - 1);
    if (router->selection == MOECL_SELECTION_SINKHORN)
        route.keys = make(route.tokens * route.outputs, sizeof(float));
    for (size_t t = 0; t < route.tokens; t++)
        draw_token(seed, &kind, &route, t);
    return route;
}

static void random_routers(void **state)
{
    const size_t cases = number_from_environment("MOECL_CASES", small_sizes() ? 60 : 1000);
    const size_t first = number_from_environment("MOECL_FIRST_SEED", 1);
    for (uint64_t seed = first; seed < first + cases; seed++) {
        uint64_t numbers = seed * 7919;
        struct route route = random_route(&numbers);
        print_message("           seed %llu:\n", (unsigned long long)seed);
        describe(&route);
        check_route(*state, &route);
        assert_int_equal(route.flag, 0);
        route_free(&route);
    }
}

/* ------------------------------------------------------------------------------------------------------ edges -- */

/* The routers that the edges go through: of every score, with and without groups and bias. */
struct edge_router {
    moecl_score score;
    bool selection_biased;
    size_t groups, top_groups;
    moecl_group_score group_score;
    moecl_group_mask group_mask;
    moecl_normalisation normalisation;
};

static const struct edge_router edge_routers[] = {
    {.score = MOECL_SCORE_SOFTMAX},
    {.score = MOECL_SCORE_SOFTMAX, .normalisation = MOECL_NORMALISATION_SUM},
    {.score = MOECL_SCORE_SIGMOID, .selection_biased = true, .normalisation = MOECL_NORMALISATION_SUM},
    {.score = MOECL_SCORE_SIGMOID,
     .selection_biased = true,
     .groups = 4,
     .top_groups = 2,
     .group_score = MOECL_GROUP_SCORE_SUM_OF_TWO,
     .normalisation = MOECL_NORMALISATION_SUM},
    {.score = MOECL_SCORE_SOFTMAX, .groups = 4, .top_groups = 1, .group_mask = MOECL_GROUP_MASK_ZERO},
    {.score = MOECL_SCORE_SOFTMAX, .groups = 4, .top_groups = 3},
    {.score = MOECL_SCORE_SQRT_SOFTPLUS, .normalisation = MOECL_NORMALISATION_LARGER_SUM},
    {.score = MOECL_SCORE_LOGIT, .normalisation = MOECL_NORMALISATION_POWER},
    {.score = MOECL_SCORE_SPARSEMIXER},
    {.score = MOECL_SCORE_HIERARCHICAL, .groups = 4, .top_groups = 2},
    {.score = MOECL_SCORE_HIERARCHICAL, .groups = 4, .top_groups = 4},
    {.score = MOECL_SCORE_HIERARCHICAL, .groups = 4, .top_groups = 4, .selection_biased = true},
};
enum { EDGE_ROUTERS = sizeof(edge_routers) / sizeof(edge_routers[0]) };

static moecl_layer_options edge_options(const struct edge_router *edge, size_t experts, size_t top_k)
{
    return (moecl_layer_options){
        .experts = experts,
        .hidden = 1,
        .intermediate = 1,
        .top_k = top_k,
        .router = {.score = edge->score,
                   .jitter = 0.1f,
                   .selection_biased = edge->selection_biased,
                   .groups = edge->groups,
                   .top_groups = edge->top_groups,
                   .group_score = edge->group_score,
                   .group_mask = edge->group_mask,
                   .normalisation = edge->normalisation,
                   .epsilon = 1e-12f,
                   .power = 2},
    };
}

/* Every logit the same: the choices are 0 to k-1, whatever the score. */
static void equal_logits(void **state)
{
    for (size_t i = 0; i < EDGE_ROUTERS; i++) {
        const float values[] = {0, 1.7f, -3, 90, -90};
        const moecl_layer_options options = edge_options(&edge_routers[i], 12, 3);
        struct route route = route_make(&options, 5);
        for (size_t t = 0; t < route.tokens; t++)
            for (size_t e = 0; e < route.outputs + route.groups; e++)
                route.logits[t * route.stride + e] = values[t];
        route_run(*state, &route);
        for (size_t a = 0; a < 15; a++)
            assert_int_equal(route.ids[a], a % 3);
        for (size_t t = 0; t < 5;
             t++) /* equals are treated alike, but for a sparsemixer, which has a softmax for each */
            for (size_t j = 1; j < 3 && options.router.score != MOECL_SCORE_SPARSEMIXER; j++)
                assert_true(route.weights[t * 3] == route.weights[t * 3 + j]);
        assert_int_equal(route.flag, 0);
        route_free(&route);
    }
}

/* Equal logits in every place of a vector and behind its end: the lower index comes first. */
static void ties_go_to_the_lower_index(void **state)
{
    for (size_t i = 0; i < EDGE_ROUTERS; i++) {
        const moecl_layer_options options = edge_options(&edge_routers[i], 20, 20);
        struct route route = route_make(&options, 4);
        for (size_t t = 0; t < route.tokens; t++)
            for (size_t e = 0; e < route.outputs; e++)
                route.logits[t * route.stride + e] = (float)((e * (t + 3)) % 4) * 0.37f;
        check_route(*state, &route);
        route_free(&route);
    }
}

/* Masked experts come last, with weight 0; where all are masked, too. */
static void masked_experts(void **state)
{
    for (size_t i = 0; i < EDGE_ROUTERS; i++)
        for (size_t left = 0; left <= 12; left += 3) {
            moecl_layer_options options = edge_options(&edge_routers[i], 12, 6);
            options.router.weight = (moecl_weight)(left / 3 % 4);
            struct route route = route_make(&options, 2);
            if (route.groups > 0) /* whose experts come before masked ones of other groups */
                route.logits[route.stride + route.outputs + 3] = -INFINITY;
            for (size_t e = 0; e < 12; e++) {
                route.logits[e] = e < left ? 0.25f * (float)e : -INFINITY;
                route.logits[route.stride + e] = e >= 12 - left ? 0.25f * (float)e : -INFINITY;
                route.selection_bias[e] = e % 2 ? 5 : -5;
            }
            check_route(*state, &route);
            assert_int_equal(route.flag, 0);
            for (size_t a = 0; a < 12; a++) {
                const float logit = route.logits[a / 6 * route.stride + (size_t)route.ids[a]];
                assert_true(logit > -INFINITY || route.weights[a] == 0);
            }
            route_free(&route);
        }
}

/* A masked expert adds nothing to the mass, whose order a table may have in any way. */
static void masked_in_a_table(void **state)
{
    moecl_layer_options options = {.experts = 4, .hidden = 1, .intermediate = 1, .top_k = 4};
    options.router =
        (moecl_router){.score = MOECL_SCORE_LOGIT, .selection = MOECL_SELECTION_TABLE, .table_rows = 1, .top_p = 0.9f};
    const int32_t table[] = {2, 0, 3, 1}, expected[] = {2, 0, -1, -1};
    struct route route = route_make(&options, 1);
    memcpy(route.table, table, sizeof(table));
    for (size_t e = 0; e < 4; e++)
        route.logits[e] = e == 2 ? -INFINITY : 1;
    check_route(*state, &route);
    assert_memory_equal(route.ids, expected, sizeof(expected));
    route_free(&route);
}

static void masked_by_given_keys_and_bias(void **state)
{
    moecl_layer_options options = {.experts = 5, .hidden = 1, .intermediate = 1, .top_k = 5};
    options.router.selection = MOECL_SELECTION_SINKHORN;
    options.router.biased = true;
    struct route route = route_make(&options, 1);
    const float keys[] = {3, 9, NAN, 5, 4};
    const int32_t expected[] = {3, 4, 0, 1, 2};
    route.keys = make(5, sizeof(float));
    memcpy(route.keys, keys, sizeof(keys));
    route.router_bias[1] = -INFINITY; /* masks an expert */
    route_run(*state, &route);
    assert_memory_equal(route.ids, expected, sizeof(expected));
    assert_true(route.weights[3] == 0 && route.weights[0] == 0.25f);
    assert_true(route.z[1] == -INFINITY);
    route_free(&route);
}

static void one_expert(void **state)
{
    for (size_t i = 0; i < EDGE_ROUTERS; i++) {
        struct edge_router edge = edge_routers[i];
        edge.groups = edge.top_groups = edge.groups ? 1 : 0;
        const moecl_layer_options options = edge_options(&edge, 1, 1);
        struct route route = route_make(&options, 3);
        for (size_t t = 0; t < 3; t++)
            route.logits[t * route.stride] = 3.0f - 2.0f * (float)t;
        check_route(*state, &route);
        route_free(&route);
    }
}

static void most_experts(void **state)
{
    for (size_t i = 0; i < EDGE_ROUTERS; i++) {
        const moecl_layer_options options = edge_options(&edge_routers[i], 1024, 32);
        struct route route = route_make(&options, small_sizes() ? 1 : 20);
        uint64_t seed = i + 1;
        random_fill(&seed, 0.5, route.selection_bias, 1024);
        for (size_t t = 0; t < route.tokens; t++)
            draw_token(&seed, &(struct logit_kind){.deviation = 1}, &route, t);
        check_route(*state, &route);
        route_free(&route);
    }
}

static void no_tokens(void **state)
{
    for (size_t i = 0; i < EDGE_ROUTERS; i++) {
        const moecl_layer_options options = edge_options(&edge_routers[i], 12, 3);
        struct route route = route_make(&options, 0);
        route_run(*state, &route);
        assert_int_equal(route.flag, 0);
        route_free(&route);
    }
}

/* Probabilities that fp32 cannot hold still have an order. */
static void vanishing_probabilities(void **state)
{
    const struct edge_router edges[] = {
        {.score = MOECL_SCORE_SOFTMAX},
        {.score = MOECL_SCORE_SIGMOID},
        {.score = MOECL_SCORE_SQRT_SOFTPLUS},
        {.score = MOECL_SCORE_SOFTMAX, .groups = 4, .top_groups = 2},
        {.score = MOECL_SCORE_HIERARCHICAL, .groups = 4, .top_groups = 4},
    };
    for (size_t i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
        const moecl_layer_options options = edge_options(&edges[i], 12, 6);
        struct route route = route_make(&options, 1);
        for (size_t e = 0; e < 12; e++)
            route.logits[e] = -400.0f + (e == 5 ? 300.0f : (float)((e * 5) % 12));
        check_route(*state, &route);
        route_free(&route);
    }
}

static void not_finite(void **state)
{
    static const float values[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < EDGE_ROUTERS; i++)
        for (size_t v = 0; v < 3; v++)
            for (size_t place = 0; place < 12 + (edge_routers[i].score == MOECL_SCORE_HIERARCHICAL ? 4u : 0u);
                 place += 3) {
                const moecl_layer_options options = edge_options(&edge_routers[i], 12, 12);
                struct route route = route_make(&options, 2);
                bool chosen[12] = {false};
                route.logits[route.stride + place] = values[v];
                route_run(*state, &route);
                assert_int_equal(route.flag, v < 2 ? MOECL_FLAG_NOT_FINITE : 0);
                for (size_t j = 0; j < 12; j++) {
                    const int32_t id = route.ids[12 + j];
                    assert_true(id >= 0 && id < 12 && !chosen[id]);
                    chosen[id] = true;
                }
                if (v == 0 && place < 12 && !options.router.groups)
                    assert_int_equal(route.ids[12 + 11], place); /* NaN comes last */
                route_free(&route);
            }
}

static void noise_that_is_not_finite(void **state)
{
    moecl_layer_options options = {.experts = 10, .hidden = 1, .intermediate = 1, .top_k = 2};
    options.router.noise = true;
    for (int noisy = 0; noisy < 2; noisy++) {
        struct route route = route_make(&options, 1);
        for (size_t e = 0; e < 10; e++)
            route.logits[route.noise_column + e] = e == 9 ? INFINITY : -INFINITY;
        route.noisy = noisy;
        route_run(*state, &route);
        assert_int_equal(route.flag, noisy ? MOECL_FLAG_NOT_FINITE : 0);
        for (size_t e = 0; e < 9; e++)
            assert_true(route.z[e] == 0); /* softplus(-infinity) is 0 */
        route_free(&route);
    }
}

static void tokens_not_of_the_table(void **state)
{
    moecl_layer_options options = {.experts = 6, .hidden = 1, .intermediate = 1, .top_k = 2};
    options.router.selection = MOECL_SELECTION_TABLE;
    options.router.table_rows = 3;
    const int32_t table[] = {5, 0, 1, 4, 2, 2}, token_ids[] = {2, 1, 0, 3, -1, 1 << 30};
    for (size_t bad = 0; bad < 2; bad++) {
        struct route route = route_make(&options, bad ? 6 : 3);
        memcpy(route.table, table, sizeof(table));
        memcpy(route.token_ids, token_ids, route.tokens * sizeof(int32_t));
        check_route(*state, &route);
        assert_int_equal(route.flag, bad ? MOECL_FLAG_BAD_EXPERT : 0);
        const int32_t expected[] = {2, 2, 1, 4, 5, 0, -1, -1, -1, -1, -1, -1};
        assert_memory_equal(route.ids, expected, route.tokens * 2 * sizeof(int32_t));
        route_free(&route);
    }
}

/* ------------------------------------------------------------------------------------------- the other kernels -- */

/* The tokens of a pass give the same bits in one call and in two. */
static void tokens_by_their_number(void **state)
{
    moecl_layer_options options = edge_options(&edge_routers[2], 24, 4);
    options.router.noise = options.router.random_second = true;
    options.router.seed = 99;
    struct route whole = route_make(&options, 7);
    uint64_t seed = 5;
    random_fill(&seed, 1, whole.logits, whole.tokens * whole.stride);
    whole.noisy = true;
    whole.step = 1234567890123;
    route_run(*state, &whole);
    for (size_t first = 0; first < 7; first += first ? 4 : 3) {
        struct route part = route_make(&options, first ? 4 : 3);
        memcpy(part.logits, whole.logits + first * whole.stride, part.tokens * part.stride * sizeof(float));
        part.first_token = first;
        part.noisy = true;
        part.step = whole.step;
        route_run(*state, &part);
        assert_memory_equal(part.ids, whole.ids + first * 4, part.tokens * 4 * sizeof(int32_t));
        assert_memory_equal(part.weights, whole.weights + first * 4, part.tokens * 4 * sizeof(float));
        assert_memory_equal(part.z, whole.z + first * whole.stride, part.tokens * part.stride * sizeof(float));
        route_free(&part);
    }
    route_free(&whole);
}

static void scores_alone(void **state)
{
    for (uint64_t seed = 1; seed <= (small_sizes() ? 20 : 100); seed++) {
        uint64_t numbers = seed;
        struct route route = random_route(&numbers);
        struct moecl_route_kernels kernels;
        struct moecl_chain chain;
        if (route.options.router.score == MOECL_SCORE_SPARSEMIXER) {
            route_free(&route);
            continue;
        }
        const size_t count = route.tokens * route.outputs;
        ASSERT_OK(*state, moecl_route_kernels_create(*state, &route.options, &kernels));
        struct arrays arrays = upload(*state, &route, 4);
        struct array scores = array_make(*state, count * sizeof(float), NULL);
        const struct moecl_route_call call = {
            .tokens = route.tokens,
            .first_token = route.first_token,
            .logits = arrays.logits.buffer,
            .stride = route.stride,
            .noise_column = route.noise_column,
            .router_bias = where(route.options.router.biased, &arrays.router_bias),
            .noisy = route.noisy,
            .step = route.step,
            .flag = arrays.flag.buffer,
        };
        ASSERT_OK(*state, moecl_chain_begin(&chain, *state, 0, NULL));
        ASSERT_OK(*state,
                  moecl_chain_end(&chain, moecl_route_scores_enqueue(&kernels, &chain, &call, scores.buffer), NULL));
        float *got = array_bytes(*state, scores);
        download(*state, &arrays, &route);
        struct model_output *expected = make(1, sizeof(*expected));
        for (size_t t = 0; t < route.tokens; t++) {
            const struct model_input input = input_of(&route, t);
            model_route(&route.options, &input, expected);
            for (size_t e = 0; e < route.outputs; e++) {
                const double score = got[t * route.outputs + e], right = expected->scores[e];
                const double least = route.options.router.score == MOECL_SCORE_LOGIT ? 1 : 1e-30;
                assert_true(score == right || fabs(score - right) <= weight_tolerance * (fabs(right) + least));
            }
        }
        free(expected);
        free(got);
        array_release(&scores);
        moecl_route_kernels_release(&kernels);
        route_free(&route);
    }
}

/* What waits for the capacity is the same, done later: where nothing is dropped, the same bits. */
static void finish_later(void **state)
{
    for (uint64_t seed = 1; seed <= (small_sizes() ? 20 : 100); seed++) {
        uint64_t numbers = seed * 31;
        struct route at_once = random_route(&numbers);
        at_once.options.router.capacity = (moecl_capacity){0};
        route_run(*state, &at_once);
        const size_t k = at_once.options.top_k, count = at_once.tokens * k;
        struct route later = at_once;
        later.z = make(later.tokens * later.stride, sizeof(float));
        later.ids = make(count, sizeof(int32_t));
        later.weights = make(count, sizeof(float));
        later.options.router.capacity.kind = MOECL_CAPACITY_FIXED;
        later.options.router.capacity.normalise_after = true;
        route_run(*state, &later);

        struct moecl_route_kernels kernels;
        struct moecl_chain chain;
        struct array ids = array_make(*state, count * sizeof(int32_t), later.ids);
        struct array weights = array_make(*state, count * sizeof(float), later.weights);
        struct array scale = array_make(*state, later.outputs * sizeof(float), later.expert_scale);
        ASSERT_OK(*state, moecl_route_kernels_create(*state, &later.options, &kernels));
        ASSERT_OK(*state, moecl_chain_begin(&chain, *state, 0, NULL));
        ASSERT_OK(*state,
                  moecl_chain_end(&chain,
                                  moecl_route_finish_enqueue(&kernels, &chain, later.tokens, k,
                                                             (moecl_routing){ids.buffer, weights.buffer}, scale.buffer),
                                  NULL));
        float *finished = array_bytes(*state, weights);
        const bool random = later.noisy && later.options.router.random_second;
        for (size_t a = 0; a < count; a++) {
            double right[MOECL_MAX_TOP_K];
            assert_int_equal(later.ids[a], at_once.ids[a]);
            if (!random)
                assert_true(finished[a] == at_once.weights[a]);
            if (a % k != 0)
                continue;
            for (size_t j = 0; j < k; j++)
                right[j] = later.weights[a + j];
            const double condition = model_finish(&later.options.router, later.expert_scale, later.ids + a, right, k);
            for (size_t j = 0; j < k; j++)
                assert_true(fabs(finished[a + j] - right[j]) <= 1e-5 * condition * fabs(right[j]));
        }
        free(finished);
        free(later.z);
        free(later.ids);
        free(later.weights);
        array_release(&ids);
        array_release(&weights);
        array_release(&scale);
        moecl_route_kernels_release(&kernels);
        route_free(&at_once);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_logits),
        cmocka_unit_test(ties_go_to_the_lower_index),
        cmocka_unit_test(masked_experts),
        cmocka_unit_test(masked_in_a_table),
        cmocka_unit_test(masked_by_given_keys_and_bias),
        cmocka_unit_test(one_expert),
        cmocka_unit_test(most_experts),
        cmocka_unit_test(no_tokens),
        cmocka_unit_test(vanishing_probabilities),
        cmocka_unit_test(not_finite),
        cmocka_unit_test(noise_that_is_not_finite),
        cmocka_unit_test(tokens_not_of_the_table),
        cmocka_unit_test(tokens_by_their_number),
        cmocka_unit_test(scores_alone),
        cmocka_unit_test(finish_later),
        cmocka_unit_test(random_routers),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
