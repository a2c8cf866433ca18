/* SPDX-License-Identifier: Apache-2.0 */
/* test_reference.c - the double-precision layer on cases worked out by hand, and against the formulas written out token
 * by token. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "layers.h"
#include "random.h"
#include "reference/function.h"
#include "reference/philox.h"

enum { MOST = 64 };

/* A layer of H = 1: router row e is `router[e]`, so the logits of x = 1 are the router's. Expert e gives
 * silu(x) * x * (e + 1). */
struct scalar_layer {
    moecl_layer_options options;
    moecl_layer_weights weights;
    moecl_expert_weights experts[MOST];
    float one, down[MOST];
};

static moecl_matrix column(const float *values, size_t rows)
{
    return (moecl_matrix){values, MOECL_F32, rows, 1, 0, 0};
}

static void scalar_layer(struct scalar_layer *layer, size_t experts, size_t top_k, const float *router)
{
    *layer = (struct scalar_layer){.one = 1};
    layer->options = (moecl_layer_options){.experts = experts, .hidden = 1, .intermediate = 1, .top_k = top_k};
    for (size_t e = 0; e < experts; e++) {
        layer->down[e] = (float)(e + 1);
        layer->experts[e] = (moecl_expert_weights){
            .gate = column(&layer->one, 1), .up = column(&layer->one, 1), .down = column(&layer->down[e], 1)};
    }
    layer->weights = (moecl_layer_weights){.router = column(router, experts), .experts = layer->experts};
}

struct routed {
    int32_t ids[MOST];
    double weights[MOST], logits[MOST], y;
};

/* The layer on the one token x. */
static struct routed run(const struct scalar_layer *layer, float x)
{
    struct routed routed;
    moecl_reference_call call = {.options = &layer->options,
                                 .weights = &layer->weights,
                                 .tokens = 1,
                                 .x = &x,
                                 .ids = routed.ids,
                                 .routing_weights = routed.weights,
                                 .logits = routed.logits,
                                 .y = &routed.y};
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    return routed;
}

static void softmax_and_top_k(void **state)
{
    (void)state;
    /* logits ln 1, ln 2, ln 5: p = 1/8, 2/8, 5/8 */
    const float router[] = {0.0f, 0.69314718f, 1.60943791f};
    struct scalar_layer layer;
    scalar_layer(&layer, 3, 2, router);

    struct routed routed = run(&layer, 1);
    assert_int_equal(routed.ids[0], 2);
    assert_int_equal(routed.ids[1], 1);
    ASSERT_CLOSE(routed.weights, ((double[]){0.625, 0.25}), 2, 1e-7);
    ASSERT_CLOSE(routed.logits, ((double[]){0, 0.69314718, 1.60943791}), 3, 1e-7);
    double silu_1 = 0.7310585786300049;
    ASSERT_CLOSE(&routed.y, &((double){silu_1 * (0.625 * 3 + 0.25 * 2)}), 1, 1e-7);

    layer.options.router.normalisation = MOECL_NORMALISATION_SUM;
    routed = run(&layer, 1);
    ASSERT_CLOSE(routed.weights, ((double[]){5.0 / 7, 2.0 / 7}), 2, 1e-7);
    ASSERT_CLOSE(&routed.y, &((double){silu_1 * (5.0 / 7 * 3 + 2.0 / 7 * 2)}), 1, 1e-7);
}

static void one_expert_in_full(void **state)
{
    (void)state;
    /* x = (2, 1); gate 1 0, up 0 3: silu(2) * 3 = 5.2847824678672941; down (1, -2); p_0 = 1 / (1 + e^-1) */
    const float router[] = {1, 0, 0, 1}, gate[] = {1, 0}, up[] = {0, 3}, down[] = {1, -2}, x[] = {2, 1};
    moecl_expert_weights experts[2];
    experts[0] = experts[1] = (moecl_expert_weights){.gate = {gate, MOECL_F32, 1, 2, 0, 0},
                                                     .up = {up, MOECL_F32, 1, 2, 0, 0},
                                                     .down = {down, MOECL_F32, 2, 1, 0, 0}};
    moecl_layer_weights weights = {.router = {router, MOECL_F32, 2, 2, 0, 0}, .experts = experts};
    moecl_layer_options options = {.experts = 2, .hidden = 2, .intermediate = 1, .top_k = 1};
    double y[2];
    moecl_reference_call call = {.options = &options, .weights = &weights, .tokens = 1, .x = x, .y = y};
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    double z = 5.2847824678672941, p = 0.7310585786300049;
    ASSERT_CLOSE(y, ((double[]){p * z, -2 * p * z}), 2, 1e-15);
}

static void ties_go_to_the_lower_index(void **state)
{
    (void)state;
    const float router[] = {1, 3, 3, 0, 3, 1};
    const int32_t expected[] = {1, 2, 4, 0, 5, 3};
    struct scalar_layer layer;
    for (size_t top_k = 1; top_k <= 6; top_k++) {
        scalar_layer(&layer, 6, top_k, router);
        struct routed routed = run(&layer, 1);
        assert_memory_equal(routed.ids, expected, top_k * sizeof *expected);
        routed = run(&layer, 0); /* all logits equal */
        for (size_t j = 0; j < top_k; j++) {
            assert_int_equal(routed.ids[j], j);
            ASSERT_CLOSE(&routed.weights[j], &((double){1.0 / 6}), 1, 1e-15);
        }
    }
}

static void all_experts_and_one_expert(void **state)
{
    (void)state;
    const float router[] = {-0.5f, 2, 0.25f, 1};
    struct scalar_layer layer;
    scalar_layer(&layer, 4, 4, router);
    struct routed routed = run(&layer, 1);
    assert_memory_equal(routed.ids, ((int32_t[]){1, 3, 2, 0}), 4 * sizeof(int32_t));
    double sum = routed.weights[0] + routed.weights[1] + routed.weights[2] + routed.weights[3];
    ASSERT_CLOSE(&sum, &((double){1}), 1, 1e-15);

    scalar_layer(&layer, 1, 1, router);
    routed = run(&layer, 3);
    assert_int_equal(routed.ids[0], 0);
    assert_true(routed.weights[0] == 1.0);
}

static void large_logits_do_not_overflow(void **state)
{
    (void)state;
    const float router[] = {0, 20000, 19999};
    struct scalar_layer layer;
    scalar_layer(&layer, 3, 3, router);
    struct routed routed = run(&layer, 1);
    assert_memory_equal(routed.ids, ((int32_t[]){1, 2, 0}), 3 * sizeof(int32_t));
    ASSERT_CLOSE(routed.weights, ((double[]){0.7310585786300049, 0.2689414213699951, 0}), 3, 1e-15);
}

static void nan_counts_as_minus_infinity(void **state)
{
    (void)state;
    const float router[] = {NAN, -INFINITY, 1, NAN, 2};
    struct scalar_layer layer;
    scalar_layer(&layer, 5, 5, router);
    struct routed routed = run(&layer, 1);
    assert_memory_equal(routed.ids, ((int32_t[]){4, 2, 0, 1, 3}), 5 * sizeof(int32_t));

    scalar_layer(&layer, 5, 2, router);
    routed = run(&layer, NAN);
    assert_memory_equal(routed.ids, ((int32_t[]){0, 1}), 2 * sizeof(int32_t));
    assert_true(isnan(routed.y));
}

static void no_tokens(void **state)
{
    (void)state;
    const float router[] = {1, 2};
    struct scalar_layer layer;
    scalar_layer(&layer, 2, 1, router);
    double y = 7;
    moecl_reference_call call = {.options = &layer.options, .weights = &layer.weights, .y = &y};
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    call.ids_given = true;
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    assert_true(y == 7);
}

static void given_routing(void **state)
{
    (void)state;
    const float router[] = {9, 8, 7};
    struct scalar_layer layer;
    scalar_layer(&layer, 3, 3, router);
    int32_t ids[] = {2, -1, 2, 3, 1, INT32_MAX}; /* an expert twice; ids out of range give nothing */
    double weights[] = {0.5, 100, 2, 100, -1, NAN}, y[2];
    const float x[] = {1, 1};
    moecl_reference_call call = {.options = &layer.options,
                                 .weights = &layer.weights,
                                 .tokens = 2,
                                 .x = x,
                                 .ids_given = true,
                                 .ids = ids,
                                 .routing_weights = weights,
                                 .y = y};
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    double silu_1 = 0.7310585786300049;
    ASSERT_CLOSE(y, ((double[]){silu_1 * 2.5 * 3, silu_1 * -2}), 2, 1e-15);
}

static void storage_rounds(void **state)
{
    (void)state;
    const float router[] = {0};
    struct scalar_layer layer;
    scalar_layer(&layer, 1, 1, router);
    layer.down[0] = 1.0f + 0x1p-9f; /* rounds to 1 in bf16, not in f16 */
    float x = 1.0f + 0x1p-12f;      /* rounds to 1 in both */
    double silu_1 = 0.7310585786300049;

    layer.options.activations = MOECL_BF16;
    layer.options.weights = MOECL_BF16;
    struct routed routed = run(&layer, x);
    ASSERT_CLOSE(&routed.y, &silu_1, 1, 1e-15);

    layer.options.activations = MOECL_F16;
    layer.options.weights = MOECL_F16;
    routed = run(&layer, x);
    ASSERT_CLOSE(&routed.y, &((double){silu_1 * (1 + 0x1p-9)}), 1, 1e-15);

    layer.options.activations = MOECL_F32;
    routed = run(&layer, x);
    assert_true(routed.y > silu_1 * (1 + 0x1p-9) * (1 + 0x1p-12));
}

/* ------------------------------------------------------------------------------------------- the grammar -- */

static const double ln2 = 0.69314718055994531;

/* A layer of the options on the one token x = 1, with these logits and nothing else of note. */
static struct routed route(moecl_router router, size_t experts, size_t top_k, const float *logits,
                           const moecl_layer_weights *more)
{
    struct scalar_layer layer;
    scalar_layer(&layer, experts, top_k, logits);
    layer.options.router = router;
    if (more != NULL) {
        memcpy(layer.weights.vectors, more->vectors, sizeof(layer.weights.vectors));
        layer.weights.table = more->table;
    }
    const size_t groups = router.score == MOECL_SCORE_HIERARCHICAL ? router.groups : 0;
    layer.weights.router = column(logits, experts + router.zero_experts + groups);
    return run(&layer, 1);
}

static moecl_layer_weights with_vector(moecl_vector vector, const float *values, size_t count)
{
    moecl_layer_weights weights = {0};
    weights.vectors[vector] = (moecl_matrix){values, MOECL_F32, 1, count, 0, 0};
    return weights;
}

/* What a router makes of four logits: ln 1, ln 4, ln 2, ln 9 unless said otherwise; p = 1/16, 4/16, 2/16, 9/16. */
static void one_option_at_a_time(void **state)
{
    (void)state;
    const float logits[] = {0, (float)(2 * ln2), (float)ln2, 2.19722458f};
    static const struct {
        const char *what;
        moecl_router router;
        int32_t ids[2];
        double weights[2];
    } cases[] = {
        {"softmax", {.score = MOECL_SCORE_SOFTMAX}, {3, 1}, {9.0 / 16, 4.0 / 16}},
        {"sigmoid", {.score = MOECL_SCORE_SIGMOID}, {3, 1}, {9.0 / 10, 4.0 / 5}},
        {"sqrt softplus", {.score = MOECL_SCORE_SQRT_SOFTPLUS}, {3, 1}, {1.5174271293851465, 1.2686362411795196}},
        {"logit", {.score = MOECL_SCORE_LOGIT}, {3, 1}, {2.1972245773362196, 1.3862943611198906}},
        {"softmax of the selected", {.weight = MOECL_WEIGHT_SOFTMAX}, {3, 1}, {9.0 / 13, 4.0 / 13}},
        {"sigmoid of the selected", {.weight = MOECL_WEIGHT_SIGMOID}, {3, 1}, {9.0 / 10, 4.0 / 5}},
        {"one", {.weight = MOECL_WEIGHT_ONE}, {3, 1}, {1, 1}},
        {"over the sum and epsilon",
         {.normalisation = MOECL_NORMALISATION_SUM, .epsilon = 3.0f / 16},
         {3, 1},
         {9.0 / 16, 4.0 / 16}},
        {"over epsilon, the larger",
         {.normalisation = MOECL_NORMALISATION_LARGER_SUM, .epsilon = 2},
         {3, 1},
         {9.0 / 32, 4.0 / 32}},
        {"over the sum, the larger", {.normalisation = MOECL_NORMALISATION_LARGER_SUM}, {3, 1}, {9.0 / 13, 4.0 / 13}},
        {"over the 2-norm",
         {.normalisation = MOECL_NORMALISATION_POWER, .power = 2},
         {3, 1},
         {0.91381154862025715, 0.40613846605344767}},
        {"scale", {.scale = 2.5f}, {3, 1}, {2.5 * 9 / 16, 2.5 * 4 / 16}},
        {"top-p, reached by the first", {.top_p = 0.5f}, {3, -1}, {9.0 / 16, 0}},
        {"top-p, reached by the second", {.top_p = 0.75f}, {3, 1}, {9.0 / 16, 4.0 / 16}},
        {"top-p, normalised", {.top_p = 0.5f, .normalisation = MOECL_NORMALISATION_SUM}, {3, -1}, {1, 0}},
        {"threshold", {.threshold = 0.3f}, {3, -1}, {9.0 / 16, 0}},
        {"threshold above all", {.threshold = 0.9f}, {3, -1}, {9.0 / 16, 0}},
        {"groups, by the largest", {.groups = 2, .top_groups = 1}, {3, 2}, {9.0 / 16, 2.0 / 16}},
        {"groups that stay", {.groups = 2, .top_groups = 2}, {3, 1}, {9.0 / 16, 4.0 / 16}},
        {"losers at zero",
         {.score = MOECL_SCORE_LOGIT, .groups = 2, .top_groups = 1, .group_mask = MOECL_GROUP_MASK_ZERO},
         {3, 2},
         {2.1972245773362196, 0.69314718055994531}},
        {"zero experts", {.zero_experts = 1}, {3, 1}, {9.0 / 16, 4.0 / 16}},
        {"softcap", {.score = MOECL_SCORE_LOGIT, .softcap = 1}, {3, 1}, {0.97560975609756098, 0.88235294117647056}},
        {"no room", {.capacity = {.kind = MOECL_CAPACITY_FIXED, .value = 0}}, {-1, -1}, {0, 0}},
        {"room for one each", {.capacity = {.kind = MOECL_CAPACITY_FRACTION, .value = 0.5f}}, {3, 1}, {0.5625, 0.25}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct routed routed = route(cases[i].router, 4 - cases[i].router.zero_experts, 2, logits, NULL);
        print_message("           %s\n", cases[i].what);
        assert_memory_equal(routed.ids, cases[i].ids, sizeof(cases[i].ids));
        ASSERT_CLOSE(routed.weights, cases[i].weights, 2, 2e-7);
    }
}

static void vectors_of_a_router(void **state)
{
    (void)state;
    const float logits[] = {0, (float)(2 * ln2), (float)ln2, 2.19722458f}, values[] = {0.5f, 0, 0, -0.5f};
    moecl_layer_weights weights = with_vector(MOECL_VECTOR_SELECTION_BIAS, values, 4); /* picks, never mixes */
    struct routed routed = route((moecl_router){.selection_biased = true}, 4, 2, logits, &weights);
    assert_memory_equal(routed.ids, ((int32_t[]){0, 1}), 2 * sizeof(int32_t));
    ASSERT_CLOSE(routed.weights, ((double[]){1.0 / 16, 4.0 / 16}), 2, 2e-7);

    const float masking[] = {(float)(3 * ln2), 0, 0, -INFINITY}; /* ln 8, ln 4, ln 2, masked */
    weights = with_vector(MOECL_VECTOR_ROUTER_BIAS, masking, 4);
    routed = route((moecl_router){.biased = true, .weight = MOECL_WEIGHT_ONE}, 4, 4, logits, &weights);
    assert_memory_equal(routed.ids, ((int32_t[]){0, 1, 2, 3}), 4 * sizeof(int32_t));
    ASSERT_CLOSE(routed.weights, ((double[]){1, 1, 1, 0}), 4, 0);
    ASSERT_CLOSE(routed.logits, ((double[]){3 * ln2, 2 * ln2, ln2}), 3, 1e-7);

    const float scales[] = {1, 3, 1, -2};
    weights = with_vector(MOECL_VECTOR_EXPERT_SCALE, scales, 4);
    routed = route((moecl_router){.expert_scaled = true, .scale = 2}, 4, 2, logits, &weights);
    ASSERT_CLOSE(routed.weights, ((double[]){-4 * 9.0 / 16, 6 * 4.0 / 16}), 2, 2e-7);
}

/* Groups {ln 1, ln 6} and {ln 4, ln 4}: the largest is in the first, the sum of two in the second. */
static void sum_of_two(void **state)
{
    (void)state;
    const float logits[] = {0, 1.79175947f, (float)(2 * ln2), (float)(2 * ln2)};
    moecl_router router = {.groups = 2, .top_groups = 1};
    struct routed routed = route(router, 4, 1, logits, NULL);
    assert_int_equal(routed.ids[0], 1);
    router.group_score = MOECL_GROUP_SCORE_SUM_OF_TWO;
    routed = route(router, 4, 1, logits, NULL);
    assert_int_equal(routed.ids[0], 2);
}

/* Groups of probability 1/4 and 3/4; within them 1/3, 2/3 and 1/2, 1/2. */
static void hierarchical(void **state)
{
    (void)state;
    const float logits[] = {0, (float)ln2, 5, 5, 0, 1.09861229f};
    moecl_router router = {.score = MOECL_SCORE_HIERARCHICAL, .groups = 2, .top_groups = 2};
    struct routed routed = route(router, 4, 4, logits, NULL);
    assert_memory_equal(routed.ids, ((int32_t[]){2, 3, 1, 0}), 4 * sizeof(int32_t));
    ASSERT_CLOSE(routed.weights, ((double[]){3.0 / 8, 3.0 / 8, 1.0 / 6, 1.0 / 12}), 4, 1e-7);
}

/* jitter 0.1: an expert of z counts beside m where m - z is at most 0.2 m. First m = 2: 2 and 1.7 count, 1 does not;
 * then m = 1.7: 1.7 alone. */
static void sparsemixer(void **state)
{
    (void)state;
    const float logits[] = {1, 2, 1.7f};
    struct routed routed = route((moecl_router){.score = MOECL_SCORE_SPARSEMIXER, .jitter = 0.1f}, 3, 2, logits, NULL);
    assert_memory_equal(routed.ids, ((int32_t[]){1, 2}), 2 * sizeof(int32_t));
    ASSERT_CLOSE(routed.weights, ((double[]){1 / (1 + exp(-0.3)), 1}), 2, 1e-7);
}

static void experts_choose(void **state)
{
    (void)state;
    /* logits x * (1, -1): expert 0 prefers large x, expert 1 small ones; C = ceil(3 * 1 / 2) = 2 */
    const float router[] = {1, -1}, x[] = {3, 1, 2};
    struct scalar_layer layer;
    scalar_layer(&layer, 2, 1, router);
    layer.options.router.selection = MOECL_SELECTION_EXPERT_CHOICE;
    layer.options.router.score = MOECL_SCORE_SIGMOID;
    int32_t ids[6];
    double weights[6];
    moecl_reference_call call = {.options = &layer.options,
                                 .weights = &layer.weights,
                                 .tokens = 3,
                                 .x = x,
                                 .ids = ids,
                                 .routing_weights = weights};
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    assert_memory_equal(ids, ((int32_t[]){0, -1, -1, 1, 0, 1}), sizeof(ids));
    const double expected[] = {1 / (1 + exp(-3)), 0, 0, 1 / (1 + exp(1)), 1 / (1 + exp(-2)), 1 / (1 + exp(2))};
    ASSERT_CLOSE(weights, expected, 6, 1e-15);
}

/* Both tokens prefer expert 0, the first one more: balanced, each gets one. */
static void sinkhorn_balances(void **state)
{
    (void)state;
    const float router[] = {2, 0, 1, 0}, x[] = {1, 0, 0, 1};
    moecl_expert_weights experts[2];
    const float ones[2] = {1, 1};
    experts[0] = experts[1] = (moecl_expert_weights){.gate = {ones, MOECL_F32, 1, 2, 0, 0},
                                                     .up = {ones, MOECL_F32, 1, 2, 0, 0},
                                                     .down = {ones, MOECL_F32, 2, 1, 0, 0}};
    /* logits of token 0: (2, 1), of token 1: (0.5, 0) by the router [2,2] below */
    const float rows[] = {router[0], 0.5f, router[2], 0};
    moecl_layer_weights weights = {.router = {rows, MOECL_F32, 2, 2, 0, 0}, .experts = experts};
    moecl_layer_options options = {.experts = 2, .hidden = 2, .intermediate = 1, .top_k = 1};
    int32_t ids[2];
    moecl_reference_call call = {.options = &options, .weights = &weights, .tokens = 2, .x = x, .ids = ids};
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    assert_memory_equal(ids, ((int32_t[]){0, 0}), sizeof(ids));
    options.router.selection = MOECL_SELECTION_SINKHORN;
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    assert_memory_equal(ids, ((int32_t[]){0, 1}), sizeof(ids));
}

/* Four tokens of two choices, all alike: 3 and 1. Room for two each, by three orders. */
static void capacity_orders(void **state)
{
    (void)state;
    const float router[] = {0, 2, 1, 3}, x[] = {1, 2, 0.5f, 4};
    static const struct {
        moecl_capacity_order order;
        bool stays[4];
    } cases[] = {{MOECL_CAPACITY_ORDER_POSITION, {true, true, false, false}},
                 {MOECL_CAPACITY_ORDER_CHOICE, {true, true, false, false}},
                 {MOECL_CAPACITY_ORDER_PROBABILITY, {false, true, false, true}}};
    for (size_t i = 0; i < 3; i++) {
        struct scalar_layer layer;
        scalar_layer(&layer, 4, 1, router);
        layer.options.router.capacity = (moecl_capacity){MOECL_CAPACITY_FACTOR, 2, cases[i].order, false};
        int32_t ids[4];
        double weights[4];
        moecl_reference_call call = {.options = &layer.options,
                                     .weights = &layer.weights,
                                     .tokens = 4,
                                     .x = x,
                                     .ids = ids,
                                     .routing_weights = weights};
        assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
        for (size_t t = 0; t < 4; t++) {
            assert_int_equal(ids[t], cases[i].stays[t] ? 3 : -1);
            assert_true((weights[t] > 0) == cases[i].stays[t]);
        }
    }
}

/* Known answers of Random123's philox4x32-10, and what numbers are made of them. */
static void random_numbers(void **state)
{
    (void)state;
    double sum = 0, squares = 0;
    enum { COUNT = 20000 };
    for (size_t e = 0; e < COUNT; e++) {
        double uniform = moecl_philox_uniform(7, 3, 5, e, MOECL_PHILOX_SECOND);
        double normal = moecl_philox_normal(7, 3, 5, e, MOECL_PHILOX_NOISE);
        assert_true(uniform > 0 && uniform < 1 && (double)(float)uniform == uniform && (double)(float)normal == normal);
        sum += uniform - 0.5;
        squares += normal * normal - 1;
    }
    assert_true(fabs(sum / COUNT) < 5 * 0.2887 / sqrt(COUNT));
    assert_true(fabs(squares / COUNT) < 5 * sqrt(2.0 / COUNT));
    const double first = moecl_philox_uniform(0, 0, 0, 0, (enum moecl_philox_kind)0);
    assert_true(first == (double)(2 * (0x6627e8d5u >> 9) + 1) * 0x1p-24);
    const double other = moecl_philox_uniform(0, 0, 0, 3, (enum moecl_philox_kind)0);
    assert_true(other == (double)(2 * (0x9b00dbd8u >> 9) + 1) * 0x1p-24);
    /* The inverse of the normal distribution's tail at (2 * 0x6627e8d5 + 1) / 2^33 and (2 * 0x1b00dbd8 + 1) / 2^33. */
    assert_true(fabs(moecl_philox_normal(0, 0, 0, 0, (enum moecl_philox_kind)0) - 0.2558159704) < 0x1p-19);
    assert_true(fabs(moecl_philox_normal(0, 0, 0, 3, (enum moecl_philox_kind)0) + 1.2509198865) < 0x1p-19);
}

/* ---------------------------------------------------------------------------------------------- the experts -- */

static void functions(void **state)
{
    (void)state;
    static const struct {
        moecl_expert_function function;
        double gate, up, h;
    } cases[] = {
        {{.activation = MOECL_ACTIVATION_SILU}, 2, 3, 5.2847824678672941},
        {{.activation = MOECL_ACTIVATION_SILU, .alpha = 1.702f}, 1, 2, 1.69159153758727},
        {{.activation = MOECL_ACTIVATION_GELU}, 1, 2, 1.6826894921370859},
        {{.activation = MOECL_ACTIVATION_GELU_TANH}, 1, 2, 1.68238398121655},
        {{.activation = MOECL_ACTIVATION_RELU}, -1, 2, 0},
        {{.activation = MOECL_ACTIVATION_RELU}, 3, 2, 6},
        {{.activation = MOECL_ACTIVATION_RELU_SQUARED}, 3, 2, 18},
        {{.activation = MOECL_ACTIVATION_IDENTITY}, 3, 2, 6},
        {{.activation = MOECL_ACTIVATION_IDENTITY, .up_offset = 1}, 3, 2, 9},
        {{.activation = MOECL_ACTIVATION_IDENTITY, .ungated = true, .up_offset = 1}, 3, 2, 3},
        {{.activation = MOECL_ACTIVATION_RELU_SQUARED, .clamp = MOECL_CLAMP_BEFORE, .limit = 2}, 3, -5, -8},
        {{.activation = MOECL_ACTIVATION_RELU_SQUARED, .clamp = MOECL_CLAMP_AFTER, .limit = 2}, 3, 5, 4},
        {{.activation = MOECL_ACTIVATION_IDENTITY, .clamp = MOECL_CLAMP_BEFORE, .limit = 2}, -3, 1, -3},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        double h = moecl_reference_function(&cases[i].function, cases[i].gate, cases[i].up);
        if (!(fabs(h - cases[i].h) <= 1e-7 * fabs(cases[i].h)))
            fail_msg("case %zu: %.9g instead of %.9g", i, h, cases[i].h);
    }
}

/* H = 1, one expert of identity: y is worked out by hand for each part of a layer. */
static void parts_of_a_layer(void **state)
{
    (void)state;
    const float router = 0, two = 2, three = 3, five = 5, half = 0.5f, x = 4;
    struct scalar_layer layer;
    scalar_layer(&layer, 1, 1, &router);
    layer.options.function = (moecl_expert_function){.activation = MOECL_ACTIVATION_IDENTITY, .ungated = true};
    layer.experts[0] = (moecl_expert_weights){.up = column(&two, 1), .down = column(&three, 1)};
    double y = run(&layer, x).y; /* 3 * 2 * 4 */
    assert_true(y == 24);

    layer.options.function.biased = true; /* 3 * (2 * 4 + 5) + 0.5 */
    layer.experts[0].up_bias = column(&five, 1);
    layer.experts[0].down_bias = column(&half, 1);
    assert_true(run(&layer, x).y == 39.5);

    layer.options.router.scale = 0.5f; /* on the output, then on the input: 3 * (2 * 0.5 * 4 + 5) + 0.5 */
    assert_true(run(&layer, x).y == 19.75);
    layer.options.router.weight_on_input = true;
    assert_true(run(&layer, x).y == 27.5);

    layer.options.output_biased = true; /* + 5 */
    layer.weights.vectors[MOECL_VECTOR_OUTPUT_BIAS] = column(&five, 1);
    assert_true(run(&layer, x).y == 32.5);

    layer.options.latent = 1; /* 2 * (3 * (2 * 0.5 * 3 * 4 + 5) + 0.5) + 5 */
    layer.weights.latent_down = column(&three, 1);
    layer.weights.latent_up = column(&two, 1);
    assert_true(run(&layer, x).y == 108);

    layer.options.shared_intermediate = 1; /* + 0.5 * 3 * 2 * 4 */
    layer.options.shared_function = (moecl_expert_function){.activation = MOECL_ACTIVATION_IDENTITY, .ungated = true};
    layer.options.shared_scale = 0.5f;
    layer.weights.shared = (moecl_expert_weights){.up = column(&two, 1), .down = column(&three, 1)};
    assert_true(run(&layer, x).y == 120);

    const float gates[] = {0, 0}; /* both coefficients 1/2; the output bias has none */
    layer.options.shared_gate = MOECL_SHARED_GATE_SOFTMAX;
    layer.weights.shared_gate = (moecl_matrix){gates, MOECL_F32, 2, 1, 0, 0};
    assert_true(run(&layer, x).y == 103.0 / 2 + 5 + 6);
}

static void norms_and_zero_experts(void **state)
{
    (void)state;
    /* logits x' * (1, 2), x' = x / sqrt(x^2) * 0.5 = 0.5: p = softmax(0.5, 1); expert 1 is a zero expert */
    const float router[] = {1, 2}, x = 4, two = 2;
    struct scalar_layer layer;
    scalar_layer(&layer, 1, 2, router);
    layer.weights.router = column(router, 2);
    layer.options.router.zero_experts = 1;
    layer.options.router_input = (moecl_input){.normalised = true, .scale = 0.5f};
    layer.options.expert_input = (moecl_input){.normalised = true, .scaled = true};
    layer.weights.vectors[MOECL_VECTOR_EXPERT_NORM] = column(&two, 1);
    layer.options.function = (moecl_expert_function){.activation = MOECL_ACTIVATION_IDENTITY, .ungated = true};
    struct routed routed = run(&layer, x);
    const double p = 1 / (1 + exp(-0.5));
    assert_memory_equal(routed.ids, ((int32_t[]){1, 0}), 2 * sizeof(int32_t));
    ASSERT_CLOSE(routed.weights, ((double[]){p, 1 - p}), 2, 1e-15);
    ASSERT_CLOSE(&routed.y, &((double){p * 4 + (1 - p) * 2}), 1, 1e-15); /* x itself; the norm 1, times 2 */
}

static void tables(void **state)
{
    (void)state;
    const float router[] = {0, 1, 2}, x[] = {1, 1, 1};
    const int32_t table[] = {2, 0, 1, 2}, token_ids[] = {1, 0, 2}; /* the last is not of the table */
    struct scalar_layer layer;
    scalar_layer(&layer, 3, 2, router);
    layer.options.router.selection = MOECL_SELECTION_TABLE;
    layer.options.router.table_rows = 2;
    layer.weights.table = table;
    int32_t ids[6];
    moecl_reference_call call = {.options = &layer.options, .weights = &layer.weights, .tokens = 3, .x = x, .ids = ids};
    assert_int_equal(moecl_reference_forward(&call), MOECL_INVALID_ARGUMENT); /* without token ids */
    call.token_ids = token_ids;
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    assert_memory_equal(ids, ((int32_t[]){1, 2, 2, 0, -1, -1}), sizeof(ids));
}

/* Matrices with strides are the matrices that they show. */
static void strides(void **state)
{
    (void)state;
    const float padded[] = {1, 9, 9, 2, 9, 9, 3}; /* a column of stride 3 */
    const float plain[] = {1, 2, 3};
    struct scalar_layer layer;
    scalar_layer(&layer, 3, 3, plain);
    struct routed expected = run(&layer, 1);
    layer.weights.router = (moecl_matrix){padded, MOECL_F32, 3, 1, 3, 1};
    struct routed routed = run(&layer, 1);
    assert_memory_equal(routed.weights, expected.weights, 3 * sizeof(double));
    assert_true(routed.y == expected.y);
}

/* The formulas of moecl.h, token by token, without any of the reference's parts. */
static void plain_layer(const struct host_layer *layer, const float *x, const int32_t *ids, const double *weights,
                        double *y)
{
    const moecl_layer_options *options = &layer->options;
    for (size_t j = 0; j <= options->top_k; j++) {
        bool shared = j == options->top_k;
        if (shared && options->shared_intermediate == 0)
            break;
        const moecl_expert_weights *expert = shared ? &layer->weights.shared : &layer->experts[ids[j]];
        double scale = shared ? 1 : weights[j], logit = 0;
        if (shared && options->shared_gate) {
            for (size_t c = 0; c < options->hidden; c++)
                logit += (double)matrix_get(&layer->weights.shared_gate, 0, c) * (double)x[c];
            scale = 1 / (1 + exp(-logit));
        }
        for (size_t i = 0; i < expert->gate.rows; i++) {
            double gate = 0, up = 0;
            for (size_t c = 0; c < options->hidden; c++) {
                gate += (double)matrix_get(&expert->gate, i, c) * (double)x[c];
                up += (double)matrix_get(&expert->up, i, c) * (double)x[c];
            }
            for (size_t o = 0; o < options->hidden; o++)
                y[o] += scale * (double)matrix_get(&expert->down, o, i) * gate / (1 + exp(-gate)) * up;
        }
    }
}

static void agrees_with_the_formulas(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        uint64_t numbers = seed;
        moecl_layer_options options = {
            .experts = random_between(&numbers, 1, 9),
            .hidden = random_between(&numbers, 1, 40),
            .intermediate = random_between(&numbers, 1, 30),
            .router.normalisation = seed % 2 == 0 ? MOECL_NORMALISATION_SUM : MOECL_NORMALISATION_NONE,
            .shared_intermediate = seed % 3 == 0 ? random_between(&numbers, 1, 50) : 0,
            .shared_gate = seed % 6 == 0 ? MOECL_SHARED_GATE_SIGMOID : MOECL_SHARED_GATE_NONE};
        options.top_k = random_between(&numbers, 1, options.experts);
        size_t tokens = random_between(&numbers, 1, 12), count = tokens * options.hidden;
        struct host_layer layer = host_layer_make(&options, MOECL_F32, seed);
        float *x = make(count, sizeof *x);
        random_fill(&numbers, 1, x, count);
        int32_t *ids = make(tokens * options.top_k, sizeof *ids);
        double *weights = make(tokens * options.top_k, sizeof *weights);
        double *y = make(count, sizeof *y), *expected = make(count, sizeof *y);
        moecl_reference_call call = {.options = &options,
                                     .weights = &layer.weights,
                                     .tokens = tokens,
                                     .x = x,
                                     .ids = ids,
                                     .routing_weights = weights,
                                     .y = y};
        assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
        for (size_t t = 0; t < tokens; t++)
            plain_layer(&layer, &x[t * options.hidden], &ids[t * options.top_k], &weights[t * options.top_k],
                        &expected[t * options.hidden]);
        ASSERT_CLOSE(y, expected, count, 1e-13);
        free(x);
        free(ids);
        free(weights);
        free(y);
        free(expected);
        host_layer_free(&layer);
    }
}

static void wrong_arguments(void **state)
{
    (void)state;
    const float router[] = {1, 2, 3};
    struct scalar_layer layer;
    float x = 1;
    double y;
    moecl_reference_call call = {.options = &layer.options, .weights = &layer.weights, .tokens = 1, .x = &x, .y = &y};
    scalar_layer(&layer, 3, 4, router); /* k > E */
    assert_int_equal(moecl_reference_forward(&call), MOECL_INVALID_ARGUMENT);
    scalar_layer(&layer, 3, 0, router);
    assert_int_equal(moecl_reference_forward(&call), MOECL_INVALID_ARGUMENT);
    scalar_layer(&layer, 3, 1, router);
    layer.weights.router.rows = 2;
    assert_int_equal(moecl_reference_forward(&call), MOECL_INVALID_ARGUMENT);
    scalar_layer(&layer, 3, 1, router);
    layer.experts[2].down.columns = 2;
    assert_int_equal(moecl_reference_forward(&call), MOECL_INVALID_ARGUMENT);
    scalar_layer(&layer, 3, 1, router);
    layer.options.shared_intermediate = 1; /* without its weights */
    assert_int_equal(moecl_reference_forward(&call), MOECL_INVALID_ARGUMENT);
    scalar_layer(&layer, 3, 1, router);
    call.x = NULL;
    assert_int_equal(moecl_reference_forward(&call), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_reference_forward(NULL), MOECL_INVALID_ARGUMENT);
    call.x = &x;
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(softmax_and_top_k),
        cmocka_unit_test(one_expert_in_full),
        cmocka_unit_test(ties_go_to_the_lower_index),
        cmocka_unit_test(all_experts_and_one_expert),
        cmocka_unit_test(large_logits_do_not_overflow),
        cmocka_unit_test(nan_counts_as_minus_infinity),
        cmocka_unit_test(no_tokens),
        cmocka_unit_test(given_routing),
        cmocka_unit_test(storage_rounds),
        cmocka_unit_test(agrees_with_the_formulas),
        cmocka_unit_test(wrong_arguments),
        cmocka_unit_test(one_option_at_a_time),
        cmocka_unit_test(vectors_of_a_router),
        cmocka_unit_test(sum_of_two),
        cmocka_unit_test(hierarchical),
        cmocka_unit_test(sparsemixer),
        cmocka_unit_test(experts_choose),
        cmocka_unit_test(sinkhorn_balances),
        cmocka_unit_test(capacity_orders),
        cmocka_unit_test(random_numbers),
        cmocka_unit_test(functions),
        cmocka_unit_test(parts_of_a_layer),
        cmocka_unit_test(norms_and_zero_experts),
        cmocka_unit_test(tables),
        cmocka_unit_test(strides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
