/* SPDX-License-Identifier: Apache-2.0 */
/* test_verify.c - that a check of a layer fails when anything is wrong: weights, routing, any stage's results. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "layers.h"
#include "random.h"
#include "reference/routing_check.h"
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

/* ----------------------------------------------------------------------------------- routings of every kind -- */

/* A routing of T tokens, given by its logits, and a device's answer to it: by default the reference's. */
struct answer {
    moecl_layer_options options;
    struct moecl_reference_router router;
    struct moecl_reference_routing exact;
    double *errors; /* [T,columns] */
    int32_t *ids;
    float *weights;
    moecl_verify_report report;
};

static void answer_make(struct answer *answer, const moecl_layer_options *options, const moecl_layer_weights *weights,
                        const double *logits, double error, const int32_t *token_ids, bool noisy)
{
    *answer = (struct answer){.options = *options};
    assert_int_equal(moecl_reference_router_open(&answer->router, &answer->options, weights), MOECL_OK);
    answer->router.token_ids = token_ids;
    answer->router.noisy = noisy;
    assert_int_equal(moecl_reference_routing_make(&answer->exact, &answer->router, TOKENS), MOECL_OK);
    const size_t columns = answer->router.columns, choices = TOKENS * answer->router.slots;
    memcpy(answer->exact.logits, logits, TOKENS * columns * sizeof(double));
    assert_int_equal(moecl_reference_route(&answer->router, TOKENS, &answer->exact), MOECL_OK);
    answer->errors = make(TOKENS * columns, sizeof(double));
    for (size_t i = 0; i < TOKENS * columns; i++)
        answer->errors[i] = error;
    answer->ids = make(choices, sizeof(int32_t));
    answer->weights = make(choices, sizeof(float));
    memcpy(answer->ids, answer->exact.ids, choices * sizeof(int32_t));
    for (size_t i = 0; i < choices; i++)
        answer->weights[i] = (float)answer->exact.weights[i];
}

static void answer_free(struct answer *answer)
{
    moecl_reference_routing_free(&answer->exact);
    moecl_reference_router_close(&answer->router);
    free(answer->errors);
    free(answer->ids);
    free(answer->weights);
}

static bool accepted(struct answer *answer)
{
    const size_t choices = TOKENS * answer->router.slots;
    int32_t *ids = make(choices, sizeof(int32_t));
    double *weights = make(choices, sizeof(double)), *errors = make(choices, sizeof(double));
    answer->report = (moecl_verify_report){.passed = true};
    struct moecl_verification verification = {.options = &answer->options, .report = &answer->report, .worst = -1};
    const struct moecl_routing_check check = {.router = &answer->router,
                                              .tokens = TOKENS,
                                              .logits = answer->exact.logits,
                                              .errors = answer->errors,
                                              .ids = answer->ids,
                                              .weights = answer->weights,
                                              .expected_ids = ids,
                                              .expected = weights,
                                              .weight_errors = errors};
    assert_int_equal(moecl_verify_routing(&verification, &check), MOECL_OK);
    free(ids);
    free(weights);
    free(errors);
    return answer->report.passed;
}

/* Routers of which each drops or picks by another rule. */
static const struct {
    const char *what;
    moecl_router router;
} routers[] = {
    {"top-k", {.score = MOECL_SCORE_SOFTMAX}},
    {"sigmoid, selection bias", {.score = MOECL_SCORE_SIGMOID, .selection_biased = true}},
    {"groups", {.groups = 4, .top_groups = 2, .group_score = MOECL_GROUP_SCORE_SUM_OF_TWO}},
    {"groups, zero mask", {.groups = 4, .top_groups = 2, .group_mask = MOECL_GROUP_MASK_ZERO}},
    {"sparsemixer", {.score = MOECL_SCORE_SPARSEMIXER, .jitter = 0.1f}},
    {"hierarchical", {.score = MOECL_SCORE_HIERARCHICAL, .groups = 2, .top_groups = 2}},
    {"top-p", {.top_p = 0.5f}},
    {"threshold", {.threshold = 0.15f, .normalisation = MOECL_NORMALISATION_SUM}},
    {"table", {.selection = MOECL_SELECTION_TABLE, .table_rows = 2}},
    {"expert choice", {.selection = MOECL_SELECTION_EXPERT_CHOICE}},
    {"Sinkhorn", {.selection = MOECL_SELECTION_SINKHORN}},
    {"capacity by position", {.capacity = {MOECL_CAPACITY_FIXED, 2, MOECL_CAPACITY_ORDER_POSITION, false}}},
    {"capacity by choice", {.capacity = {MOECL_CAPACITY_FACTOR, 0.7f, MOECL_CAPACITY_ORDER_CHOICE, true}}},
    {"capacity by probability", {.capacity = {MOECL_CAPACITY_FIXED, 2, MOECL_CAPACITY_ORDER_PROBABILITY, false}}},
    {"random second", {.random_second = true, .normalisation = MOECL_NORMALISATION_SUM}},
};

/* The id at `at` set to `id`: whether the check sees it. */
static bool id_is_seen(struct answer *answer, size_t at, int32_t id)
{
    const int32_t saved = answer->ids[at];
    answer->ids[at] = id;
    const bool seen = !accepted(answer) && answer->report.id_mismatches > 0;
    answer->ids[at] = saved;
    return seen;
}

/* Whatever the router: its own answer is right, and no other id, no other weight is. */
static void any_wrong_choice(void **state)
{
    (void)state;
    static const int32_t table[2 * TOP_K] = {5, 0, 3, 1, 2, 7}, token_ids[TOKENS] = {0, 1, 1, 0, 1, 0, 0, 1};
    float bias[EXPERTS];
    double logits[TOKENS * (EXPERTS + 2)];
    uint64_t seed = 31;
    for (size_t i = 0; i < sizeof(routers) / sizeof(routers[0]); i++) {
        moecl_layer_options options = {
            .experts = EXPERTS, .hidden = 1, .intermediate = 1, .top_k = TOP_K, .router = routers[i].router};
        moecl_layer_weights weights = {.table = table};
        struct answer answer;
        random_fill(&seed, 0.3, bias, EXPERTS);
        weights.vectors[MOECL_VECTOR_SELECTION_BIAS] = (moecl_matrix){bias, MOECL_F32, 1, EXPERTS, 0, 0};
        for (size_t j = 0; j < sizeof(logits) / sizeof(logits[0]); j++) {
            float number;
            random_fill(&seed, 1.2, &number, 1);
            logits[j] = (double)number;
        }
        answer_make(&answer, &options, &weights, logits, 0, token_ids, true);
        if (!accepted(&answer))
            fail_msg("%s: its own answer: %s", routers[i].what, answer.report.worst);
        assert_int_equal(answer.report.near_ties, 0);
        const size_t slots = answer.router.slots;
        for (size_t at = 0; at < TOKENS * slots; at++) {
            for (int32_t id = -1; id <= EXPERTS; id++)
                if (id != answer.ids[at] && !id_is_seen(&answer, at, id))
                    fail_msg("%s: token %zu, choice %zu: %d instead of %d", routers[i].what, at / slots, at % slots,
                             (int)id, (int)answer.ids[at]);
            const float saved = answer.weights[at];
            answer.weights[at] = saved == 0 ? 1e-3f : saved * 1.0001f;
            if (accepted(&answer))
                fail_msg("%s: token %zu, choice %zu: another weight", routers[i].what, at / slots, at % slots);
            answer.weights[at] = saved;
        }
        assert_true(accepted(&answer));
        answer_free(&answer);
    }
}

/* Two tokens' and two experts' keys, a hair apart: the other answer is a near-tie if the logits may be off by as much,
 * and wrong if not. */
static void near_ties_of_every_kind(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        moecl_router router;
        size_t at; /* the choice of token 0 that falls */
    } drops[] = {
        {"top-p", {.top_p = 0.5f}, 1},
        {"threshold", {.score = MOECL_SCORE_SIGMOID, .threshold = 0.5f}, 1},
        {"capacity by probability",
         {.score = MOECL_SCORE_SIGMOID, .capacity = {MOECL_CAPACITY_FIXED, 7, MOECL_CAPACITY_ORDER_PROBABILITY, false}},
         0},
    };
    const double hair = 1e-4;
    for (size_t i = 0; i < sizeof(drops) / sizeof(drops[0]); i++) {
        for (int wide = 0; wide < 2; wide++) {
            moecl_layer_options options = {
                .experts = EXPERTS, .hidden = 1, .intermediate = 1, .top_k = TOP_K, .router = drops[i].router};
            moecl_layer_weights weights = {0};
            struct answer answer;
            double logits[TOKENS * EXPERTS];
            for (size_t t = 0; t < TOKENS; t++)
                for (size_t e = 0; e < EXPERTS; e++)
                    logits[t * EXPERTS + e] = e == 0 ? 3 : e == 1 ? 2 : -1 - (double)e;
            if (i == 0) /* the first has a hair less than half of the mass */
                for (size_t e = 0; e < EXPERTS; e++)
                    logits[e] = e == 0 ? log(EXPERTS - 1) - hair : 0;
            if (i == 1)
                logits[1] = hair;
            if (i == 2)
                logits[0] = 3 + hair; /* the others tie, and the last of them finds no room */
            answer_make(&answer, &options, &weights, logits, wide ? 3 * hair : hair / 10, NULL, false);
            assert_true(accepted(&answer));
            assert_int_equal(answer.report.near_ties, 0);
            const size_t at = drops[i].at;
            assert_true(answer.ids[at] >= 0);
            answer.ids[at] = -1;
            answer.weights[at] = 0;
            if (i == 2) { /* and the last token has the room instead */
                const size_t last = (TOKENS - 1) * TOP_K;
                assert_int_equal(answer.ids[last], -1);
                answer.ids[last] = 0;
                answer.weights[last] = answer.weights[last - TOP_K];
            }
            if (accepted(&answer) != (wide == 1))
                fail_msg("%s: %s", drops[i].what, wide ? answer.report.worst : "accepted");
            if (wide)
                assert_int_equal(answer.report.near_ties, i == 2 ? 2 : 1);
            answer_free(&answer);
        }
    }
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
        cmocka_unit_test(any_wrong_choice),
        cmocka_unit_test(near_ties_of_every_kind),
        cmocka_unit_test(any_wrong_value_of_any_stage),
        cmocka_unit_test(exchanged_values),
        cmocka_unit_test(other_bits),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
