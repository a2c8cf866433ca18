/* SPDX-License-Identifier: Apache-2.0 */
/* test_context.c - a context's life on a real device: opened, adopted, described, probed, given up. */
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "check.h"
#include "device.h"
#include "device/context.h"
#include "interception.h"
#include "scratch.h"

/* ------------------------------------------------------------------------------------------------------- opening -- */

static void nothing_is_open_at_first(void **state)
{
    (void)state;
    moecl_context *context = NULL;
    moecl_device_info info;
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    assert_string_equal(moecl_context_error(context), "");
    assert_null(moecl_context_cl(context));
    assert_null(moecl_context_device(context));
    assert_null(moecl_context_queue(context));
    assert_int_equal(moecl_device_describe(context, false, &info), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_context_require_device(context), MOECL_INVALID_ARGUMENT);
    assert_string_not_equal(moecl_context_error(context), "");
    moecl_context_destroy(context);
}

static void null_is_refused_or_tolerated(void **state)
{
    (void)state;
    moecl_context *context = open_context();
    moecl_context_destroy(NULL);
    assert_string_not_equal(moecl_context_error(NULL), "");
    assert_int_equal(moecl_context_create(NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_context_open(NULL, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_context_set_cache(NULL, "off"), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_device_describe(context, false, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_context_adopt(NULL, NULL, NULL, NULL), MOECL_INVALID_ARGUMENT);
    moecl_context_destroy(context);
}

static void a_failed_open_can_be_tried_again(void **state)
{
    (void)state;
    moecl_context *context = NULL;
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    assert_int_equal(moecl_context_open(context, "no such device"), MOECL_NO_DEVICE);
    assert_non_null(strstr(moecl_context_error(context), "no such device"));
    assert_null(moecl_context_device(context));
    ASSERT_OK(context, moecl_context_open(context, NULL));
    assert_non_null(moecl_context_cl(context));
    assert_non_null(moecl_context_device(context));
    assert_non_null(moecl_context_queue(context));

    cl_device_id device = moecl_context_device(context);
    assert_int_equal(moecl_context_open(context, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_context_adopt(context, moecl_context_cl(context), device, moecl_context_queue(context)),
                     MOECL_INVALID_ARGUMENT);
    assert_ptr_equal(moecl_context_device(context), device);
    moecl_context_destroy(context);
}

static void contexts_are_independent(void **state)
{
    (void)state;
    moecl_context *one = open_context(), *two = open_context();
    assert_ptr_not_equal(moecl_context_cl(one), moecl_context_cl(two));
    assert_int_equal(moecl_context_open(one, NULL), MOECL_INVALID_ARGUMENT);
    assert_string_equal(moecl_context_error(two), "");
    moecl_context_destroy(one);
    assert_int_equal(clFinish(moecl_context_queue(two)), CL_SUCCESS);
    moecl_context_destroy(two);
}

/* ------------------------------------------------------------------------------------------------------ adopting -- */

static void the_callers_objects_are_used_and_given_back(void **state)
{
    (void)state;
    moecl_context *owner = open_context(), *context = NULL;
    cl_context cl = moecl_context_cl(owner);
    cl_device_id device = moecl_context_device(owner);
    cl_command_queue queue = moecl_context_queue(owner);
    moecl_device_info opened, adopted;

    interception_start(0);
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    ASSERT_OK(context, moecl_context_adopt(context, cl, device, queue));
    assert_ptr_equal(moecl_context_cl(context), cl);
    assert_ptr_equal(moecl_context_device(context), device);
    assert_ptr_equal(moecl_context_queue(context), queue);
    ASSERT_OK(owner, moecl_device_describe(owner, false, &opened));
    ASSERT_OK(context, moecl_device_describe(context, false, &adopted));
    assert_int_equal(opened.platform_index, adopted.platform_index);
    assert_int_equal(opened.device_index, adopted.device_index);
    assert_string_equal(opened.platform, adopted.platform);
    assert_string_equal(opened.name, adopted.name);
    assert_int_equal(opened.max_allocation, adopted.max_allocation);
    moecl_context_destroy(context);
    assert_int_equal(interception.objects, 0);
    assert_int_equal(interception.memory, 0);

    assert_int_equal(clFinish(queue), CL_SUCCESS); /* the caller's objects outlive the context ... */
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    ASSERT_OK(context, moecl_context_adopt(context, cl, device, queue));
    moecl_context_destroy(owner);
    assert_int_equal(clFinish(moecl_context_queue(context)), CL_SUCCESS); /* ... and it outlives the caller's hold */
    moecl_context_destroy(context);
}

static void objects_that_do_not_belong_together(void **state)
{
    (void)state;
    moecl_context *one = open_context(), *two = open_context(), *context = NULL;
    cl_context cl = moecl_context_cl(one);
    cl_device_id device = moecl_context_device(one);
    cl_command_queue queue = moecl_context_queue(one);
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    assert_int_equal(moecl_context_adopt(context, NULL, device, queue), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_context_adopt(context, cl, NULL, queue), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_context_adopt(context, cl, device, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_context_adopt(context, moecl_context_cl(two), device, queue), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "another OpenCL context"));
    assert_null(moecl_context_queue(context));
    ASSERT_OK(context, moecl_context_adopt(context, cl, device, queue));
    moecl_context_destroy(context);
    moecl_context_destroy(two);
    moecl_context_destroy(one);
}

/* An OpenCL context of two devices, halves of one: only the one that is given matters. The halves stay until the
 * process ends: PoCL 3.1's contexts do not retain sub-devices, and its threads look at one again after clFinish(). */
static void one_of_several_devices(void **state)
{
    (void)state;
    moecl_context *owner = open_context(), *context = NULL;
    static cl_device_id halves[2];
    cl_device_id device = moecl_context_device(owner);
    moecl_device_info info, half_info;
    ASSERT_OK(owner, moecl_device_describe(owner, false, &info));
    const cl_device_partition_property split[] = {CL_DEVICE_PARTITION_EQUALLY, info.compute_units / 2, 0};
    cl_uint most = 0, count = 0;
    assert_int_equal(clGetDeviceInfo(device, CL_DEVICE_PARTITION_MAX_SUB_DEVICES, sizeof(most), &most, NULL),
                     CL_SUCCESS);
    if (most < 2 || info.compute_units < 2 || clCreateSubDevices(device, split, 2, halves, &count) != CL_SUCCESS) {
        moecl_context_destroy(owner);
        skip();
    }
    cl_int code = CL_SUCCESS;
    cl_context cl = clCreateContext(NULL, 2, halves, NULL, NULL, &code);
    assert_int_equal(code, CL_SUCCESS);
    cl_command_queue queue = clCreateCommandQueue(cl, halves[1], 0, &code);
    assert_int_equal(code, CL_SUCCESS);

    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    assert_int_equal(moecl_context_adopt(context, cl, halves[0], queue), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "another device"));
    ASSERT_OK(context, moecl_context_adopt(context, cl, halves[1], queue));
    ASSERT_OK(context, moecl_device_describe(context, true, &half_info));
    assert_int_equal(half_info.compute_units, info.compute_units / 2);
    assert_int_equal(half_info.platform_index, info.platform_index);
    assert_int_equal(half_info.device_index, info.device_index);
    moecl_context_destroy(context);

    clReleaseCommandQueue(queue);
    clReleaseContext(cl);
    moecl_context_destroy(owner);
}

/* ------------------------------------------------------------------------------------------------------ describing --
 */

static void the_driver_is_quoted(void **state)
{
    (void)state;
    moecl_context *context = open_context();
    cl_device_id device = moecl_context_device(context);
    moecl_device_info info;
    ASSERT_OK(context, moecl_device_describe(context, false, &info));
    assert_false(info.probed);

    char name[1024];
    cl_uint compute_units;
    cl_ulong global_memory;
    assert_int_equal(clGetDeviceInfo(device, CL_DEVICE_NAME, sizeof(name), name, NULL), CL_SUCCESS);
    assert_int_equal(clGetDeviceInfo(device, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof(compute_units), &compute_units, NULL),
                     CL_SUCCESS);
    assert_int_equal(clGetDeviceInfo(device, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof(global_memory), &global_memory, NULL),
                     CL_SUCCESS);
    assert_non_null(strstr(name, info.name));
    assert_int_equal(info.compute_units, compute_units);
    assert_int_equal(info.global_memory, global_memory);
    assert_true(info.max_allocation > 0 && info.max_allocation <= info.global_memory);
    assert_true(info.local_memory >= 16 << 10);
    assert_true(info.max_work_group >= 1);
    assert_true(info.native_floats >= 1);
    assert_non_null(strstr(info.version, "OpenCL"));
    assert_non_null(strstr(info.c_version, "OpenCL C"));
    assert_string_not_equal(info.platform, "");
    assert_string_not_equal(info.driver, "");
    moecl_context_destroy(context);
}

/* -------------------------------------------------------------------------------------------------------- probing --
 */

static bool lists(const char *extensions, const char *extension)
{
    const char *at = strstr(extensions, extension);
    return at != NULL && (at[strlen(extension)] == ' ' || at[strlen(extension)] == 0);
}

/* What the host's processor says of itself: all devices that could have it are the host. */
static void host_has(bool *avx512_bf16, bool *amx_bf16)
{
    *avx512_bf16 = *amx_bf16 = false;
#ifdef __x86_64__
    unsigned a, b, c, d;
    *avx512_bf16 = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
    *amx_bf16 = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1);
#endif
}

/* A probe's "no" where the driver promises a feature, or a "yes" where nothing hints at it, would be a probe that is
 * wrong: none of the drivers tested lies about these. */
static void probes_agree_with_the_driver(void **state)
{
    (void)state;
    moecl_context *context = open_context();
    moecl_device_info info;
    char extensions[8192];
    ASSERT_OK(context, moecl_context_set_cache(context, "off"));
    ASSERT_OK(context, moecl_device_describe(context, true, &info));
    assert_int_equal(
        clGetDeviceInfo(moecl_context_device(context), CL_DEVICE_EXTENSIONS, sizeof(extensions), extensions, NULL),
        CL_SUCCESS);
    assert_true(info.probed);
    assert_string_equal(moecl_context_error(context), "");
    assert_int_equal(info.fp16, lists(extensions, "cl_khr_fp16") || strstr(extensions, "cl_nv_") != NULL);
    assert_int_equal(info.fp64, lists(extensions, "cl_khr_fp64"));
    assert_int_equal(info.integer_dot, lists(extensions, "cl_khr_integer_dot_product"));
    assert_int_equal(info.subgroups, lists(extensions, "cl_khr_subgroups") || lists(extensions, "cl_intel_subgroups"));
    bool avx512_bf16, amx_bf16;
    host_has(&avx512_bf16, &amx_bf16);
    assert_true(!info.avx512_bf16 || avx512_bf16);
    assert_true(!info.amx_bf16 || amx_bf16);
    assert_int_equal(info.subgroups, info.subgroup_sizes != 0);
    assert_true(info.subgroup_sizes < 256);

    /* where the driver enumerates the sizes that can be pinned, those and no others are found */
    size_t sizes[32], size = 0;
    if (lists(extensions, "cl_intel_required_subgroup_size")) {
        const cl_device_info subgroup_sizes_intel = 0x4108; /* CL_DEVICE_SUB_GROUP_SIZES_INTEL */
        uint32_t expected = 0;
        assert_int_equal(
            clGetDeviceInfo(moecl_context_device(context), subgroup_sizes_intel, sizeof(sizes), sizes, &size),
            CL_SUCCESS);
        for (size_t i = 0; i < size / sizeof(sizes[0]); i++)
            expected |= (uint32_t)sizes[i];
        assert_int_equal(info.subgroup_sizes, expected);
    }
    moecl_context_destroy(context);
}

/* Probes the device anew, with this cache; tells how many OpenCL calls and allocations that took. */
static size_t probe(const char *directory, moecl_device_info *info)
{
    moecl_context *context = open_context();
    ASSERT_OK(context, moecl_context_set_cache(context, directory));
    interception_start(0);
    ASSERT_OK(context, moecl_device_describe(context, true, info));
    interception_stop();
    const size_t calls = interception.calls;
    moecl_context_destroy(context);
    return calls;
}

static void findings_are_cached(void **state)
{
    (void)state;
    char *directory = scratch_make();
    moecl_device_info run, cached, again;
    const size_t run_calls = probe("off", &run);
    const size_t first_calls = probe(directory, &cached);
    const size_t cached_calls = probe(directory, &again);
    assert_memory_equal(&run, &cached, sizeof(run));
    assert_memory_equal(&run, &again, sizeof(run));
    if (run.fp16 || run.fp64) { /* else no probe was tried, and nothing kept */
        assert_true(first_calls >= run_calls);
        assert_true(cached_calls < run_calls);
    }
    scratch_remove(directory);
}

/* A failing call means "not there" in this context at most; what the cache then holds must be true. */
static void a_failing_call_is_not_cached(void **state)
{
    (void)state;
    moecl_device_info expected, info;
    probe("off", &expected);
    size_t n = 0;
    do {
        char *directory = scratch_make();
        moecl_context *context = open_context();
        ASSERT_OK(context, moecl_context_set_cache(context, directory));
        interception_start(++n);
        moecl_status status = moecl_device_describe(context, true, &info);
        interception_stop();
        assert_int_equal(interception.objects, 0);
        if (status != MOECL_OK)
            assert_string_not_equal(moecl_context_error(context), "");
        moecl_context_destroy(context);
        probe(directory, &info);
        assert_memory_equal(&info, &expected, sizeof(info));
        scratch_remove(directory);
    } while (interception.failed != NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_open_at_first),
        cmocka_unit_test(null_is_refused_or_tolerated),
        cmocka_unit_test(a_failed_open_can_be_tried_again),
        cmocka_unit_test(contexts_are_independent),
        cmocka_unit_test(the_callers_objects_are_used_and_given_back),
        cmocka_unit_test(objects_that_do_not_belong_together),
        cmocka_unit_test(one_of_several_devices),
        cmocka_unit_test(the_driver_is_quoted),
        cmocka_unit_test(probes_agree_with_the_driver),
        cmocka_unit_test(findings_are_cached),
        cmocka_unit_test(a_failing_call_is_not_cached),
    };
    return cmocka_run_group_tests_name("context", tests, NULL, NULL);
}
