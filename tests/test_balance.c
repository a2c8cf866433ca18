/* SPDX-License-Identifier: Apache-2.0 */
/* test_balance.c - loss-free balancing: the selection bias moves against the load. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <moecl/stages.h>

#include "device.h"
#include "random.h"
#include "stages/selection_bias.h"

/* The bias of `outputs` outputs with these loads, from random values, at once and again. */
static void check_update(moecl_context *context, size_t outputs, const uint32_t *load, float rate, uint64_t seed)
{
    float *bias = make(outputs, sizeof *bias), *expected = make(outputs, sizeof *expected);
    uint64_t total = 0;
    random_fill(&seed, 0.1, bias, outputs);
    for (size_t e = 0; e < outputs; e++)
        total += load[e];
    for (size_t e = 0; e < outputs; e++) {
        const uint64_t scaled = load[e] * (uint64_t)outputs;
        const float step = scaled < total ? rate : scaled > total ? -rate : 0.0f;
        expected[e] = bias[e] + step;
        expected[e] += step;
    }
    struct array device_load = array_make(context, outputs * sizeof *load, load);
    struct array device_bias = array_of(context, MOECL_F32, bias, outputs);
    cl_kernel kernel = NULL;
    struct moecl_chain chain;
    ASSERT_OK(context, moecl_selection_bias_kernel_create(context, &kernel));
    for (int pass = 0; pass < 2; pass++) {
        ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
        ASSERT_OK(context, moecl_chain_end(&chain,
                                           moecl_selection_bias_enqueue(kernel, &chain, outputs, rate,
                                                                        device_load.buffer, device_bias.buffer),
                                           NULL));
    }
    float *got = array_bytes(context, device_bias);
    for (size_t e = 0; e < outputs; e++)
        if (got[e] != expected[e])
            fail_msg("bias %zu of load %u became %.9g, not %.9g", e, (unsigned)load[e], (double)got[e],
                     (double)expected[e]);
    free(got);
    free(bias);
    free(expected);
    clReleaseKernel(kernel);
    array_release(&device_load);
    array_release(&device_bias);
}

static void bias_moves_against_the_load(void **state)
{
    for (uint64_t number = 1; number <= random_cases(); number++) {
        uint64_t seed = number;
        const size_t outputs = random_between(&seed, 1, 300), most = random_between(&seed, 0, 4);
        uint32_t *load = make(outputs, sizeof *load);
        for (size_t e = 0; e < outputs; e++)
            load[e] = (uint32_t)random_between(&seed, 0, most);
        print_message("           seed %llu: R %zu, loads up to %zu\n", (unsigned long long)number, outputs, most);
        check_update(*state, outputs, load, number % 3 == 0 ? -0.5f : 1e-3f, seed);
        free(load);
    }
}

/* Loads that no float could tell apart, and an even load, which changes nothing. */
static void loads_are_compared_exactly(void **state)
{
    static const uint32_t loads[][3] = {
        {1u << 30, (1u << 30) + 1, (1u << 30) - 1}, {5, 5, 5}, {0, 0, 0}, {1u << 30, 1u << 30, (1u << 30) + 1}};
    for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++)
        check_update(*state, 3, loads[i], 0.25f, i);
}

/* ------------------------------------------------------------------------------------------------------ a layer -- */

enum { TOKENS = 120, EXPERTS = 12, HIDDEN = 24, TOP_K = 3 };

/* A layer whose router favours the lower experts. */
static moecl_layer *layer_make(moecl_context *context, bool selection_biased)
{
    const moecl_layer_options options = {
        .experts = EXPERTS,
        .hidden = HIDDEN,
        .intermediate = 1,
        .top_k = TOP_K,
        .router = {.score = MOECL_SCORE_SIGMOID, .selection_biased = selection_biased}};
    moecl_layer *layer = NULL;
    float router[EXPERTS * HIDDEN];
    uint64_t seed = 3;
    random_fill(&seed, 0.1, router, EXPERTS * HIDDEN);
    for (size_t e = 0; e < EXPERTS; e++)
        router[e * HIDDEN] += 1 - (float)e / EXPERTS;
    ASSERT_OK(context, moecl_layer_create(context, &options, &layer));
    ASSERT_OK(context, moecl_layer_set_router(layer, &(moecl_matrix){router, MOECL_F32, EXPERTS, HIDDEN, 0, 0}));
    return layer;
}

static void read_bias(moecl_context *context, moecl_layer *layer, float bias[EXPERTS])
{
    const moecl_buffer buffer = moecl_layer_vector(layer, MOECL_VECTOR_SELECTION_BIAS);
    assert_non_null(buffer.memory);
    assert_int_equal(clFinish(moecl_context_queue(context)), CL_SUCCESS);
    assert_int_equal(clEnqueueReadBuffer(moecl_context_queue(context), buffer.memory, CL_TRUE, buffer.offset,
                                         EXPERTS * sizeof *bias, bias, 0, NULL, NULL),
                     CL_SUCCESS);
}

/* Passes and updates in turns make the load even, as far as steps of this size can; the events order them on an
 * out-of-order queue too. */
static void balance(moecl_context *context)
{
    moecl_layer *layer = layer_make(context, true);
    float x[TOKENS * HIDDEN], bias[EXPERTS] = {0};
    uint64_t seed = 4;
    random_fill(&seed, 1, x, TOKENS * HIDDEN);
    for (size_t t = 0; t < TOKENS; t++)
        x[t * HIDDEN] = 1;
    ASSERT_OK(context, moecl_layer_set_vector(layer, MOECL_VECTOR_SELECTION_BIAS,
                                              &(moecl_matrix){bias, MOECL_F32, 1, EXPERTS, 0, 0}));
    struct array device_x = array_of(context, MOECL_F32, x, TOKENS * HIDDEN);
    struct array ids = array_make(context, TOKENS * TOP_K * sizeof(int32_t), NULL);
    struct array weights = array_make(context, TOKENS * TOP_K * sizeof(float), NULL);
    const moecl_forward forward = {.tokens = TOKENS, .x = device_x.buffer, .routing = {ids.buffer, weights.buffer}};
    moecl_load_statistics first, last;
    uint32_t load[EXPERTS];
    for (size_t pass = 0; pass < 30; pass++) {
        cl_event routed = NULL, updated = NULL;
        ASSERT_OK(context, moecl_route(layer, &forward, (moecl_buffer){0}, 0, NULL, &routed));
        ASSERT_OK(context, moecl_layer_update_selection_bias(layer, TOKENS, ids.buffer, 0.01f, 1, &routed, &updated));
        assert_int_equal(clWaitForEvents(1, &updated), CL_SUCCESS);
        clReleaseEvent(routed);
        clReleaseEvent(updated);
        ASSERT_OK(context,
                  moecl_statistics_read(context, TOKENS, TOP_K, EXPERTS, ids.buffer, load, pass == 0 ? &first : &last));
        if (pass > 0)
            continue;
        read_bias(context, layer, bias);
        for (size_t e = 0; e < EXPERTS; e++) {
            const uint32_t mean = TOKENS * TOP_K / EXPERTS;
            assert_true(bias[e] == (load[e] < mean ? 0.01f : load[e] > mean ? -0.01f : 0.0f));
        }
    }
    print_message("           CV^2 %g, then %g\n", (double)first.squared_variation, (double)last.squared_variation);
    assert_true(first.squared_variation > 0.3f);
    assert_true(last.squared_variation < first.squared_variation / 10);
    array_release(&device_x);
    array_release(&ids);
    array_release(&weights);
    moecl_layer_destroy(layer);
}

static void updates_balance_a_layer(void **state)
{
    balance(*state);
    moecl_context *context = open_context_with_queue(CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE);
    if (context != NULL)
        balance(context);
    moecl_context_destroy(context);
}

static void update_refuses(void **state)
{
    moecl_context *context = *state;
    moecl_layer *layer = layer_make(context, true), *plain = layer_make(context, false);
    struct array ids = array_make(context, TOKENS * TOP_K * sizeof(int32_t), NULL);
    const struct {
        moecl_layer *layer;
        size_t tokens;
        float rate;
    } calls[] = {{plain, TOKENS, 0.1f},
                 {NULL, TOKENS, 0.1f},
                 {layer, 2 * TOKENS, 0.1f},
                 {layer, (size_t)MOECL_MAX_TOKENS + 1, 0.1f},
                 {layer, TOKENS, NAN}};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
        assert_int_equal(moecl_layer_update_selection_bias(calls[i].layer, calls[i].tokens, ids.buffer, calls[i].rate,
                                                           0, NULL, NULL),
                         MOECL_INVALID_ARGUMENT);
    array_release(&ids);
    moecl_layer_destroy(layer);
    moecl_layer_destroy(plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bias_moves_against_the_load),
        cmocka_unit_test(loads_are_compared_exactly),
        cmocka_unit_test(updates_balance_a_layer),
        cmocka_unit_test(update_refuses),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
