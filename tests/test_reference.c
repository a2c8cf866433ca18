/* SPDX-License-Identifier: Apache-2.0 */
/* test_reference.c - the double-precision layer on cases worked out by hand, and against the formulas written out token
 * by token. */
#include <math.h>
#include <stdlib.h>

#include "layers.h"
#include "random.h"

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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
