/* SPDX-License-Identifier: Apache-2.0 */
/* test_verify.c - that a check of a layer fails when anything is wrong: weights, routing, any stage's results. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "layers.h"
#include "random.h"
#include "reference/staged.h"

enum { EXPERTS = 8, HIDDEN = 40, INTERMEDIATE = 28, TOP_K = 3, SHARED = 20, TOKENS = 8 };

/* A layer that is right, its input, and what it gives. The device runs once; the checks then see its results, or the
 * weights they are checked with, spoilt. */
struct fixture {
    moecl_context *context;
    struct host_layer host;
    moecl_layer *layer;
    float *x;
    struct array device_x;
    moecl_verify_report report;
    struct moecl_verification verification;
    struct moecl_verify_chunk chunk; /* the forward pass's results */
    struct moecl_staged staged;      /* the stages' */
    struct moecl_reference_router router;
};

static const moecl_layer_options base = {.experts = EXPERTS,
                                         .hidden = HIDDEN,
                                         .intermediate = INTERMEDIATE,
                                         .top_k = TOP_K,
                                         .shared_intermediate = SHARED,
                                         .shared_gate = MOECL_SHARED_GATE_SIGMOID};

/* Begins a check of the fixture's results. */
static struct moecl_verification *begin(struct fixture *fixture)
{
    fixture->report = (moecl_verify_report){.passed = true, .deterministic = true};
    fixture->verification = (struct moecl_verification){.context = fixture->context,
                                                        .layer = fixture->layer,
                                                        .options = moecl_layer_describe(fixture->layer),
                                                        .weights = &fixture->host.weights,
                                                        .router = fixture->router,
                                                        .h_type = MOECL_F32,
                                                        .random = 17,
                                                        .report = &fixture->report,
                                                        .worst = -1};
    return &fixture->verification;
}

/* Runs the layer and its stages. */
static void run(struct fixture *fixture)
{
    moecl_context *context = fixture->context;
    struct moecl_verify_chunk *chunk = &fixture->chunk;
    struct array y = array_make(context, TOKENS * HIDDEN * sizeof(float), NULL);
    struct array ids = array_make(context, TOKENS * TOP_K * sizeof(int32_t), NULL);
    struct array weights = array_make(context, TOKENS * TOP_K * sizeof(float), NULL);
    moecl_forward forward = {
        .tokens = TOKENS, .x = fixture->device_x.buffer, .y = y.buffer, .routing = {ids.buffer, weights.buffer}};
    ASSERT_OK(context, moecl_layer_forward(fixture->layer, &forward, 0, NULL, NULL));
    *chunk = (struct moecl_verify_chunk){.tokens = TOKENS, .x = fixture->x, .device_x = fixture->device_x.buffer};
    chunk->y = array_bytes(context, y);
    chunk->ids = array_bytes(context, ids);
    chunk->weights = array_bytes(context, weights);
    array_release(&y);
    array_release(&ids);
    array_release(&weights);
    assert_int_equal(
        moecl_reference_router_open(&fixture->router, moecl_layer_describe(fixture->layer), &fixture->host.weights),
        MOECL_OK);
    ASSERT_OK(context, moecl_staged_run(begin(fixture), chunk, &fixture->staged));
}

static bool full_passes(struct fixture *fixture)
{
    ASSERT_OK(fixture->context, moecl_verify_full(begin(fixture), &fixture->chunk));
    return fixture->report.passed;
}

static bool stages_pass(struct fixture *fixture)
{
    ASSERT_OK(fixture->context, moecl_verify_staged(begin(fixture), &fixture->chunk, &fixture->staged));
    return fixture->report.passed;
}

static int set_up(void **state)
{
    struct fixture *fixture = make(1, sizeof *fixture);
    uint64_t seed = 11;
    fixture->context = open_context();
    fixture->host = host_layer_make(&base, MOECL_F32, 7);
    fixture->layer = host_layer_upload(fixture->context, &fixture->host);
    fixture->x = make(TOKENS * HIDDEN, sizeof(float));
    random_fill(&seed, 1, fixture->x, TOKENS * HIDDEN);
    fixture->device_x = array_of(fixture->context, MOECL_F32, fixture->x, TOKENS * HIDDEN);
    run(fixture);
    *state = fixture;
    return 0;
}

static void results_free(struct fixture *fixture)
{
    free(fixture->chunk.y);
    free(fixture->chunk.ids);
    free(fixture->chunk.weights);
    moecl_staged_free(&fixture->staged);
    moecl_reference_router_close(&fixture->router);
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    results_free(fixture);
    array_release(&fixture->device_x);
    free(fixture->x);
    moecl_layer_destroy(fixture->layer);
    host_layer_free(&fixture->host);
    moecl_context_destroy(fixture->context);
    free(fixture);
    return 0;
}

static moecl_verify_report verify(const struct fixture *fixture, moecl_verify_method method)
{
    moecl_verify_report report;
    ASSERT_OK(fixture->context, moecl_verify(fixture->context, fixture->layer, &fixture->host.weights, TOKENS,
                                             fixture->x, method, 3, &report));
    return report;
}

/* ------------------------------------------------------------------------------------------------- the whole -- */

static void right_layer_passes(void **state)
{
    const moecl_verify_method methods[] = {MOECL_VERIFY_AUTO, MOECL_VERIFY_FULL, MOECL_VERIFY_PROJECT};
    for (size_t i = 0; i < 3; i++) {
        moecl_verify_report report = verify(*state, methods[i]);
        print_message("           %.3g of %.3g allowed: %s\n", report.max_error, report.tolerance, report.worst);
        assert_true(report.passed);
        assert_true(report.deterministic);
        assert_int_equal(report.id_mismatches, 0);
        assert_true(report.max_error <= report.tolerance);
        assert_int_equal(report.method, methods[i] == MOECL_VERIFY_AUTO ? MOECL_VERIFY_FULL : methods[i]);
    }
}

static void no_tokens_and_wrong_arguments(void **state)
{
    struct fixture *fixture = *state;
    moecl_context *context = fixture->context;
    moecl_layer_weights *weights = &fixture->host.weights;
    moecl_verify_report report;
    for (moecl_verify_method method = MOECL_VERIFY_AUTO; method <= MOECL_VERIFY_PROJECT; method++) {
        ASSERT_OK(context, moecl_verify(context, fixture->layer, weights, 0, NULL, method, 1, &report));
        assert_true(report.passed);
    }
    assert_int_equal(moecl_verify(context, NULL, weights, 1, fixture->x, 0, 1, &report), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_verify(context, fixture->layer, weights, 1, NULL, 0, 1, &report), MOECL_INVALID_ARGUMENT);
    weights->router.rows--;
    assert_int_equal(moecl_verify(context, fixture->layer, weights, 1, fixture->x, 0, 1, &report),
                     MOECL_INVALID_ARGUMENT);
    weights->router.rows++;
    float saved = fixture->x[5];
    fixture->x[5] = NAN;
    assert_int_equal(moecl_verify(context, fixture->layer, weights, 1, fixture->x, 0, 1, &report), MOECL_NOT_FINITE);
    fixture->x[5] = saved;
}

/* ----------------------------------------------------------------------------------------------- wrong weights -- */

/* Both checks must see that the weights are not the layer's. */
static void assert_seen(struct fixture *fixture, const char *what)
{
    assert_false(full_passes(fixture));
    print_message("           %s, in full: %.3g of %.3g allowed: %s\n", what, fixture->report.max_error,
                  fixture->report.tolerance, fixture->report.worst);
    assert_false(stages_pass(fixture));
    print_message("           %s, projected: %.3g of %.3g allowed: %s\n", what, fixture->report.max_error,
                  fixture->report.tolerance, fixture->report.worst);
}

/* An expert that some token of the fixture chose. */
static size_t used_expert(const struct fixture *fixture)
{
    return (size_t)fixture->chunk.ids[TOKENS / 2 * TOP_K];
}

/* The largest element of a matrix, made larger by 1 %. */
static void one_element(struct fixture *fixture, const moecl_matrix *matrix, const char *what)
{
    size_t row = 0, column = 0;
    for (size_t r = 0; r < matrix->rows; r++)
        for (size_t c = 0; c < matrix->columns; c++)
            if (fabsf(matrix_get(matrix, r, c)) > fabsf(matrix_get(matrix, row, column))) {
                row = r;
                column = c;
            }
    float value = matrix_get(matrix, row, column);
    matrix_set(matrix, row, column, value * 1.01f);
    assert_seen(fixture, what);
    matrix_set(matrix, row, column, value);
}

static void one_percent_of_one_element(void **state)
{
    struct fixture *fixture = *state;
    const moecl_expert_weights *expert = &fixture->host.experts[used_expert(fixture)];
    const moecl_layer_weights *weights = &fixture->host.weights;
    one_element(fixture, &expert->gate, "gate");
    one_element(fixture, &expert->up, "up");
    one_element(fixture, &expert->down, "down");
    one_element(fixture, &weights->router, "router");
    one_element(fixture, &weights->shared.gate, "shared gate projection");
    one_element(fixture, &weights->shared.up, "shared up");
    one_element(fixture, &weights->shared.down, "shared down");
    one_element(fixture, &weights->shared_gate, "shared gate");
    assert_true(full_passes(fixture));
    assert_true(stages_pass(fixture));
}

static void exchange_rows(const moecl_matrix *matrix, size_t a, size_t b)
{
    for (size_t c = 0; c < matrix->columns; c++) {
        float value = matrix_get(matrix, a, c);
        matrix_set(matrix, a, c, matrix_get(matrix, b, c));
        matrix_set(matrix, b, c, value);
    }
}

static void exchanged_rows_and_experts(void **state)
{
    struct fixture *fixture = *state;
    size_t used = used_expert(fixture), other = (used + 1) % EXPERTS;
    moecl_expert_weights *experts = fixture->host.experts;
    const moecl_matrix *matrices[] = {&experts[used].gate, &experts[used].up, &experts[used].down,
                                      &fixture->host.weights.router, &fixture->host.weights.shared.down};
    for (size_t i = 0; i < sizeof(matrices) / sizeof(matrices[0]); i++) {
        exchange_rows(matrices[i], 2, 5);
        assert_seen(fixture, "two rows exchanged");
        exchange_rows(matrices[i], 2, 5);
    }
    moecl_expert_weights saved = experts[used];
    experts[used] = experts[other];
    experts[other] = saved;
    assert_seen(fixture, "two experts exchanged");
    experts[other] = experts[used];
    experts[used] = saved;
    moecl_matrix gate = experts[used].gate;
    experts[used].gate = experts[used].up;
    experts[used].up = gate;
    assert_seen(fixture, "gate and up exchanged");
    experts[used].up = experts[used].gate;
    experts[used].gate = gate;
    assert_true(full_passes(fixture));
    assert_true(stages_pass(fixture));
}

/* Weights cut to bf16, where the layer rounds to nearest. */
static void rounding_of_weights(void **state)
{
    const struct fixture *fixture = *state;
    struct fixture rounded = {.context = fixture->context, .x = fixture->x, .device_x = fixture->device_x};
    moecl_layer_options options = base;
    options.weights = MOECL_BF16;
    rounded.host = host_layer_make(&options, MOECL_F32, 7);
    rounded.layer = host_layer_upload(rounded.context, &rounded.host);
    run(&rounded);
    assert_true(full_passes(&rounded));
    assert_true(stages_pass(&rounded));
    for (size_t e = 0; e < EXPERTS; e++)
        for (size_t i = 0; i < INTERMEDIATE * HIDDEN; i++)
            ((uint32_t *)rounded.host.experts[e].down.data)[i] &= 0xffff0000u;
    assert_seen(&rounded, "weights cut to bf16");
    results_free(&rounded);
    moecl_layer_destroy(rounded.layer);
    host_layer_free(&rounded.host);
}

/* ------------------------------------------------------------------------------------------------ wrong results -- */

static void wrong_outputs_in_full(void **state)
{
    struct fixture *fixture = *state;
    float *y = fixture->chunk.y, *weights = fixture->chunk.weights;
    int32_t *ids = fixture->chunk.ids;
    assert_true(full_passes(fixture));
    const float wrong[] = {y[5] * 1.001f + 1e-3f, NAN, INFINITY, -y[5]};
    float saved = y[5];
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        y[5] = wrong[i];
        assert_false(full_passes(fixture));
        assert_non_null(strstr(fixture->report.worst, "y of token 0, column 5"));
        assert_true(isfinite(fixture->report.max_error));
    }
    y[5] = saved;

    saved = weights[4];
    const float wrong_weights[] = {saved * 1.0001f, NAN, 0};
    for (size_t i = 0; i < sizeof(wrong_weights) / sizeof(wrong_weights[0]); i++) {
        weights[4] = wrong_weights[i];
        assert_false(full_passes(fixture));
        assert_non_null(strstr(fixture->report.worst, "weight 1 of token 1"));
    }
    weights[4] = saved;

    int32_t id = ids[7], other = 0;
    while (other == ids[6] || other == ids[7] || other == ids[8])
        other++;
    const int32_t wrong_ids[] = {other, ids[6], -1, EXPERTS, INT32_MAX};
    for (size_t i = 0; i < sizeof(wrong_ids) / sizeof(wrong_ids[0]); i++) {
        ids[7] = wrong_ids[i];
        assert_false(full_passes(fixture));
        assert_int_equal(fixture->report.id_mismatches, 1);
    }
    ids[7] = ids[8]; /* exchanged */
    ids[8] = id;
    assert_false(full_passes(fixture));
    ids[8] = ids[7];
    ids[7] = id;
    assert_true(full_passes(fixture));
}

/* Two experts whose router rows differ in a last bit: either may come first, and y is checked with the one chosen. */
static void near_ties(void **state)
{
    struct fixture *fixture = *state;
    struct fixture tied = {.context = fixture->context, .x = fixture->x, .device_x = fixture->device_x};
    tied.host = host_layer_make(&base, MOECL_F32, 7);
    for (size_t c = 0; c < HIDDEN; c++)
        for (size_t e = 1; e < EXPERTS; e++)
            matrix_set(&tied.host.weights.router, e, c, matrix_get(&tied.host.weights.router, 0, c));
    float last = matrix_get(&tied.host.weights.router, 0, HIDDEN - 1);
    for (size_t e = 0; e < EXPERTS; e++) /* real ties would go to the lower index; these rise by one bit */
        matrix_set(&tied.host.weights.router, e, HIDDEN - 1, last * (1 + (float)e * 0x1p-23f));
    tied.layer = host_layer_upload(tied.context, &tied.host);
    run(&tied);
    assert_true(full_passes(&tied));
    assert_true(stages_pass(&tied));
    assert_true(full_passes(&tied));
    size_t wrong_in_fp32 = tied.report.near_ties;
    int32_t first[TOP_K], second[TOP_K] = {4, 1, 6};
    memcpy(first, tied.chunk.ids, sizeof(first));
    memcpy(tied.chunk.ids, second, sizeof(second)); /* other experts: near-ties, but y is not theirs */
    assert_false(full_passes(&tied));
    assert_int_equal(tied.report.id_mismatches, 0);
    assert_true(tied.report.near_ties >= wrong_in_fp32);
    tied.chunk.ids[0] = first[2]; /* the same experts in another order */
    tied.chunk.ids[1] = first[1];
    tied.chunk.ids[2] = first[0];
    assert_true(full_passes(&tied));
    results_free(&tied);
    moecl_layer_destroy(tied.layer);
    host_layer_free(&tied.host);
}

/* A result of a stage; one value in it is changed, and the words that must be in the report. */
static const struct change {
    size_t array; /* offset in struct moecl_staged */
    bool integer;
    const char *words;
} changes[] = {
    {offsetof(struct moecl_staged, logits), false, "logits"},
    {offsetof(struct moecl_staged, router), false, ""}, /* the router's or the shared gate's column */
    {offsetof(struct moecl_staged, ids), true, "expert ids"},
    {offsetof(struct moecl_staged, weights), false, ""}, /* its own check, and combine's */
    {offsetof(struct moecl_staged, offsets), true, "permutation: offset"},
    {offsetof(struct moecl_staged, assignments), true, "permutation: row"},
    {offsetof(struct moecl_staged, rows), true, "permutation: assignment"},
    {offsetof(struct moecl_staged, linear), false, ""}, /* gate, up, or the h made of them */
    {offsetof(struct moecl_staged, h), false, "h: element"},
    {offsetof(struct moecl_staged, z), false, ""}, /* down, or combine */
    {offsetof(struct moecl_staged, shared_linear), false, ""},
    {offsetof(struct moecl_staged, shared_h), false, "shared h: element"},
    {offsetof(struct moecl_staged, shared_z), false, ""},
    {offsetof(struct moecl_staged, y), false, ""},
};

static void any_wrong_value_of_any_stage(void **state)
{
    struct fixture *fixture = *state;
    uint64_t seed = 23;
    assert_true(stages_pass(fixture));
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        struct moecl_staged_array *array = (void *)((char *)&fixture->staged + changes[i].array);
        float *values = array->host;
        int32_t *integers = array->host;
        for (size_t attempt = 0; attempt < 50; attempt++) {
            size_t at = random_between(&seed, 0, array->bytes / 4 - 1);
            float value = values[at];
            if (changes[i].integer)
                integers[at] += (int32_t)random_between(&seed, 1, 3);
            else
                values[at] += copysignf(0.02f, value) + value * 0.02f;
            assert_false(stages_pass(fixture));
            if (strstr(fixture->report.worst, changes[i].words) == NULL)
                fail_msg("%s should tell of %s", fixture->report.worst, changes[i].words);
            values[at] = value;
        }
    }
    assert_true(stages_pass(fixture));
}

/* Layers with what the fixture's has not; all rows of all of them are used, so that no change goes unseen. */
static const moecl_layer_options others[] = {
    {.experts = EXPERTS,
     .hidden = HIDDEN,
     .intermediate = INTERMEDIATE,
     .top_k = TOP_K,
     .router = {.score = MOECL_SCORE_SIGMOID, .biased = true, .softcap = 5, .weight_on_input = true},
     .function = {.activation = MOECL_ACTIVATION_SILU,
                  .biased = true,
                  .alpha = 1.702f,
                  .clamp = MOECL_CLAMP_BEFORE,
                  .limit = 7,
                  .up_offset = 1},
     .shared_intermediate = SHARED,
     .shared_function = {.activation = MOECL_ACTIVATION_GELU, .ungated = true, .biased = true},
     .shared_gate = MOECL_SHARED_GATE_SOFTMAX,
     .shared_scale = 0.5f,
     .latent = 24,
     .output_biased = true},
    {.experts = EXPERTS,
     .hidden = HIDDEN,
     .intermediate = INTERMEDIATE,
     .top_k = TOP_K,
     .router = {.normalisation = MOECL_NORMALISATION_SUM, .expert_scaled = true},
     .function = {.activation = MOECL_ACTIVATION_GELU_TANH, .ungated = true},
     .router_input = {.normalised = true, .scaled = true, .epsilon = 1e-6f, .scale = 0.5f},
     .expert_input = {.normalised = true, .scaled = true, .epsilon = 1e-6f}},
};

static const struct {
    const char *name;
    size_t array; /* offset in struct moecl_staged */
} arrays[] = {
#define ARRAY(name) {#name, offsetof(struct moecl_staged, name)},
    MOECL_STAGED_LIST(ARRAY)
#undef ARRAY
};

static void any_wrong_value_of_other_layers(void **state)
{
    const struct fixture *fixture = *state;
    uint64_t seed = 37;
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        struct fixture other = {.context = fixture->context, .x = fixture->x, .device_x = fixture->device_x};
        other.host = host_layer_make(&others[i], MOECL_F32, 3);
        other.layer = host_layer_upload(other.context, &other.host);
        run(&other);
        assert_true(full_passes(&other));
        assert_true(stages_pass(&other));
        for (size_t a = 0; a < sizeof(arrays) / sizeof(arrays[0]); a++) {
            struct moecl_staged_array *array = (void *)((char *)&other.staged + arrays[a].array);
            uint32_t *words = array->host;
            if (strcmp(arrays[a].name, "whole") == 0) /* what the caller gave */
                continue;
            for (size_t attempt = 0; array->bytes > 0 && attempt < 30; attempt++) {
                size_t at = random_between(&seed, 0, array->bytes / 4 - 1);
                const uint32_t saved = words[at];
                words[at] ^= 1u << 18; /* of a float 1/32 of it and more */
                if (stages_pass(&other))
                    fail_msg("layer %zu: %s, word %zu", i, arrays[a].name, at);
                words[at] = saved;
            }
        }
        assert_true(stages_pass(&other));
        results_free(&other);
        moecl_layer_destroy(other.layer);
        host_layer_free(&other.host);
    }
}

/* Errors that cancel under equal signs: four projections see them all the same. */
static void exchanged_values(void **state)
{
    struct fixture *fixture = *state;
    uint64_t seed = 29;
    float *linear = fixture->staged.linear.host, *h = fixture->staged.h.host;
    for (size_t attempt = 0; attempt < 200; attempt++) {
        size_t row = random_between(&seed, 0, TOKENS * TOP_K - 1), half = random_between(&seed, 0, 1) * INTERMEDIATE;
        size_t a = random_between(&seed, 0, INTERMEDIATE - 2), b = random_between(&seed, a + 1, INTERMEDIATE - 1);
        float *values = &linear[row * 2 * INTERMEDIATE], *activated = &h[row * INTERMEDIATE];
        float before[2 * INTERMEDIATE], activated_before[INTERMEDIATE];
        memcpy(before, values, sizeof(before));
        memcpy(activated_before, activated, sizeof(activated_before));
        values[half + a] = before[half + b];
        values[half + b] = before[half + a];
        for (size_t i = 0; i < INTERMEDIATE; i++) /* h is right for these: only the projection can tell */
            activated[i] = values[i] / (1 + expf(-values[i])) * values[INTERMEDIATE + i];
        assert_false(stages_pass(fixture));
        memcpy(values, before, sizeof(before));
        memcpy(activated, activated_before, sizeof(activated_before));
    }
}

/* A forward pass whose y is within rounding of its stages', but not the same bits. */
static void other_bits(void **state)
{
    struct fixture *fixture = *state;
    float *y = fixture->chunk.y, saved = y[70];
    y[70] = nextafterf(saved, 0);
    assert_false(stages_pass(fixture));
    assert_non_null(strstr(fixture->report.worst, "other bits than its stages for token 1"));
    y[70] = saved;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_layer_passes),
        cmocka_unit_test(no_tokens_and_wrong_arguments),
        cmocka_unit_test(one_percent_of_one_element),
        cmocka_unit_test(exchanged_rows_and_experts),
        cmocka_unit_test(rounding_of_weights),
        cmocka_unit_test(wrong_outputs_in_full),
        cmocka_unit_test(near_ties),
        cmocka_unit_test(any_wrong_value_of_any_stage),
        cmocka_unit_test(any_wrong_value_of_other_layers),
        cmocka_unit_test(exchanged_values),
        cmocka_unit_test(other_bits),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
