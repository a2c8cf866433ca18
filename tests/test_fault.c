/* SPDX-License-Identifier: Apache-2.0 */
/* test_fault.c - the n-th OpenCL call or allocation fails, n = 1, 2, 3, ... until nothing does: every failure comes
 * back as a status with a sentence, and nothing is left behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <moecl/moecl.h>

#include "interception.h"

/* Does `work` with a fresh context, once for each call in it that can fail. */
static void each_failure(moecl_status (*work)(moecl_context *context))
{
    size_t n = 0;
    do {
        moecl_context *context = NULL;
        interception_start(++n);
        moecl_status status = moecl_context_create(&context);
        if (status == MOECL_OK)
            status = work(context);
        interception_stop();
        const char *failed = interception.failed;
        if (failed == NULL)
            assert_int_equal(status, MOECL_OK);
        else if (status != MOECL_OK)
            assert_string_not_equal(moecl_context_error(context), "");
        moecl_context_destroy(context);
        if (interception.objects != 0 || interception.memory != 0)
            fail_msg("call %zu, %s, failed: %ld OpenCL objects and %ld allocations are left", n,
                     failed == NULL ? "none" : failed, interception.objects, interception.memory);
    } while (interception.failed != NULL);
    print_message("%zu calls\n", n - 1);
    assert_true(n > 1);
}

static moecl_status open_device(moecl_context *context)
{
    moecl_status status = moecl_context_set_cache(context, "off");
    if (status == MOECL_OK)
        status = moecl_context_open(context, NULL);
    return status;
}

static void test_open(void **state)
{
    (void)state;
    each_failure(open_device);
}

static moecl_status probe_device(moecl_context *context)
{
    moecl_device_info info;
    moecl_status status = open_device(context);
    if (status == MOECL_OK)
        status = moecl_device_describe(context, true, &info);
    return status;
}

static void test_probe(void **state)
{
    (void)state;
    each_failure(probe_device);
}

static moecl_status list_devices(moecl_context *context)
{
    moecl_device_info info[4];
    size_t count;
    return moecl_device_list(context, info, 4, &count);
}

static void test_list(void **state)
{
    (void)state;
    each_failure(list_devices);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_probe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
