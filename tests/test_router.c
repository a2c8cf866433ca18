/* SPDX-License-Identifier: Apache-2.0 */
/* test_router.c - routers at random, out of the whole grammar, in whole layers against the reference: MOECL_CASES of
 * them from seed MOECL_SEED on. The experts are plain and small, so that no kernels are built for them: test_function.c
 * has those. */
#include <stdlib.h>
#include <string.h>

#include <moecl/reference.h>

#include "../tools/descriptor.h"
#include "../tools/grammar.h"
#include "../tools/weights.h"
#include "device.h"
#include "layers.h"
#include "random.h"

enum { CASES = 1000, CASES_SMALL = 60, CASES_EXPERTS = 40, CASES_EXPERTS_SMALL = 6 };

/* A layer with synthetic weights, and an input. */
struct fixture {
    moecl_layer_options options;
    struct weights weights;
    moecl_layer *layer;
    size_t tokens;
    float *x;
};

static void fixture_make(moecl_context *context, struct fixture *fixture, size_t tokens, uint64_t seed)
{
    struct fault fault;
    fixture->tokens = tokens;
    fixture->x = make(tokens * fixture->options.hidden, sizeof(float));
    random_fill(&seed, 1, fixture->x, tokens * fixture->options.hidden);
    assert_int_equal(weights_make(&fixture->weights, &fixture->options, MOECL_F32, seed, &fault), OUTCOME_SUCCESS);
    ASSERT_OK(context, moecl_layer_create(context, &fixture->options, &fixture->layer));
    ASSERT_OK(context, moecl_layer_set_weights(fixture->layer, &fixture->weights.layer));
}

static void fixture_free(struct fixture *fixture)
{
    moecl_layer_destroy(fixture->layer);
    weights_free(&fixture->weights);
    free(fixture->x);
}

static moecl_verify_report verify(moecl_context *context, const struct fixture *fixture, moecl_verify_method method,
                                  uint64_t seed)
{
    moecl_verify_report report;
    ASSERT_OK(context, moecl_verify(context, fixture->layer, &fixture->weights.layer, fixture->tokens, fixture->x,
                                    method, seed, &report));
    return report;
}

/* What a case is, for who has to repeat it. */
static void print_fixture(const struct fixture *fixture, uint64_t seed)
{
    char router[GRAMMAR_TEXT], function[GRAMMAR_TEXT], surroundings[GRAMMAR_TEXT];
    const moecl_layer_options *options = &fixture->options;
    print_message("           seed %llu: E %zu, H %zu, I %zu, k %zu, T %zu, %s, %s: %s; %s; %s\n",
                  (unsigned long long)seed, options->experts, options->hidden, options->intermediate, options->top_k,
                  fixture->tokens, moecl_type_name(options->weights), moecl_type_name(options->activations),
                  grammar_router(router, options), grammar_function(function, &options->function),
                  grammar_surroundings(surroundings, options));
}

static void check(moecl_context *context, const struct fixture *fixture, moecl_verify_method method, uint64_t seed,
                  size_t *near_ties)
{
    moecl_verify_report report = verify(context, fixture, method, seed);
    *near_ties += report.near_ties;
    if (!report.passed) {
        print_fixture(fixture, seed);
        fail_msg("%zu mismatches; %.3g of %.3g allowed%s: %s", report.id_mismatches, report.max_error, report.tolerance,
                 report.deterministic ? "" : "; other bits the second time", report.worst);
    }
}

static size_t cases(size_t many, size_t few)
{
    return number_from_environment("MOECL_CASES", small_sizes() ? few : many);
}

static void routers(void **state)
{
    static const struct descriptor_limits limits[] = {{48, 24, 6, 1 << 14}, {16, 12, 4, 1 << 12}};
    const uint64_t first = number_from_environment("MOECL_SEED", 1);
    const size_t count = cases(CASES, CASES_SMALL);
    size_t near_ties = 0;
    print_message("           seeds %llu to %llu\n", (unsigned long long)first,
                  (unsigned long long)(first + count - 1));
    for (uint64_t seed = first; seed < first + count; seed++) {
        uint64_t numbers = seed;
        struct fixture fixture = {.options = descriptor_draw(seed, &limits[small_sizes()])};
        fixture.options.function = (moecl_expert_function){.activation = MOECL_ACTIVATION_SILU};
        fixture.options.shared_function = fixture.options.function;
        fixture.options.weights = fixture.options.activations = MOECL_F32;
        fixture_make(*state, &fixture, random_tokens(&numbers, small_sizes() ? 9 : 30), seed);
        check(*state, &fixture, MOECL_VERIFY_FULL, seed, &near_ties);
        if (seed % 4 == 0)
            check(*state, &fixture, MOECL_VERIFY_PROJECT, seed, &near_ties);
        fixture_free(&fixture);
    }
    print_message("           %zu tokens in near-ties\n", near_ties);
}

/* The rest of a layer too, in every variant, and in pairs on devices that have no instruction for them as well. */
static void whole_layers(void **state)
{
    static const struct descriptor_limits limits[] = {{24, 80, 50, 1 << 16}, {8, 20, 12, 1 << 12}};
    const uint64_t first = number_from_environment("MOECL_SEED", 1);
    const size_t count = cases(CASES_EXPERTS, CASES_EXPERTS_SMALL);
    size_t near_ties = 0;
    for (uint64_t seed = first; seed < first + count; seed++) {
        uint64_t numbers = seed;
        for (size_t v = 0; moecl_variant_name(v) != NULL; v++) {
            struct fixture fixture = {.options = descriptor_draw(seed, &limits[small_sizes()])};
            fixture.options.variant = moecl_variant_name(v);
            if (seed % 2 == 0 && strcmp(fixture.options.variant, "vector") == 0)
                fixture.options.parameters = "products=2";
            fixture_make(*state, &fixture, random_tokens(&numbers, small_sizes() ? 6 : 40), seed);
            check(*state, &fixture, MOECL_VERIFY_FULL, seed, &near_ties);
            check(*state, &fixture, MOECL_VERIFY_PROJECT, seed, &near_ties);
            fixture_free(&fixture);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(routers), cmocka_unit_test(whole_layers)};
    return cmocka_run_group_tests(tests, open_device, close_device);
}
