/* SPDX-License-Identifier: Apache-2.0 */
/* test_expert_choice.c - what looks across the tokens of a pass: experts that choose, and Sinkhorn's balanced keys. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <moecl/stages.h>

#include "device.h"
#include "layers.h"
#include "random.h"
#include "stages/expert_choice.h"

/* --------------------------------------------------------------------------------------------- expert choice -- */

/* A case's scores and what the selection should be. */
struct choice {
    size_t tokens, experts, stride, capacity;
    bool biased;
    float *scores, *bias; /* [T, stride], [E] */
    float *logits;        /* [T, stride + 1]; NULL: not given */
    int32_t *ids;         /* expected [T,E] */
    float *weights;
};

struct candidate {
    float key;
    size_t token;
};

static int by_key_then_token(const void *a, const void *b)
{
    const struct candidate *left = a, *right = b;
    if (left->key != right->key)
        return left->key > right->key ? -1 : 1;
    return left->token < right->token ? -1 : left->token > right->token;
}

static bool is_masked(const struct choice *choice, size_t token, size_t e)
{
    return (choice->logits ? choice->logits[token * (choice->stride + 1) + e]
                           : choice->scores[token * choice->stride + e]) == -INFINITY;
}

static void expect_choice(struct choice *choice)
{
    const size_t tokens = choice->tokens, experts = choice->experts;
    struct candidate *candidates = make(tokens, sizeof *candidates);
    choice->ids = make(tokens * experts, sizeof *choice->ids);
    choice->weights = make(tokens * experts, sizeof *choice->weights);
    for (size_t i = 0; i < tokens * experts; i++)
        choice->ids[i] = -1;
    for (size_t e = 0; e < experts; e++) {
        for (size_t t = 0; t < tokens; t++) {
            float key = choice->scores[t * choice->stride + e] + (choice->biased ? choice->bias[e] : 0.0f);
            candidates[t] = (struct candidate){isnan(key) || is_masked(choice, t, e) ? -INFINITY : key, t};
        }
        qsort(candidates, tokens, sizeof *candidates, by_key_then_token);
        for (size_t c = 0; c < choice->capacity && c < tokens; c++) {
            const size_t token = candidates[c].token;
            choice->ids[token * experts + e] = (int32_t)e;
            choice->weights[token * experts + e] =
                is_masked(choice, token, e) ? 0.0f : choice->scores[token * choice->stride + e];
        }
    }
    free(candidates);
}

static void choice_free(struct choice *choice)
{
    free(choice->scores);
    free(choice->bias);
    free(choice->logits);
    free(choice->ids);
    free(choice->weights);
}

static void check_choice(moecl_context *context, struct choice *choice)
{
    const size_t slots = choice->tokens * choice->experts;
    const size_t bytes = moecl_expert_choice_workspace_size(choice->tokens, choice->experts);
    expect_choice(choice);
    struct array scores = array_of(context, MOECL_F32, choice->scores, choice->tokens * choice->stride);
    struct array bias = array_of(context, MOECL_F32, choice->bias, choice->experts);
    struct array logits = {{NULL, 0}, 0};
    if (choice->logits)
        logits = array_of(context, MOECL_F32, choice->logits, choice->tokens * (choice->stride + 1));
    struct array ids = array_make(context, slots * sizeof(int32_t), NULL);
    struct array weights = array_make(context, slots * sizeof(float), NULL);
    struct array workspace = array_make(context, bytes, NULL);
    const moecl_expert_choice_call call = {
        .tokens = choice->tokens,
        .experts = choice->experts,
        .capacity = choice->capacity,
        .scores = scores.buffer,
        .stride = choice->stride,
        .logits = logits.buffer,
        .logits_stride = choice->stride + 1,
        .selection_bias = choice->biased ? bias.buffer : (moecl_buffer){0},
        .routing = {ids.buffer, weights.buffer},
        .workspace = workspace.buffer,
    };
    ASSERT_OK(context, moecl_expert_choice(context, &call, 0, NULL, NULL));
    int32_t *got_ids = array_bytes(context, ids);
    float *got_weights = array_bytes(context, weights);
    free(array_bytes(context, workspace)); /* its guards */
    assert_memory_equal(got_ids, choice->ids, slots * sizeof(int32_t));
    for (size_t i = 0; i < slots; i++)
        assert_true(got_weights[i] == choice->weights[i] || (isnan(got_weights[i]) && isnan(choice->weights[i])));
    free(got_ids);
    free(got_weights);
    array_release(&scores);
    array_release(&bias);
    if (choice->logits)
        array_release(&logits);
    array_release(&ids);
    array_release(&weights);
    array_release(&workspace);
}

/* How the scores are spread. */
enum spread { NORMAL, FEW_VALUES, ALL_EQUAL, SIGNED_ZEROS, WITH_MASKS, WITH_NAN, SPREADS };

static float spread_value(enum spread spread, float normal, size_t number)
{
    switch (spread) {
    case FEW_VALUES:
        return (float)((int)(normal * 2)) / 4;
    case ALL_EQUAL:
        return 0.25f;
    case SIGNED_ZEROS:
        return number % 3 == 0 ? 0.0f : number % 3 == 1 ? -0.0f : normal;
    case WITH_MASKS:
        return number % 3 == 0 ? -INFINITY : normal;
    case WITH_NAN:
        return number % 7 == 0 ? NAN : number % 7 == 1 ? -INFINITY : normal;
    default:
        return normal;
    }
}

static struct choice choice_make(uint64_t *seed, size_t tokens, size_t experts, size_t capacity, enum spread spread)
{
    struct choice choice = {.tokens = tokens, .experts = experts, .capacity = capacity};
    choice.stride = experts + random_between(seed, 0, 3);
    choice.biased = random_between(seed, 0, 1) != 0;
    choice.scores = make(tokens * choice.stride, sizeof *choice.scores);
    choice.bias = make(experts, sizeof *choice.bias);
    random_fill(seed, 1, choice.scores, tokens * choice.stride);
    random_fill(seed, 1, choice.bias, experts);
    for (size_t i = 0; i < tokens * choice.stride; i++)
        choice.scores[i] = spread_value(spread, choice.scores[i], random_between(seed, 0, 1000));
    if (random_between(seed, 0, 2) == 0) {
        choice.logits = make(tokens * (choice.stride + 1), sizeof *choice.logits);
        for (size_t i = 0; i < tokens * (choice.stride + 1); i++)
            choice.logits[i] = random_between(seed, 0, 3) ? (float)i : -INFINITY;
    }
    return choice;
}

static void experts_take_their_best_tokens(void **state)
{
    for (uint64_t number = 1; number <= 6 * random_cases(); number++) {
        uint64_t seed = number;
        const size_t tokens = random_between(&seed, 0, small_sizes() ? 70 : 700);
        const size_t experts = random_between(&seed, 1, small_sizes() ? 9 : 90);
        const size_t capacities[] = {0, 1, tokens, tokens + 1, random_between(&seed, 0, tokens)};
        const size_t capacity = capacities[random_between(&seed, 0, 4)];
        const enum spread spread = (enum spread)(number % SPREADS);
        print_message("           seed %llu: T %zu, E %zu, C %zu, spread %d\n", (unsigned long long)number, tokens,
                      experts, capacity, (int)spread);
        struct choice choice = choice_make(&seed, tokens, experts, capacity, spread);
        check_choice(*state, &choice);
        choice_free(&choice);
    }
}

static void experts_choose_at_the_limits(void **state)
{
    static const size_t sizes[][3] = {{1, 1, 1}, {64, 1, 64}, {65, 3, 1}, {200, 2, 199}, {3, 1024, 2}};
    uint64_t seed = 99;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct choice choice = choice_make(&seed, sizes[i][0], sizes[i][1], sizes[i][2], NORMAL);
        check_choice(*state, &choice);
        choice_free(&choice);
    }
    if (!small_sizes()) {
        struct choice choice = choice_make(&seed, 5000, 256, 157, FEW_VALUES);
        check_choice(*state, &choice);
        choice_free(&choice);
    }
}

static void expert_choice_refuses(void **state)
{
    moecl_context *context = *state;
    const size_t bytes = moecl_expert_choice_workspace_size(10, 4);
    struct array scores = array_make(context, 10 * 4 * sizeof(float), NULL);
    struct array workspace = array_make(context, bytes, NULL);
    const moecl_expert_choice_call good = {.tokens = 10,
                                           .experts = 4,
                                           .capacity = 3,
                                           .scores = scores.buffer,
                                           .stride = 4,
                                           .routing = {scores.buffer, scores.buffer},
                                           .workspace = workspace.buffer};
    moecl_expert_choice_call calls[] = {good, good, good, good, good, good, good, good, good};
    calls[0].experts = 0;
    calls[1].experts = 1025;
    calls[2].tokens = (size_t)MOECL_MAX_TOKENS + 1;
    calls[3].stride = 3;
    calls[4].scores = (moecl_buffer){0};
    calls[5].routing.weights.offset += 4096;
    calls[6].workspace.offset += 1;
    calls[7].tokens = SIZE_MAX;
    calls[8].logits = scores.buffer;
    calls[8].logits_stride = 3;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
        assert_int_equal(moecl_expert_choice(context, &calls[i], 0, NULL, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_expert_choice(context, NULL, 0, NULL, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_expert_choice(NULL, &good, 0, NULL, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_expert_choice_workspace_size(10, 0), 0);
    assert_int_equal(moecl_expert_choice_workspace_size((size_t)MOECL_MAX_TOKENS + 1, 4), 0);
    array_release(&scores);
    array_release(&workspace);
}

/* ---------------------------------------------------------------------------------------------------- weights -- */

/* The weights of one token's choices out of their logits; 0 for a masked one. */
static void expect_weights(moecl_weight weight, size_t slots, const float *logits, const int32_t *ids, double *weights)
{
    double sum = 0, largest_logit = -INFINITY;
    for (size_t j = 0; j < slots; j++)
        if (ids[j] >= 0)
            largest_logit = fmax(largest_logit, (double)logits[ids[j]]);
    for (size_t j = 0; j < slots; j++)
        if (ids[j] >= 0 && logits[ids[j]] != -INFINITY)
            sum += exp((double)logits[ids[j]] - largest_logit);
    for (size_t j = 0; j < slots; j++) {
        if (ids[j] < 0 || (weight != MOECL_WEIGHT_SCORE && logits[ids[j]] == -INFINITY)) {
            weights[j] = 0;
            continue;
        }
        const double z = (double)logits[ids[j]];
        if (weight == MOECL_WEIGHT_SOFTMAX)
            weights[j] = exp(z - largest_logit) / sum;
        else if (weight == MOECL_WEIGHT_SIGMOID)
            weights[j] = 1 / (1 + exp(-z));
        else if (weight == MOECL_WEIGHT_ONE)
            weights[j] = 1;
    }
}

static void weights_are_over_a_tokens_choices(void **state)
{
    moecl_context *context = *state;
    struct moecl_expert_choice_kernels kernels;
    ASSERT_OK(context, moecl_expert_choice_kernels_create(context, &kernels));
    for (size_t number = 0; number < 16; number++) {
        uint64_t seed = number + 1;
        const moecl_weight weight = (moecl_weight)(number % 4);
        const size_t experts = random_between(&seed, 1, 20), tokens = random_between(&seed, 1, 90);
        const size_t stride = experts + 1, slots = tokens * experts;
        float *logits = make(tokens * stride, sizeof *logits), *scores = make(slots, sizeof *scores);
        double *expected = make(slots, sizeof *expected);
        int32_t *ids = make(slots, sizeof *ids);
        random_fill(&seed, number % 3 == 0 ? 50 : 2, logits, tokens * stride);
        for (size_t i = 0; i < tokens * stride; i += 5)
            logits[i] = -INFINITY;
        for (size_t i = 0; i < slots; i++) {
            ids[i] = random_between(&seed, 0, 2) ? (int32_t)(i % experts) : -1; /* some tokens have none */
            scores[i] = ids[i] < 0 ? 0.0f : 0.125f * (float)(i % 7);
            expected[i] = (double)scores[i];
        }
        for (size_t t = 0; t < tokens; t++)
            expect_weights(weight, experts, logits + t * stride, ids + t * experts, expected + t * experts);

        struct array device_logits = array_of(context, MOECL_F32, logits, tokens * stride);
        struct array device_ids = array_make(context, slots * sizeof *ids, ids);
        struct array weights = array_of(context, MOECL_F32, scores, slots);
        struct moecl_chain chain;
        ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
        ASSERT_OK(context, moecl_chain_end(&chain,
                                           moecl_choice_weights_enqueue(
                                               &kernels, &chain, tokens, experts, weight, device_logits.buffer, stride,
                                               (moecl_routing){device_ids.buffer, weights.buffer}),
                                           NULL));
        double *got = array_doubles(context, weights, MOECL_F32);
        ASSERT_CLOSE(got, expected, slots, 1e-6);
        free(got);
        free(logits);
        free(scores);
        free(expected);
        free(ids);
        array_release(&device_logits);
        array_release(&device_ids);
        array_release(&weights);
    }
    moecl_expert_choice_kernels_release(&kernels);
}

/* --------------------------------------------------------------------------------------------------- sinkhorn -- */

/* The formula of stages.h in double precision. */
static void expect_keys(size_t tokens, size_t experts, size_t stride, size_t iterations, const float *logits,
                        double *keys)
{
    double *rows = make(tokens, sizeof *rows), *columns = make(experts, sizeof *columns);
    for (size_t t = 0; t < tokens; t++) {
        float largest_logit = -INFINITY;
        for (size_t e = 0; e < experts; e++)
            largest_logit = fmaxf(largest_logit, logits[t * stride + e]);
        for (size_t e = 0; e < experts; e++)
            keys[t * experts + e] =
                logits[t * stride + e] == -INFINITY ? 0 : exp((double)logits[t * stride + e] - (double)largest_logit);
    }
    for (size_t e = 0; e < experts; e++)
        columns[e] = 1;
    for (size_t i = 0; i < iterations; i++) {
        for (size_t t = 0; t < tokens; t++) {
            double sum = 0;
            for (size_t e = 0; e < experts; e++)
                sum += columns[e] * keys[t * experts + e];
            rows[t] = 1 / ((double)tokens * (sum + 1e-8));
        }
        for (size_t e = 0; e < experts; e++) {
            double sum = 0;
            for (size_t t = 0; t < tokens; t++)
                sum += rows[t] * keys[t * experts + e];
            columns[e] = 1 / ((double)experts * (sum + 1e-8));
        }
    }
    for (size_t i = 0; i < tokens * experts; i++)
        keys[i] *= rows[i / experts] * columns[i % experts];
    free(rows);
    free(columns);
}

static float *run_sinkhorn(moecl_context *context, size_t tokens, size_t experts, size_t stride, size_t iterations,
                           const float *logits)
{
    struct array device_logits = array_of(context, MOECL_F32, logits, tokens * stride);
    struct array keys = array_make(context, tokens * experts * sizeof(float), NULL);
    struct array workspace = array_make(context, moecl_sinkhorn_workspace_size(tokens, experts), NULL);
    const moecl_sinkhorn_call call = {.tokens = tokens,
                                      .experts = experts,
                                      .iterations = iterations,
                                      .logits = device_logits.buffer,
                                      .stride = stride,
                                      .keys = keys.buffer,
                                      .workspace = workspace.buffer};
    ASSERT_OK(context, moecl_sinkhorn(context, &call, 0, NULL, NULL));
    free(array_bytes(context, workspace)); /* its guards */
    float *got = array_bytes(context, keys);
    array_release(&device_logits);
    array_release(&keys);
    array_release(&workspace);
    return got;
}

static void check_sinkhorn(moecl_context *context, size_t tokens, size_t experts, size_t iterations, double deviation,
                           uint64_t seed)
{
    const size_t stride = experts + seed % 3, count = tokens * experts;
    print_message("           seed %llu: T %zu, E %zu, %zu iterations, deviation %g\n", (unsigned long long)seed,
                  tokens, experts, iterations, deviation);
    float *logits = make(tokens * stride, sizeof *logits);
    double *expected = make(count, sizeof *expected);
    random_fill(&seed, deviation, logits, tokens * stride);
    for (size_t i = 0; i < tokens * stride && experts > 1; i += 13)
        logits[i] = -INFINITY;
    expect_keys(tokens, experts, stride, iterations == 0 ? 10 : iterations, logits, expected);
    float *got = run_sinkhorn(context, tokens, experts, stride, iterations, logits);
    float *again = run_sinkhorn(context, tokens, experts, stride, iterations, logits);
    assert_memory_equal(got, again, count * sizeof *got);
    for (size_t i = 0; i < count; i++) {
        if (logits[i / experts * stride + i % experts] == -INFINITY)
            assert_true(got[i] == -INFINITY);
        else if (!(fabs((double)got[i] - expected[i]) <= 1e-4 * expected[i] + 1e-36))
            fail_msg("key %zu is %g, not %g", i, (double)got[i], expected[i]);
    }
    free(logits);
    free(expected);
    free(got);
    free(again);
}

static void sinkhorn_follows_the_formula(void **state)
{
    for (uint64_t number = 1; number <= random_cases(); number++) {
        uint64_t seed = number;
        const size_t tokens = random_between(&seed, 0, small_sizes() ? 90 : 900);
        const size_t experts = random_between(&seed, 1, small_sizes() ? 10 : 150);
        check_sinkhorn(*state, tokens, experts, number % 2 ? random_between(&seed, 1, 20) : 0, number % 4 == 0 ? 15 : 2,
                       number);
    }
    check_sinkhorn(*state, 1, 1, 3, 1, 7);
    check_sinkhorn(*state, 3, 1024, 2, 1, 8);
    if (!small_sizes())
        check_sinkhorn(*state, 1 << 16, 4, 5, 1, 9);
}

/* Every token likes expert 0 best, by far: the balanced keys still sum to 1/E for each expert. */
static void sinkhorn_balances(void **state)
{
    enum { TOKENS = 96, EXPERTS = 6 };
    uint64_t seed = 5;
    float logits[TOKENS * EXPERTS];
    random_fill(&seed, 1, logits, TOKENS * EXPERTS);
    for (size_t t = 0; t < TOKENS; t++)
        logits[t * EXPERTS] += 5;
    float *keys = run_sinkhorn(*state, TOKENS, EXPERTS, EXPERTS, 30, logits);
    double columns[EXPERTS] = {0}, expected[EXPERTS];
    for (size_t i = 0; i < TOKENS * EXPERTS; i++)
        columns[i % EXPERTS] += (double)keys[i];
    for (size_t e = 0; e < EXPERTS; e++)
        expected[e] = 1.0 / EXPERTS;
    ASSERT_CLOSE(columns, expected, EXPERTS, 1e-5);
    free(keys);
}

/* Logits of any size, a row that is masked as a whole, infinity and NaN: no key is +infinity or NaN. */
static void sinkhorn_stays_finite(void **state)
{
    const float logits[] = {3e38f, -3e38f, 1e4f, -INFINITY, -INFINITY, -INFINITY, NAN, 1, 2, INFINITY, INFINITY, 0};
    float *keys = run_sinkhorn(*state, 4, 3, 3, 0, logits);
    for (size_t i = 0; i < 12; i++)
        assert_true(keys[i] == -INFINITY || isfinite(keys[i]));
    for (size_t i = 3; i < 7; i++)
        assert_true(keys[i] == -INFINITY);
    assert_true(keys[0] > keys[2]);
    free(keys);
}

static void sinkhorn_refuses(void **state)
{
    moecl_context *context = *state;
    struct array memory = array_make(context, 4096, NULL);
    const moecl_sinkhorn_call good = {.tokens = 10,
                                      .experts = 4,
                                      .logits = memory.buffer,
                                      .stride = 4,
                                      .keys = memory.buffer,
                                      .workspace = memory.buffer};
    moecl_sinkhorn_call calls[] = {good, good, good, good, good};
    calls[0].experts = 0;
    calls[1].stride = 3;
    calls[2].tokens = (size_t)MOECL_MAX_TOKENS + 1;
    calls[3].keys = (moecl_buffer){0};
    calls[4].workspace.offset += 4000;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
        assert_int_equal(moecl_sinkhorn(context, &calls[i], 0, NULL, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_sinkhorn(context, NULL, 0, NULL, NULL), MOECL_INVALID_ARGUMENT);
    array_release(&memory);
}

/* ---------------------------------------------------------------------------------------------------- layers -- */

/* A layer whose router looks across the tokens, against the double-precision reference; some have a selection bias, or
 * a router bias that masks an expert. */
static void check_layer(moecl_context *context, size_t number)
{
    uint64_t seed = number;
    const bool choosing = number % 2 == 0, masked = number % 3 == 0;
    const size_t experts = random_between(&seed, 3, 14), tokens = random_between(&seed, 1, small_sizes() ? 12 : 300);
    moecl_layer_options options = {
        .experts = experts,
        .hidden = random_between(&seed, 4, 40),
        .intermediate = 8,
        .top_k = random_between(&seed, 1, 3),
        .router = {.score = (moecl_score)random_between(&seed, 0, 3),
                   .selection = choosing ? MOECL_SELECTION_EXPERT_CHOICE : MOECL_SELECTION_SINKHORN,
                   .biased = true,
                   .selection_biased = choosing && number % 4 == 0,
                   .weight = (moecl_weight)random_between(&seed, 0, 3),
                   .normalisation = (moecl_normalisation)random_between(&seed, 0, 1),
                   .epsilon = 1e-6f},
        .variant = "tile"};
    if (options.router.score == MOECL_SCORE_LOGIT) /* of either sign: their sum may vanish */
        options.router.normalisation = MOECL_NORMALISATION_NONE;
    float router_bias[16], selection_bias[16];
    random_fill(&seed, 0.5, router_bias, 16);
    random_fill(&seed, 0.1, selection_bias, 16);
    if (masked)
        router_bias[experts / 2] = -INFINITY;
    struct host_layer host = host_layer_make(&options, MOECL_F32, number);
    for (size_t e = 0; e < experts; e++) {
        matrix_set(&host.weights.vectors[MOECL_VECTOR_ROUTER_BIAS], 0, e, router_bias[e]);
        if (options.router.selection_biased)
            matrix_set(&host.weights.vectors[MOECL_VECTOR_SELECTION_BIAS], 0, e, selection_bias[e]);
    }
    moecl_layer *layer = host_layer_upload(context, &host);
    float *x = make(tokens * options.hidden, sizeof *x);
    random_fill(&seed, 1, x, tokens * options.hidden);
    moecl_verify_report report;
    ASSERT_OK(context, moecl_verify(context, layer, &host.weights, tokens, x, MOECL_VERIFY_FULL, number, &report));
    if (!report.passed)
        fail_msg("number %zu: %zu tokens, %zu experts, %s: error %g of %g, %zu id mismatches, %s", number, tokens,
                 experts, choosing ? "they choose" : "Sinkhorn", report.max_error, report.tolerance,
                 report.id_mismatches, report.worst);
    assert_true(report.near_ties <= 1 + tokens / 100);
    free(x);
    moecl_layer_destroy(layer);
    host_layer_free(&host);
}

static void layers_route_across_their_tokens(void **state)
{
    for (size_t number = 1; number <= (small_sizes() ? 6 : 36); number++)
        check_layer(*state, number);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_take_their_best_tokens),
        cmocka_unit_test(experts_choose_at_the_limits),
        cmocka_unit_test(expert_choice_refuses),
        cmocka_unit_test(weights_are_over_a_tokens_choices),
        cmocka_unit_test(sinkhorn_follows_the_formula),
        cmocka_unit_test(sinkhorn_balances),
        cmocka_unit_test(sinkhorn_stays_finite),
        cmocka_unit_test(sinkhorn_refuses),
        cmocka_unit_test(layers_route_across_their_tokens),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
