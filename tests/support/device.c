/* SPDX-License-Identifier: Apache-2.0 */
/* device.c - the device under test, and arrays on it. */
#include "device.h"

#include <stdlib.h>
#include <string.h>

#include "random.h"

enum { GUARD = 256, GUARD_BYTE = 0xc3 };

moecl_context *open_context(void)
{
    moecl_context *context = NULL;
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    ASSERT_OK(context, moecl_context_open(context, NULL));
    return context;
}

moecl_context *open_context_with_queue(cl_command_queue_properties properties)
{
    moecl_context *context = open_context(), *adopting = NULL;
    cl_command_queue_properties offered = 0;
    cl_device_id device = moecl_context_device(context);
    assert_int_equal(clGetDeviceInfo(device, CL_DEVICE_QUEUE_PROPERTIES, sizeof(offered), &offered, NULL), CL_SUCCESS);
    if ((properties & ~offered) == 0) {
        cl_int code = CL_SUCCESS;
        cl_command_queue queue = clCreateCommandQueue(moecl_context_cl(context), device, properties, &code);
        assert_int_equal(code, CL_SUCCESS);
        assert_int_equal(moecl_context_create(&adopting), MOECL_OK);
        ASSERT_OK(adopting, moecl_context_adopt(adopting, moecl_context_cl(context), device, queue));
        clReleaseCommandQueue(queue);
    }
    moecl_context_destroy(context);
    return adopting;
}

int open_device(void **state)
{
    *state = open_context();
    return 0;
}

int close_device(void **state)
{
    moecl_context_destroy(*state);
    return 0;
}

bool small_sizes(void)
{
    return number_from_environment("MOECL_SMALL", 0) != 0;
}

bool slow_builds(void)
{
    return number_from_environment("MOECL_SLOW_BUILDS", 0) != 0;
}

size_t random_cases(void)
{
    return number_from_environment("MOECL_CASES", small_sizes() ? 6 : 18);
}

struct array array_make(moecl_context *context, size_t size, const void *content)
{
    unsigned char *bytes = make(size + 2 * GUARD, 1);
    memset(bytes, GUARD_BYTE, size + 2 * GUARD);
    memset(bytes + GUARD, UNSET_BYTE, size);
    if (content != NULL && size > 0)
        memcpy(bytes + GUARD, content, size);

    cl_int code = CL_SUCCESS;
    struct array array = {{NULL, GUARD}, size};
    array.buffer.memory = clCreateBuffer(moecl_context_cl(context), CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR,
                                         size + 2 * GUARD, bytes, &code);
    assert_int_equal(code, CL_SUCCESS);
    free(bytes);
    return array;
}

struct array array_of(moecl_context *context, moecl_type type, const float *values, size_t count)
{
    void *converted = make(count, moecl_type_size(type));
    moecl_convert(values, MOECL_F32, converted, type, count);
    struct array array = array_make(context, count * moecl_type_size(type), converted);
    free(converted);
    return array;
}

void array_read(moecl_context *context, struct array array, void *to)
{
    cl_command_queue queue = moecl_context_queue(context);
    unsigned char *bytes = make(array.size + 2 * GUARD, 1);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    assert_int_equal(
        clEnqueueReadBuffer(queue, array.buffer.memory, CL_TRUE, 0, array.size + 2 * GUARD, bytes, 0, NULL, NULL),
        CL_SUCCESS);
    for (size_t i = 0; i < GUARD; i++) {
        assert_int_equal(bytes[i], GUARD_BYTE);
        assert_int_equal(bytes[GUARD + array.size + i], GUARD_BYTE);
    }
    if (array.size > 0)
        memcpy(to, bytes + GUARD, array.size);
    free(bytes);
}

void *array_bytes(moecl_context *context, struct array array)
{
    void *bytes = make(array.size, 1);
    array_read(context, array, bytes);
    return bytes;
}

double *array_doubles(moecl_context *context, struct array array, moecl_type type)
{
    void *bytes = array_bytes(context, array);
    double *doubles = to_doubles(bytes, type, array.size / moecl_type_size(type));
    free(bytes);
    return doubles;
}

void array_release(struct array *array)
{
    if (array->buffer.memory != NULL)
        clReleaseMemObject(array->buffer.memory);
    array->buffer.memory = NULL;
}
