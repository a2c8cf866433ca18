/* SPDX-License-Identifier: Apache-2.0 */
/* describe.c - what the driver says about a device. */
#include "describe.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "memory.h"
#include "program.h"

static void trim(char *text)
{
    size_t start = 0, length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1]))
        length--;
    while (start < length && isspace((unsigned char)text[start]))
        start++;
    memmove(text, text + start, length - start);
    text[length - start] = 0;
}

moecl_status moecl_device_text(struct moecl_error *error, cl_device_id device, cl_device_info name, char **text)
{
    moecl_status status = MOECL_OK;
    char *fresh = NULL;
    size_t size = 0;
    CL_TRY(error, clGetDeviceInfo(device, name, 0, NULL, &size));
    fresh = moecl_allocate(size + 1, 1);
    if (fresh == NULL)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for a device's description");
    CL_TRY(error, clGetDeviceInfo(device, name, size, fresh, NULL));
    trim(fresh);
    *text = fresh;
    fresh = NULL;
out:
    moecl_free(fresh);
    return status;
}

moecl_status moecl_platform_text(struct moecl_error *error, cl_device_id device, cl_platform_info name, char **text)
{
    moecl_status status = MOECL_OK;
    char *fresh = NULL;
    size_t size = 0;
    cl_platform_id platform;
    CL_TRY(error, clGetDeviceInfo(device, CL_DEVICE_PLATFORM, sizeof(cl_platform_id), &platform, NULL));
    CL_TRY(error, clGetPlatformInfo(platform, name, 0, NULL, &size));
    fresh = moecl_allocate(size + 1, 1);
    if (fresh == NULL)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for a platform's description");
    CL_TRY(error, clGetPlatformInfo(platform, name, size, fresh, NULL));
    trim(fresh);
    *text = fresh;
    fresh = NULL;
out:
    moecl_free(fresh);
    return status;
}

static moecl_status describe_texts(struct moecl_error *error, cl_device_id device, moecl_device_info *info)
{
    const struct {
        cl_device_info name;
        char *to;
        size_t capacity;
    } texts[] = {
        {CL_DEVICE_NAME, info->name, sizeof(info->name)},
        {CL_DEVICE_VENDOR, info->vendor, sizeof(info->vendor)},
        {CL_DRIVER_VERSION, info->driver, sizeof(info->driver)},
        {CL_DEVICE_VERSION, info->version, sizeof(info->version)},
        {CL_DEVICE_OPENCL_C_VERSION, info->c_version, sizeof(info->c_version)},
    };
    moecl_status status = MOECL_OK;
    char *text = NULL;
    TRY(moecl_platform_text(error, device, CL_PLATFORM_NAME, &text));
    snprintf(info->platform, sizeof(info->platform), "%s", text);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        moecl_free(text);
        text = NULL;
        TRY(moecl_device_text(error, device, texts[i].name, &text));
        snprintf(texts[i].to, texts[i].capacity, "%s", text);
    }
out:
    moecl_free(text);
    return status;
}

moecl_status moecl_describe_device(struct moecl_error *error, cl_device_id device, moecl_device_info *info)
{
    moecl_status status = MOECL_OK;
    cl_uint compute_units, native_floats;
    cl_ulong global_memory, max_allocation, local_memory;
    cl_device_local_mem_type local_type;
    cl_command_queue_properties queue_properties;
    const struct {
        cl_device_info name;
        void *to;
        size_t size;
    } numbers[] = {
        {CL_DEVICE_TYPE, &info->type, sizeof(info->type)},
        {CL_DEVICE_MAX_COMPUTE_UNITS, &compute_units, sizeof(compute_units)},
        {CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT, &native_floats, sizeof(native_floats)},
        {CL_DEVICE_GLOBAL_MEM_SIZE, &global_memory, sizeof(global_memory)},
        {CL_DEVICE_MAX_MEM_ALLOC_SIZE, &max_allocation, sizeof(max_allocation)},
        {CL_DEVICE_LOCAL_MEM_SIZE, &local_memory, sizeof(local_memory)},
        {CL_DEVICE_LOCAL_MEM_TYPE, &local_type, sizeof(local_type)},
        {CL_DEVICE_MAX_WORK_GROUP_SIZE, &info->max_work_group, sizeof(info->max_work_group)},
        {CL_DEVICE_QUEUE_PROPERTIES, &queue_properties, sizeof(queue_properties)},
    };
    TRY(describe_texts(error, device, info));
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        CL_TRY(error, clGetDeviceInfo(device, numbers[i].name, numbers[i].size, numbers[i].to, NULL));
    info->compute_units = compute_units;
    info->native_floats = native_floats;
    info->global_memory = global_memory;
    info->max_allocation = max_allocation;
    info->local_memory = local_memory;
    info->local_is_global = local_type == CL_GLOBAL;
    info->out_of_order = (queue_properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) != 0;
out:
    return status;
}

/* The platform's version names the compiler that PoCL uses; the extensions tell instruction sets apart where a driver
 * has one name for all processors. */
char *moecl_device_key(const struct moecl_context *context)
{
    const moecl_device_info *info = &context->info;
    char *platform_version = NULL, *extensions = NULL, *key = NULL;
    if (moecl_platform_text(NULL, context->device, CL_PLATFORM_VERSION, &platform_version) == MOECL_OK &&
        moecl_device_text(NULL, context->device, CL_DEVICE_EXTENSIONS, &extensions) == MOECL_OK)
        key = moecl_format("%s\n%s\n%s\n%s\n%s\n%s\n%u\n%s", info->platform, platform_version, info->vendor, info->name,
                           info->version, info->driver, info->compute_units, extensions);
    moecl_free(extensions);
    moecl_free(platform_version);
    return key;
}
