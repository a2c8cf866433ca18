/* SPDX-License-Identifier: Apache-2.0 */
/* test_limits.c - measuring the device. How fast it is, is no test's business; that the numbers mean what they say, is.
 */
#include <math.h>
#include <stdlib.h>

#include <moecl/measure.h>

#include "check.h"
#include "device.h"
#include "device/launch.h"
#include "device/program.h"
#include "interception.h"

/* A machine at work may be several times slower from one moment to the next; a wrong count of bytes or operations
 * would be off by the width of a vector, the number of work-items or the number of rounds. */
static void assert_alike(double one, double other)
{
    assert_true(isfinite(one) && one > 0);
    assert_true(isfinite(other) && other > 0);
    assert_true(one < 50 * other && other < 50 * one);
}

static void assert_limits_alike(const moecl_limits *one, const moecl_limits *other)
{
    assert_alike(one->read_bytes_per_second, other->read_bytes_per_second);
    assert_alike(one->copy_bytes_per_second, other->copy_bytes_per_second);
    assert_alike(one->fp32_flops, other->fp32_flops);
    assert_alike(one->bf16_flops, other->bf16_flops);
}

static void limits_are_repeatable(void **state)
{
    (void)state;
    moecl_context *context = open_context();
    moecl_limits first, second;
    ASSERT_OK(context, moecl_measure_limits(context, 0, &first));
    interception_start(0);
    ASSERT_OK(context, moecl_measure_limits(context, 0.06, &second)); /* the amounts are others then */
    assert_int_equal(interception.objects, 0);
    assert_int_equal(interception.memory, 0);
    assert_limits_alike(&first, &second);
    moecl_context_destroy(context);
}

/* A meter keeps what it found out, and makes nothing more when it is read again. */
static void meters_are_read_again(void **state)
{
    (void)state;
    moecl_context *context = open_context();
    moecl_meter *meter = NULL;
    moecl_limits first, again;
    ASSERT_OK(context, moecl_meter_create(context, &meter));
    ASSERT_OK(context, moecl_meter_read(meter, 0.06, &first));
    interception_start(0);
    ASSERT_OK(context, moecl_meter_read(meter, 0.001, &again));
    interception_stop();
    assert_int_equal(interception.objects, 0);
    assert_int_equal(interception.memory, 0);
    assert_limits_alike(&first, &again);
    assert_int_equal(moecl_meter_read(meter, -1, &again), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_meter_read(meter, 0, NULL), MOECL_INVALID_ARGUMENT);
    moecl_meter_destroy(meter);
    moecl_context_destroy(context);
}

static void out_of_order_queues_are_measured_too(void **state)
{
    (void)state;
    moecl_context *context = open_context_with_queue(CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE);
    moecl_limits limits;
    if (context == NULL)
        skip();
    ASSERT_OK(context, moecl_measure_limits(context, 0.03, &limits));
    assert_true(limits.read_bytes_per_second > 0 && limits.copy_bytes_per_second > 0 && limits.fp32_flops > 0);
    moecl_context_destroy(context);
}

/* One launch of a kernel of limits.cl over 4 work-items, two vectors of float4 apart in the manner of a GPU. */
static void launch(moecl_context *context, const char *name, const struct moecl_argument *arguments, size_t count)
{
    const size_t items = 4;
    struct moecl_chain chain;
    cl_kernel kernel;
    ASSERT_OK(context, moecl_kernel_create(context, "limits.cl", "-DVECTOR=float4", name, &kernel));
    ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
    ASSERT_OK(context, moecl_launch(&chain, kernel, 1, &items, NULL, arguments, count));
    ASSERT_OK(context, moecl_chain_end(&chain, MOECL_OK, NULL));
    clReleaseKernel(kernel);
}

/* Every byte is read and copied, and every multiply-add done: what is counted is what is computed. */
static void kernels_do_all_their_work(void **state)
{
    (void)state;
    enum { ITEMS = 4, COUNT = 8, VECTORS = ITEMS * COUNT };
    moecl_context *context = open_context();
    float values[4 * VECTORS], got[4 * VECTORS], sums[4 * ITEMS];
    for (size_t i = 0; i < 4 * VECTORS; i++)
        values[i] = (float)(i + 1);
    for (int blocks = 0; blocks < 2; blocks++) {
        struct array from = array_make(context, sizeof(values), values), to = array_make(context, sizeof(got), NULL);
        struct array out = array_make(context, sizeof(sums), NULL);
        const struct moecl_argument read[] = {ARGUMENT_U64(COUNT), ARGUMENT_U64(blocks ? COUNT : 1),
                                              ARGUMENT_U64(blocks ? 1 : ITEMS), ARGUMENT_BUFFER(from.buffer),
                                              ARGUMENT_BUFFER(out.buffer)};
        const struct moecl_argument copy[] = {read[0], read[1], read[2], read[3], ARGUMENT_BUFFER(to.buffer)};
        const int expected = 4 * VECTORS * (4 * VECTORS + 1) / 2; /* 1 + 2 + ... */
        for (int streams = 0; streams < 2; streams++) {
            launch(context, streams ? "read_streams" : "read_memory", read, 5);
            array_read(context, out, sums);
            float total = 0;
            for (size_t i = 0; i < 4 * ITEMS; i++)
                total += sums[i];
            assert_true(total == (float)expected);
        }
        launch(context, "copy_memory", copy, 5);
        array_read(context, to, got);
        assert_memory_equal(got, values, sizeof(got));
        array_release(&from);
        array_release(&to);
        array_release(&out);
    }
    /* three rounds of a <- 2 a + 1 from 1, 2, ..., 12: 8 (1 + ... + 12) + 12 * 7 */
    struct array out = array_make(context, sizeof(sums), NULL);
    const struct moecl_argument multiply_add[] = {ARGUMENT_U64(3), ARGUMENT_F32(2), ARGUMENT_F32(1),
                                                  ARGUMENT_BUFFER(out.buffer)};
    launch(context, "multiply_add", multiply_add, 4);
    array_read(context, out, sums);
    for (size_t i = 0; i < 4 * ITEMS; i++)
        assert_true(sums[i] == 8 * 78 + 12 * 7);
    array_release(&out);
    moecl_context_destroy(context);
}

static void wrong_use(void **state)
{
    (void)state;
    moecl_context *context = open_context(), *bare = NULL;
    moecl_meter *meter = NULL;
    moecl_limits limits;
    assert_int_equal(moecl_meter_create(NULL, &meter), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_meter_create(context, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_meter_read(NULL, 0, &limits), MOECL_INVALID_ARGUMENT);
    moecl_meter_destroy(NULL);
    assert_int_equal(moecl_measure_limits(NULL, 0, &limits), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_measure_limits(context, 0, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_measure_limits(context, -1, &limits), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_measure_limits(context, (double)NAN, &limits), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_context_create(&bare), MOECL_OK);
    assert_int_equal(moecl_measure_limits(bare, 0, &limits), MOECL_INVALID_ARGUMENT);
    moecl_context_destroy(bare);
    moecl_context_destroy(context);
}

/* Every call fails in turn while the measurement is set up and begun. */
static void failures_leave_nothing_behind(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 70; n++) {
        moecl_context *context = NULL;
        moecl_limits limits;
        interception_start(n);
        moecl_status status = moecl_context_create(&context);
        if (status == MOECL_OK)
            status = moecl_context_open(context, NULL);
        if (status == MOECL_OK)
            status = moecl_measure_limits(context, 0.001, &limits);
        interception_stop();
        assert_non_null(interception.failed);
        if (status != MOECL_OK)
            assert_string_not_equal(moecl_context_error(context), "");
        moecl_context_destroy(context);
        assert_int_equal(interception.objects, 0);
        assert_int_equal(interception.memory, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits_are_repeatable),
        cmocka_unit_test(meters_are_read_again),
        cmocka_unit_test(out_of_order_queues_are_measured_too),
        cmocka_unit_test(kernels_do_all_their_work),
        cmocka_unit_test(wrong_use),
        cmocka_unit_test(failures_leave_nothing_behind),
    };
    return cmocka_run_group_tests_name("limits", tests, NULL, NULL);
}
