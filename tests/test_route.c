/* SPDX-License-Identifier: Apache-2.0 */
/* test_route.c - the route stage at its edges: ties, masks, NaN, one expert, no tokens, unknown token ids. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"
#include "route_call.h"
#include "stages/flag.h"

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
        route_check(*state, &route);
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
            route_check(*state, &route);
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
    route_check(*state, &route);
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
        route_check(*state, &route);
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
        route_check(*state, &route);
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
        route_check(*state, &route);
        assert_int_equal(route.flag, bad ? MOECL_FLAG_BAD_EXPERT : 0);
        const int32_t expected[] = {2, 2, 1, 4, 5, 0, -1, -1, -1, -1, -1, -1};
        assert_memory_equal(route.ids, expected, route.tokens * 2 * sizeof(int32_t));
        route_free(&route);
    }
}

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_logits),
        cmocka_unit_test(ties_go_to_the_lower_index),
        cmocka_unit_test(masked_experts),
        cmocka_unit_test(masked_in_a_table),
        cmocka_unit_test(masked_by_given_keys_and_bias),
        cmocka_unit_test(one_expert),
        cmocka_unit_test(no_tokens),
        cmocka_unit_test(vanishing_probabilities),
        cmocka_unit_test(not_finite),
        cmocka_unit_test(noise_that_is_not_finite),
        cmocka_unit_test(tokens_not_of_the_table),
        cmocka_unit_test(tokens_by_their_number),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
