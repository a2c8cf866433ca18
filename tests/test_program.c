/* SPDX-License-Identifier: Apache-2.0 */
/* test_program.c - programs: built once, shared in a context, kept on disk, and built anew when anything is wrong with
 * what is there. The kernels of cl/limits.cl serve as the example. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "device.h"
#include "device/cache.h"
#include "device/launch.h"
#include "device/memory.h"
#include "device/program.h"
#include "interception.h"
#include "scratch.h"

enum { HEADER_SIZE = 32 }; /* of a cache file: a word of text, the key's size, the value's size, the value's hash */

static moecl_context *open_with_cache(const char *directory)
{
    moecl_context *context = open_context();
    ASSERT_OK(context, moecl_context_set_cache(context, directory));
    return context;
}

static cl_kernel make_kernel(moecl_context *context, const char *options)
{
    cl_kernel kernel = NULL;
    ASSERT_OK(context, moecl_kernel_create(context, "limits.cl", options, "multiply_add", &kernel));
    return kernel;
}

/* The kernel must compute: three rounds of a <- 2 a + 1 from 1, 2, ..., 12, summed. */
static void assert_works(moecl_context *context, cl_kernel kernel)
{
    const size_t one = 1;
    float got[16]; /* any VECTOR fits */
    struct moecl_chain chain;
    struct array out = array_make(context, sizeof(got), NULL);
    const struct moecl_argument arguments[] = {ARGUMENT_U64(3), ARGUMENT_F32(2), ARGUMENT_F32(1),
                                               ARGUMENT_BUFFER(out.buffer)};
    ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
    ASSERT_OK(context, moecl_launch(&chain, kernel, 1, &one, NULL, arguments, 4));
    ASSERT_OK(context, moecl_chain_end(&chain, MOECL_OK, NULL));
    array_read(context, out, got);
    assert_true(got[0] == 8 * 78 + 12 * 7);
    array_release(&out);
}

/* Makes the kernel in a fresh context and runs it. */
static void build_and_run(const char *directory)
{
    moecl_context *context = open_with_cache(directory);
    cl_kernel kernel = make_kernel(context, NULL);
    assert_works(context, kernel);
    clReleaseKernel(kernel);
    moecl_context_destroy(context);
}

/* Whether making the kernel in a fresh context calls `function`: one that is made to fail is one that is called. */
static bool calls(const char *directory, const char *function)
{
    bool called = false;
    size_t n = 0;
    do {
        moecl_context *context = open_with_cache(directory);
        cl_kernel kernel = NULL;
        interception_start(++n);
        moecl_status status = moecl_kernel_create(context, "limits.cl", NULL, "multiply_add", &kernel);
        interception_stop();
        if (status == MOECL_OK)
            clReleaseKernel(kernel);
        called = called || (interception.failed != NULL && strcmp(interception.failed, function) == 0);
        moecl_context_destroy(context);
    } while (interception.failed != NULL);
    return called;
}

/* ------------------------------------------------------------------------------------------------- in a context -- */

static cl_program program_of(cl_kernel kernel)
{
    cl_program program;
    assert_int_equal(clGetKernelInfo(kernel, CL_KERNEL_PROGRAM, sizeof(cl_program), &program, NULL), CL_SUCCESS);
    return program;
}

static void kernels_share_a_program(void **state)
{
    (void)state;
    moecl_context *context = open_with_cache("off");
    cl_kernel one = make_kernel(context, NULL), two = make_kernel(context, ""), read = NULL;
    cl_kernel wide = make_kernel(context, "-DVECTOR=float8");
    ASSERT_OK(context, moecl_kernel_create(context, "limits.cl", NULL, "read_memory", &read));
    assert_ptr_not_equal(one, two);
    assert_ptr_equal(program_of(one), program_of(two));
    assert_ptr_equal(program_of(one), program_of(read));
    assert_ptr_not_equal(program_of(one), program_of(wide));
    assert_works(context, one);
    assert_works(context, two);
    clReleaseKernel(one);
    clReleaseKernel(two);
    clReleaseKernel(read);
    clReleaseKernel(wide);
    moecl_context_destroy(context);
}

static void what_is_not_there(void **state)
{
    (void)state;
    moecl_context *context = open_with_cache("off"), *bare = NULL;
    cl_kernel kernel = NULL;
    assert_int_equal(moecl_kernel_create(context, "limit.cl", NULL, "multiply_add", &kernel), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "limit.cl"));
    assert_int_equal(moecl_kernel_create(context, "limits.cl", NULL, "divide", &kernel), MOECL_OPENCL_ERROR);
    assert_non_null(strstr(moecl_context_error(context), "divide"));
    assert_non_null(strstr(moecl_context_error(context), "limits.cl"));
    assert_non_null(strstr(moecl_context_error(context), "CL_INVALID_KERNEL_NAME"));
    assert_int_equal(moecl_context_create(&bare), MOECL_OK);
    assert_int_equal(moecl_kernel_create(bare, "limits.cl", NULL, "multiply_add", &kernel), MOECL_INVALID_ARGUMENT);
    assert_null(kernel);
    moecl_context_destroy(bare);
    moecl_context_destroy(context);
}

/* The compiler's own words are in the sentence: they name what it does not know. */
static void a_failed_build_carries_the_log(void **state)
{
    (void)state;
    moecl_context *context = open_with_cache("off");
    cl_kernel kernel = NULL;
    cl_program program = NULL;
    for (int again = 0; again < 2; again++) {
        assert_int_equal(moecl_kernel_create(context, "limits.cl", "-DVECTOR=pumpernickel", "multiply_add", &kernel),
                         MOECL_BUILD_FAILED);
        assert_non_null(strstr(moecl_context_error(context), "pumpernickel'")); /* as compilers quote it */
        assert_memory_equal(moecl_context_error(context), "limits.cl ", 10);
        assert_null(kernel);
    }
    assert_int_equal(moecl_program_build_source(context, "kernel void f() { zwieback(); }", NULL, &program),
                     MOECL_BUILD_FAILED);
    assert_non_null(strstr(moecl_context_error(context), "zwieback"));
    assert_null(program);

    kernel = make_kernel(context, NULL);
    assert_works(context, kernel);
    clReleaseKernel(kernel);
    moecl_context_destroy(context);
}

/* ------------------------------------------------------------------------------------------------------- on disk -- */

/* The content of the only file of the cache, and its name. */
static char *read_entry(const char *directory, char name[256], size_t *size)
{
    int count = 0;
    DIR *entries = opendir(directory);
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;)
        if (entry->d_name[0] != '.' && ++count == 1)
            snprintf(name, 256, "%s", entry->d_name);
    closedir(entries);
    assert_int_equal(count, 1);
    return scratch_read(directory, name, size);
}

static void the_second_context_finds_the_binary(void **state)
{
    (void)state;
    char *directory = scratch_make(), name[256];
    size_t size;
    assert_true(calls("off", "clCreateProgramWithSource"));
    assert_false(calls("off", "clCreateProgramWithBinary"));
    build_and_run(directory);
    free(read_entry(directory, name, &size));
    assert_non_null(strstr(name, ".program"));
    assert_false(calls(directory, "clGetProgramInfo"));
    assert_true(calls(directory, "clCreateProgramWithBinary"));
    build_and_run(directory);
    scratch_remove(directory);
}

/* Options are part of the key, and so is everything that a program is made of. */
static void other_options_are_another_entry(void **state)
{
    (void)state;
    char *directory = scratch_make(), name[256];
    size_t size;
    build_and_run(directory);
    moecl_context *context = open_with_cache(directory);
    char *entry = read_entry(directory, name, &size), *device = moecl_device_key(context);
    char *key = entry + HEADER_SIZE;
    assert_memory_equal(key, device, strlen(device));
    assert_memory_equal(key + strlen(device), "\n-cl-std=CL1.2", 14);
    assert_non_null(strstr(key, "multiply_add"));
    assert_non_null(strstr(device, context->info.name));
    assert_non_null(strstr(device, context->info.driver));
    free(entry);
    moecl_free(device);

    cl_kernel kernel = make_kernel(context, "-DVECTOR=float8");
    assert_works(context, kernel);
    clReleaseKernel(kernel);
    moecl_context_destroy(context);
    char *path = scratch_path(directory, name);
    assert_int_equal(remove(path), 0);
    free(path);
    free(read_entry(directory, name, &size)); /* the other one is left */
    scratch_remove(directory);
}

static void a_damaged_entry_is_rebuilt(void **state)
{
    (void)state;
    char *directory = scratch_make(), name[256];
    size_t size, size_again;
    build_and_run(directory);
    char *entry = read_entry(directory, name, &size);
    const size_t places[] = {0, 8, HEADER_SIZE, size / 2, size - 1};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        entry[places[i]] ^= 0x10;
        scratch_write(directory, name, entry, size);
        entry[places[i]] ^= 0x10;
        build_and_run(directory);
        char *again = read_entry(directory, name, &size_again); /* rewritten: whole once more */
        assert_false(calls(directory, "clGetProgramInfo"));
        free(again);
    }
    scratch_write(directory, name, entry, size / 3);
    build_and_run(directory);
    scratch_write(directory, name, "", 0);
    build_and_run(directory);
    assert_false(calls(directory, "clGetProgramInfo"));
    free(entry);
    scratch_remove(directory);
}

/* A whole entry of the right key, whose binary the driver does not take. rusticl 22.3 does not refuse one that is not
 * its own but ends the process. */
static void a_refused_binary_is_rebuilt(void **state)
{
    (void)state;
    moecl_context *probing = open_context();
    const bool refuses = strcmp(probing->info.platform, "rusticl") != 0;
    moecl_context_destroy(probing);
    if (!refuses)
        skip();
    char *directory = scratch_make(), name[256];
    size_t size;
    uint64_t key_size;
    build_and_run(directory);
    char *entry = read_entry(directory, name, &size);
    memcpy(&key_size, entry + 8, sizeof(key_size));
    moecl_context *context = open_with_cache(directory);
    moecl_cache_store(context, "program", entry + HEADER_SIZE, (size_t)key_size, "no binary at all", 16);
    moecl_context_destroy(context);
    build_and_run(directory);
    char *again = read_entry(directory, name, &size);
    assert_true(size > HEADER_SIZE + key_size + 16);
    free(again);
    free(entry);
    assert_false(calls(directory, "clGetProgramInfo"));
    scratch_remove(directory);
}

/* ------------------------------------------------------------------------------------------------------ failures -- */

/* Each call fails in turn, with a cold and with a warm cache: what only serves the cache is never an error, and nothing
 * is left behind by what is. */
static void each_call_fails(const char *directory, bool warm)
{
    static const char *const only_for_the_cache[] = {"clCreateProgramWithBinary", "clGetProgramInfo",
                                                     "clGetPlatformInfo", "clGetDeviceInfo"};
    size_t n = 0;
    do {
        char *scratch = directory == NULL ? scratch_make() : NULL;
        moecl_context *context = open_with_cache(warm ? directory : scratch);
        cl_kernel kernel = NULL;
        interception_start(++n);
        moecl_status status = moecl_kernel_create(context, "limits.cl", NULL, "multiply_add", &kernel);
        interception_stop();
        const char *failed = interception.failed;
        if (status == MOECL_OK) {
            assert_works(context, kernel);
            clReleaseKernel(kernel);
        } else {
            assert_non_null(failed);
            assert_null(kernel);
            assert_string_not_equal(moecl_context_error(context), "");
            for (size_t i = 0; i < sizeof(only_for_the_cache) / sizeof(only_for_the_cache[0]); i++)
                assert_string_not_equal(failed, only_for_the_cache[i]);
            kernel = make_kernel(context, NULL); /* the context is as it was */
            assert_works(context, kernel);
            clReleaseKernel(kernel);
        }
        moecl_context_destroy(context);
        if (scratch != NULL)
            scratch_remove(scratch);
        interception.failed = failed;
    } while (interception.failed != NULL);
}

static void failures_with_a_cold_cache(void **state)
{
    (void)state;
    each_call_fails(NULL, false);
}

static void failures_with_a_warm_cache(void **state)
{
    (void)state;
    char *directory = scratch_make();
    build_and_run(directory);
    each_call_fails(directory, true);
    scratch_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_share_a_program),         cmocka_unit_test(what_is_not_there),
        cmocka_unit_test(a_failed_build_carries_the_log),  cmocka_unit_test(the_second_context_finds_the_binary),
        cmocka_unit_test(other_options_are_another_entry), cmocka_unit_test(a_damaged_entry_is_rebuilt),
        cmocka_unit_test(a_refused_binary_is_rebuilt),     cmocka_unit_test(failures_with_a_cold_cache),
        cmocka_unit_test(failures_with_a_warm_cache),
    };
    return cmocka_run_group_tests_name("program", tests, NULL, NULL);
}
