/* SPDX-License-Identifier: Apache-2.0 */
/* test_routing_check.c - that a check of a routing sees any wrong choice and any wrong weight, whatever the router, and
 * takes a near-tie for one where fp32 may, and nowhere else. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "random.h"
#include "reference/routing_check.h"

enum { EXPERTS = 8, TOP_K = 3, TOKENS = 8 };

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

/* A masked expert adds nothing to the mass, also where its score would be -infinity; the one after it fills that up. */
static void masked_in_the_mass(void **state)
{
    (void)state;
    static const int32_t table[TOP_K] = {2, 0, 3}, token_ids[TOKENS] = {0}, expected[TOP_K] = {2, 0, -1};
    const moecl_layer_options options = {
        .experts = EXPERTS,
        .hidden = 1,
        .intermediate = 1,
        .top_k = TOP_K,
        .router = {.score = MOECL_SCORE_LOGIT, .selection = MOECL_SELECTION_TABLE, .table_rows = 1, .top_p = 0.9f}};
    const moecl_layer_weights weights = {.table = table};
    double logits[TOKENS * EXPERTS];
    for (size_t i = 0; i < TOKENS * EXPERTS; i++)
        logits[i] = i % EXPERTS == 2 ? -INFINITY : 1;
    struct answer answer;
    answer_make(&answer, &options, &weights, logits, 1e-6, token_ids, false);
    assert_memory_equal(answer.exact.ids, expected, sizeof(expected));
    assert_true(answer.exact.weights[0] == 0 && answer.exact.weights[1] == 1 && answer.exact.weights[2] == 0);
    assert_true(accepted(&answer));
    assert_int_equal(answer.report.near_ties, 0);
    assert_true(id_is_seen(&answer, 2, 3));
    answer_free(&answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_wrong_choice),
        cmocka_unit_test(near_ties_of_every_kind),
        cmocka_unit_test(masked_in_the_mass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
