/* SPDX-License-Identifier: Apache-2.0 */
/* test_route_random.c - the route stage: random routers of the whole grammar against a model in double precision. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"
#include "route_call.h"

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
                  moecl_choice_name(MOECL_CHOICE_SCORE, (int)r->score),
                  moecl_choice_name(MOECL_CHOICE_SELECTION, (int)r->selection), r->top_groups, r->groups,
                  moecl_choice_name(MOECL_CHOICE_GROUP_SCORE, (int)r->group_score),
                  moecl_choice_name(MOECL_CHOICE_GROUP_MASK, (int)r->group_mask), r->biased, r->selection_biased,
                  (double)r->top_p, (double)r->threshold, moecl_choice_name(MOECL_CHOICE_WEIGHT, (int)r->weight),
                  moecl_choice_name(MOECL_CHOICE_NORMALISATION, (int)r->normalisation), route->noisy, r->noise,
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
        const struct model_input input = route_input(route, t);
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
        route_check(*state, &route);
        assert_int_equal(route.flag, 0);
        route_free(&route);
    }
}

static void most_experts(void **state)
{
    for (int score = MOECL_SCORE_SOFTMAX; score <= MOECL_SCORE_HIERARCHICAL; score++) {
        const moecl_layer_options options = {.experts = MOECL_MAX_EXPERTS,
                                             .hidden = 1,
                                             .intermediate = 1,
                                             .top_k = MOECL_MAX_TOP_K,
                                             .router = {.score = (moecl_score)score,
                                                        .jitter = 0.1f,
                                                        .selection_biased = score % 2 == 1,
                                                        .groups = 4,
                                                        .top_groups = 2,
                                                        .group_score = MOECL_GROUP_SCORE_SUM_OF_TWO}};
        struct route route = route_make(&options, small_sizes() ? 1 : 20);
        uint64_t seed = (uint64_t)score + 1;
        random_fill(&seed, 0.5, route.selection_bias, MOECL_MAX_EXPERTS);
        for (size_t t = 0; t < route.tokens; t++)
            draw_token(&seed, &(struct logit_kind){.deviation = 1}, &route, t);
        route_check(*state, &route);
        route_free(&route);
    }
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
        struct route_arrays arrays = route_upload(*state, &route, 4);
        struct array scores = array_make(*state, count * sizeof(float), NULL);
        const struct moecl_route_call call = route_call(&route, &arrays);
        ASSERT_OK(*state, moecl_chain_begin(&chain, *state, 0, NULL));
        ASSERT_OK(*state,
                  moecl_chain_end(&chain, moecl_route_scores_enqueue(&kernels, &chain, &call, scores.buffer), NULL));
        float *got = array_bytes(*state, scores);
        route_download(*state, &arrays, &route);
        struct model_output *expected = make(1, sizeof(*expected));
        for (size_t t = 0; t < route.tokens; t++) {
            const struct model_input input = route_input(&route, t);
            model_route(&route.options, &input, expected);
            for (size_t e = 0; e < route.outputs; e++) {
                const double score = got[t * route.outputs + e], right = expected->scores[e];
                const double least = route.options.router.score == MOECL_SCORE_LOGIT ? 1 : 1e-30;
                assert_true(score == right || fabs(score - right) <= ROUTE_TOLERANCE * (fabs(right) + least));
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
        cmocka_unit_test(random_routers),
        cmocka_unit_test(most_experts),
        cmocka_unit_test(scores_alone),
        cmocka_unit_test(finish_later),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
