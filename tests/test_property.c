/* SPDX-License-Identifier: Apache-2.0 */
/* test_property.c - what holds for every layer, tried on random ones: MOECL_CASES of them from seed MOECL_SEED on. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "layers.h"
#include "random.h"

/* A random layer on host and device, an input, and room for the output. */
struct fixture {
    moecl_context *context;
    struct host_layer host;
    moecl_layer *layer;
    size_t tokens, outputs, routings; /* T, T*H, T*k */
    float *values;                    /* x [T,H] */
    struct array x, y;
};

static struct fixture fixture_make(moecl_context *context, const moecl_layer_options *options, size_t tokens,
                                   uint64_t seed)
{
    print_case(options, tokens, seed);
    struct fixture fixture = {.context = context, .tokens = tokens};
    fixture.outputs = tokens * options->hidden;
    fixture.routings = tokens * options->top_k;
    fixture.host = host_layer_make(options, MOECL_F32, seed);
    fixture.layer = host_layer_upload(context, &fixture.host);
    fixture.values = make(fixture.outputs, sizeof(float));
    random_fill(&seed, 1, fixture.values, fixture.outputs);
    fixture.x = array_of(context, options->activations, fixture.values, fixture.outputs);
    fixture.y = array_make(context, fixture.outputs * moecl_type_size(options->activations), NULL);
    return fixture;
}

static void fixture_free(struct fixture *fixture)
{
    array_release(&fixture->x);
    array_release(&fixture->y);
    moecl_layer_destroy(fixture->layer);
    host_layer_free(&fixture->host);
    free(fixture->values);
}

/* Calls `check` with one random layer after the other. */
static void for_each_case(void **state, void (*check)(struct fixture *, uint64_t seed))
{
    uint64_t first = number_from_environment("MOECL_SEED", 1);
    for (size_t number = 0; number < random_cases(); number++) {
        uint64_t seed = first + number, numbers = seed;
        moecl_layer_options options = random_options(&numbers, number);
        struct fixture fixture = fixture_make(*state, &options, random_tokens(&numbers, small_sizes() ? 9 : 70), seed);
        check(&fixture, seed);
        fixture_free(&fixture);
    }
}

/* The bits of y after a forward pass: free(). */
static void *forward(struct fixture *fixture, moecl_layer *layer, moecl_routing routing, bool given)
{
    moecl_forward call = {.tokens = fixture->tokens,
                          .x = fixture->x.buffer,
                          .y = fixture->y.buffer,
                          .routing = routing,
                          .routing_given = given};
    ASSERT_OK(fixture->context, moecl_layer_forward(layer, &call, 0, NULL, NULL));
    return array_bytes(fixture->context, fixture->y);
}

/* ------------------------------------------------------------------------------------- against the reference -- */

static void assert_verified(const struct fixture *fixture, moecl_layer *layer, moecl_verify_method method,
                            uint64_t seed)
{
    moecl_verify_report report;
    ASSERT_OK(fixture->context, moecl_verify(fixture->context, layer, &fixture->host.weights, fixture->tokens,
                                             fixture->values, method, seed, &report));
    if (!report.passed)
        print_error("%.3g of %.3g allowed: %s\n", report.max_error, report.tolerance, report.worst);
    assert_true(report.passed);
    assert_true(report.deterministic);
}

static void check_verify(struct fixture *fixture, uint64_t seed)
{
    assert_verified(fixture, fixture->layer, MOECL_VERIFY_FULL, seed);
    assert_verified(fixture, fixture->layer, MOECL_VERIFY_PROJECT, seed);
}

static void agrees_with_the_reference(void **state)
{
    for_each_case(state, check_verify);
}

/* The difference that y may have from the reference, in every type. */
static double tolerance(const moecl_layer_options *options)
{
    double rounding[] = {[MOECL_F32] = 0, [MOECL_F16] = 0x1p-11, [MOECL_BF16] = 0x1p-8};
    return 1e-4 + 2 * rounding[options->activations]; /* y is rounded, and h may be */
}

static void check_given_routing(struct fixture *fixture, uint64_t seed)
{
    const moecl_layer_options *options = &fixture->host.options;
    int32_t *ids = make(fixture->routings, sizeof *ids);
    float *weights = make(fixture->routings, sizeof *weights);
    bool all_valid = true;
    random_fill(&seed, 1, weights, fixture->routings);
    for (size_t a = 0; a < fixture->routings; a++) {
        const int32_t outside[] = {-1, INT32_MIN, INT32_MAX, (int32_t)options->experts};
        size_t pick = random_between(&seed, 0, 15);
        ids[a] = pick < 4 ? outside[pick] : (int32_t)random_between(&seed, 0, options->experts - 1);
        all_valid = all_valid && (ids[a] == -1 || pick >= 4); /* -1 is a choice that is not used */
    }
    struct array device_ids = array_make(fixture->context, fixture->routings * sizeof *ids, ids);
    struct array device_weights = array_make(fixture->context, fixture->routings * sizeof *weights, weights);
    double *expected = make(fixture->outputs, sizeof *expected);
    double *exact_weights = to_doubles(weights, MOECL_F32, fixture->routings);
    moecl_reference_call call = {.options = options,
                                 .weights = &fixture->host.weights,
                                 .tokens = fixture->tokens,
                                 .x = fixture->values,
                                 .ids_given = true,
                                 .ids = ids,
                                 .routing_weights = exact_weights,
                                 .y = expected};
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);

    void *bits = forward(fixture, fixture->layer, (moecl_routing){device_ids.buffer, device_weights.buffer}, true);
    double *y = to_doubles(bits, options->activations, fixture->outputs);
    ASSERT_CLOSE(y, expected, fixture->outputs, tolerance(options));
    assert_int_equal(moecl_layer_check(fixture->layer), all_valid ? MOECL_OK : MOECL_INVALID_ARGUMENT);
    ASSERT_OK(fixture->context, moecl_layer_check(fixture->layer));

    int32_t *same_ids = array_bytes(fixture->context, device_ids);
    assert_memory_equal(same_ids, ids, fixture->routings * sizeof *ids);
    free(same_ids);
    free(bits);
    free(y);
    free(expected);
    free(exact_weights);
    free(ids);
    free(weights);
    array_release(&device_ids);
    array_release(&device_weights);
}

static void takes_a_given_routing(void **state)
{
    for_each_case(state, check_given_routing);
}

/* ------------------------------------------------------------------------------------------------ the same bits -- */

/* CLBlast picks its kernel by the number of rows, so that chunks of other sizes may round in another way. */
static void assert_same(const struct fixture *fixture, const void *bits, const void *expected)
{
    const moecl_layer_options *options = &fixture->host.options;
    if (strcmp(options->variant, "clblast") != 0) {
        assert_memory_equal(bits, expected, fixture->outputs * moecl_type_size(options->activations));
        return;
    }
    double *y = to_doubles(bits, options->activations, fixture->outputs);
    double *other = to_doubles(expected, options->activations, fixture->outputs);
    ASSERT_CLOSE(y, other, fixture->outputs, tolerance(options));
    free(y);
    free(other);
}

static void check_chunks(struct fixture *fixture, uint64_t seed)
{
    moecl_context *context = fixture->context;
    moecl_layer_options options = fixture->host.options;
    size_t some = fixture->tokens < 3 ? fixture->tokens : 3, needed, all;
    void *whole = forward(fixture, fixture->layer, (moecl_routing){0}, false);
    ASSERT_OK(context, moecl_layer_workspace_size(fixture->layer, some, &needed));
    ASSERT_OK(context, moecl_layer_workspace_size(fixture->layer, fixture->tokens, &all));
    assert_true(needed <= all);

    /* a budget that holds about three tokens */
    moecl_layer *small = NULL;
    options.workspace_budget = needed > 0 ? needed : 1 << 20;
    ASSERT_OK(context, moecl_layer_create(context, &options, &small));
    ASSERT_OK(context, moecl_layer_set_weights(small, &fixture->host.weights));
    size_t bounded;
    ASSERT_OK(context, moecl_layer_workspace_size(small, fixture->tokens, &bounded));
    assert_true(bounded <= options.workspace_budget);
    void *chunked = forward(fixture, small, (moecl_routing){0}, false);
    assert_same(fixture, chunked, whole);
    free(chunked);
    assert_verified(fixture, small, MOECL_VERIFY_PROJECT, seed);
    moecl_layer_destroy(small);

    /* a workspace of the caller's: as much as is needed, then as little */
    for (size_t i = 0; i < 2; i++) {
        size_t bytes = i == 0 ? all : needed;
        struct array workspace = array_make(context, bytes, NULL);
        ASSERT_OK(context, moecl_layer_set_workspace(fixture->layer, workspace.buffer, bytes));
        void *bits = forward(fixture, fixture->layer, (moecl_routing){0}, false);
        assert_same(fixture, bits, whole);
        free(array_bytes(context, workspace));
        ASSERT_OK(context, moecl_layer_set_workspace(fixture->layer, (moecl_buffer){0}, 0));
        array_release(&workspace);
        free(bits);
    }
    free(whole);
}

static void chunks_agree(void **state)
{
    for_each_case(state, check_chunks);
}

/* Token `token` of x by itself gives its row of `expected`, the outputs of all. `routing` may be where all tokens'
 * lies. */
static void check_token(const struct fixture *fixture, size_t token, moecl_routing routing, const char *expected)
{
    const moecl_layer_options *options = &fixture->host.options;
    const size_t row_bytes = options->hidden * moecl_type_size(options->activations);
    const bool given = routing.ids.memory != NULL;
    struct fixture alone = *fixture;
    alone.tokens = 1;
    alone.outputs = options->hidden;
    alone.x.buffer.offset += token * row_bytes;
    alone.y = array_make(fixture->context, row_bytes, NULL);
    routing.ids.offset += token * options->top_k * sizeof(int32_t);
    routing.weights.offset += token * options->top_k * sizeof(float);
    void *bits = forward(&alone, alone.layer, given ? routing : (moecl_routing){0}, given);
    assert_same(&alone, bits, expected + token * row_bytes);
    free(bits);
    array_release(&alone.y);
}

static void check_alone(struct fixture *fixture, uint64_t seed)
{
    struct array ids = array_make(fixture->context, fixture->routings * sizeof(int32_t), NULL);
    struct array weights = array_make(fixture->context, fixture->routings * sizeof(float), NULL);
    const moecl_routing routing = {ids.buffer, weights.buffer};
    char *together = forward(fixture, fixture->layer, routing, false);
    for (size_t i = 0; i < 3 && fixture->tokens > 0; i++) {
        const size_t token = random_between(&seed, 0, fixture->tokens - 1);
        check_token(fixture, token, routing, together);
        check_token(fixture, token, (moecl_routing){0}, together);
    }
    free(together);
    array_release(&ids);
    array_release(&weights);
}

static void a_token_alone_gives_the_same_bits(void **state)
{
    for_each_case(state, check_alone);
}

/* A token's output does not depend on the other tokens, wherever NaN there may be; the flag tells. */
static void check_not_finite(struct fixture *fixture, uint64_t seed)
{
    const moecl_layer_options *options = &fixture->host.options;
    size_t row_bytes = options->hidden * moecl_type_size(options->activations);
    if (fixture->tokens == 0)
        return;
    char *before = forward(fixture, fixture->layer, (moecl_routing){0}, false);
    ASSERT_OK(fixture->context, moecl_layer_check(fixture->layer));

    size_t spoilt = random_between(&seed, 0, fixture->tokens - 1);
    fixture->values[spoilt * options->hidden + random_between(&seed, 0, options->hidden - 1)] =
        seed % 2 == 0 ? NAN : INFINITY;
    array_release(&fixture->x);
    fixture->x = array_of(fixture->context, options->activations, fixture->values, fixture->outputs);
    char *after = forward(fixture, fixture->layer, (moecl_routing){0}, false);
    assert_int_equal(moecl_layer_check(fixture->layer), MOECL_NOT_FINITE);
    ASSERT_OK(fixture->context, moecl_layer_check(fixture->layer));
    if (strcmp(options->variant, "clblast") != 0) /* the spoilt token may change its rows, and so its kernels */
        for (size_t t = 0; t < fixture->tokens; t++)
            if (t != spoilt)
                assert_memory_equal(after + t * row_bytes, before + t * row_bytes, row_bytes);
    free(before);
    free(after);
}

static void tells_what_is_not_finite(void **state)
{
    for_each_case(state, check_not_finite);
}

static void a_hundred_runs_give_the_same_bits(void **state)
{
    for (size_t v = 0; moecl_variant_name(v) != NULL; v++) {
        moecl_layer_options options = {.experts = 6,
                                       .hidden = 37,
                                       .intermediate = 21,
                                       .top_k = 3,
                                       .shared_intermediate = 9,
                                       .shared_gate = MOECL_SHARED_GATE_SIGMOID,
                                       .variant = moecl_variant_name(v)};
        struct fixture fixture = fixture_make(*state, &options, 20, 3);
        void *first = forward(&fixture, fixture.layer, (moecl_routing){0}, false);
        for (size_t run = 1; run < (small_sizes() ? 3 : 100); run++) {
            void *again = forward(&fixture, fixture.layer, (moecl_routing){0}, false);
            assert_memory_equal(again, first, fixture.outputs * sizeof(float));
            free(again);
        }
        free(first);
        fixture_free(&fixture);
    }
}

/* ------------------------------------------------------------------------------------------------------ extremes -- */

static void extreme_shapes(void **state)
{
    const struct {
        size_t experts, hidden, intermediate, top_k, tokens;
    } shapes[] = {
        {1, 1, 1, 1, 1},     {1024, 3, 2, 32, 5}, {1, 65, 33, 1, 40},
        {32, 16, 16, 32, 3}, {7, 129, 1, 7, 17},  {5, 1, 70, 2, 33},
    };
    for (size_t v = 0; moecl_variant_name(v) != NULL; v++)
        for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
            moecl_layer_options options = {.experts = shapes[i].experts,
                                           .hidden = shapes[i].hidden,
                                           .intermediate = shapes[i].intermediate,
                                           .top_k = shapes[i].top_k,
                                           .variant = moecl_variant_name(v)};
            size_t tokens = small_sizes() && shapes[i].tokens > 3 ? 3 : shapes[i].tokens;
            struct fixture fixture = fixture_make(*state, &options, tokens, 100 + i);
            check_given_routing(&fixture, i);
            assert_verified(&fixture, fixture.layer, MOECL_VERIFY_PROJECT, i);
            fixture_free(&fixture);
        }
}

/* Every choice ties: all router rows are the same. */
static void ties_go_to_the_lower_index(void **state)
{
    moecl_layer_options options = {
        .experts = 20, .hidden = 30, .intermediate = 8, .top_k = 6, .variant = moecl_variant_name(0)};
    struct fixture fixture = fixture_make(*state, &options, 9, 5);
    for (size_t e = 1; e < options.experts; e++)
        for (size_t c = 0; c < options.hidden; c++)
            matrix_set(&fixture.host.weights.router, e, c, matrix_get(&fixture.host.weights.router, 0, c));
    ASSERT_OK(*state, moecl_layer_set_router(fixture.layer, &fixture.host.weights.router));
    struct array ids = array_make(*state, fixture.routings * sizeof(int32_t), NULL);
    struct array weights = array_make(*state, fixture.routings * sizeof(float), NULL);
    free(forward(&fixture, fixture.layer, (moecl_routing){ids.buffer, weights.buffer}, false));
    int32_t *got = array_bytes(*state, ids);
    double *shares = array_doubles(*state, weights, MOECL_F32);
    for (size_t a = 0; a < fixture.routings; a++) {
        assert_int_equal(got[a], a % options.top_k);
        ASSERT_CLOSE(&shares[a], &((double){1.0 / 20}), 1, 1e-6);
    }
    free(got);
    free(shares);
    array_release(&ids);
    array_release(&weights);
    fixture_free(&fixture);
}

/* A context on the caller's out-of-order queue gives the bits of an in-order one: every command waits for what it
 * needs. Devices without such queues run in order. */
static void out_of_order_queue(void **state)
{
    moecl_context *context = *state, *other = NULL;
    cl_command_queue_properties properties = 0;
    cl_device_id device = moecl_context_device(context);
    assert_int_equal(clGetDeviceInfo(device, CL_DEVICE_QUEUE_PROPERTIES, sizeof(properties), &properties, NULL),
                     CL_SUCCESS);
    cl_int code = CL_SUCCESS;
    cl_command_queue queue = clCreateCommandQueue(moecl_context_cl(context), device,
                                                  properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, &code);
    assert_int_equal(code, CL_SUCCESS);
    assert_int_equal(moecl_context_create(&other), MOECL_OK);
    ASSERT_OK(other, moecl_context_adopt(other, moecl_context_cl(context), device, queue));
    for (size_t v = 0; moecl_variant_name(v) != NULL; v++) {
        moecl_layer_options options = {.experts = 6,
                                       .hidden = 50,
                                       .intermediate = 20,
                                       .top_k = 2,
                                       .shared_intermediate = 10,
                                       .shared_gate = MOECL_SHARED_GATE_SIGMOID,
                                       .variant = moecl_variant_name(v)};
        struct fixture in_order = fixture_make(context, &options, 30, 9);
        struct fixture out_of_order = fixture_make(other, &options, 30, 9);
        void *expected = forward(&in_order, in_order.layer, (moecl_routing){0}, false);
        for (size_t run = 0; run < 5; run++) {
            void *bits = forward(&out_of_order, out_of_order.layer, (moecl_routing){0}, false);
            assert_memory_equal(bits, expected, in_order.outputs * sizeof(float));
            free(bits);
        }
        free(expected);
        fixture_free(&in_order);
        fixture_free(&out_of_order);
    }
    moecl_context_destroy(other);
    clReleaseCommandQueue(queue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_reference),
        cmocka_unit_test(takes_a_given_routing),
        cmocka_unit_test(chunks_agree),
        cmocka_unit_test(a_token_alone_gives_the_same_bits),
        cmocka_unit_test(tells_what_is_not_finite),
        cmocka_unit_test(a_hundred_runs_give_the_same_bits),
        cmocka_unit_test(extreme_shapes),
        cmocka_unit_test(ties_go_to_the_lower_index),
        cmocka_unit_test(out_of_order_queue),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
