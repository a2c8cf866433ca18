/* SPDX-License-Identifier: Apache-2.0 */
/* test_balance.c - loss-free balancing: the selection bias moves against the load. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bias_moves_against_the_load),
        cmocka_unit_test(loads_are_compared_exactly),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
