/* SPDX-License-Identifier: Apache-2.0 */
/* platform.c - the OpenCL devices there are, and the choice of one. */
#include "platform.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amx.h"
#include "context.h"
#include "describe.h"
#include "memory.h"

/* ---------------------------------------------------------------------------------------------- enumeration -- */

static moecl_status find_platforms(struct moecl_error *error, cl_platform_id **platforms, cl_uint *count)
{
    moecl_status status = MOECL_OK;
    cl_uint found = 0;
    cl_int code = clGetPlatformIDs(0, NULL, &found);
    if (code == -1001 /* CL_PLATFORM_NOT_FOUND_KHR */ || (code == CL_SUCCESS && found == 0))
        FAIL(error, MOECL_NO_PLATFORM,
             "no OpenCL platform is installed; on a machine without a GPU, PoCL (pocl-opencl-icd) runs on the CPU");
    if (code != CL_SUCCESS)
        return moecl_error_opencl(error, code, "clGetPlatformIDs");
    *platforms = moecl_allocate(found, sizeof(**platforms));
    if (*platforms == NULL)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for %u platforms", (unsigned)found);
    CL_TRY(error, clGetPlatformIDs(found, *platforms, NULL));
    *count = found;
out:
    return status;
}

/* Appends the devices of platform number `index`. */
static moecl_status append_devices(struct moecl_error *error, cl_platform_id platform, unsigned index,
                                   struct moecl_device **devices, size_t *count)
{
    moecl_status status = MOECL_OK;
    cl_device_id *ids = NULL;
    cl_uint found = 0; /* a platform without devices may leave it untouched */
    if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, NULL, &found) != CL_SUCCESS || found == 0)
        goto out;
    ids = moecl_allocate(found, sizeof(*ids));
    struct moecl_device *grown = moecl_reallocate(*devices, *count + found, sizeof(**devices));
    if (grown != NULL)
        *devices = grown;
    if (ids == NULL || grown == NULL)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for %u devices", (unsigned)found);
    if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, found, ids, NULL) != CL_SUCCESS)
        goto out;
    for (cl_uint d = 0; d < found; d++) {
        struct moecl_device *device = &(*devices)[*count];
        *device = (struct moecl_device){.platform = platform, .id = ids[d]};
        device->info.platform_index = index;
        device->info.device_index = d;
        TRY(moecl_describe_device(error, ids[d], &device->info));
        ++*count;
    }
out:
    moecl_free(ids);
    return status;
}

moecl_status moecl_platform_devices(struct moecl_error *error, struct moecl_device **devices, size_t *count)
{
    moecl_status status = MOECL_OK;
    cl_platform_id *platforms = NULL;
    cl_uint platform_count = 0;
    struct moecl_device *found = NULL;
    size_t found_count = 0;

    moecl_amx_permit();
    TRY(find_platforms(error, &platforms, &platform_count));
    for (cl_uint p = 0; p < platform_count; p++)
        TRY(append_devices(error, platforms[p], p, &found, &found_count));
    if (found_count == 0)
        FAIL(error, MOECL_NO_DEVICE, "none of the %u OpenCL platforms has a device", (unsigned)platform_count);
    *devices = found;
    *count = found_count;
    found = NULL;
out:
    moecl_free(found);
    moecl_free(platforms);
    return status;
}

moecl_status moecl_device_list(moecl_context *context, moecl_device_info *devices, size_t capacity, size_t *count)
{
    if (context == NULL)
        return MOECL_INVALID_ARGUMENT;
    moecl_status status = MOECL_OK;
    struct moecl_device *found = NULL;
    size_t found_count;
    if (count == NULL || (devices == NULL && capacity > 0))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "moecl_device_list: devices or count is NULL");
    TRY(moecl_platform_devices(&context->error, &found, &found_count));
    for (size_t i = 0; i < found_count && i < capacity; i++)
        devices[i] = found[i].info;
    *count = found_count;
out:
    moecl_free(found);
    return status;
}

/* --------------------------------------------------------------------------------------------------- choice -- */

/* Whether `text` is "P:D". */
static bool parse_indices(const char *text, unsigned *platform, unsigned *device)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 9 || text[digits] != ':')
        return false;
    const char *rest = text + digits + 1;
    size_t rest_digits = strspn(rest, "0123456789");
    if (rest_digits == 0 || rest_digits > 9 || rest[rest_digits] != 0)
        return false;
    *platform = (unsigned)strtoul(text, NULL, 10);
    *device = (unsigned)strtoul(rest, NULL, 10);
    return true;
}

static bool contains_ignoring_case(const char *text, const char *part)
{
    size_t length = strlen(part);
    for (; strlen(text) >= length; text++) {
        size_t i = 0;
        while (i < length && tolower((unsigned char)text[i]) == tolower((unsigned char)part[i]))
            i++;
        if (i == length)
            return true;
    }
    return false;
}

static bool matches(const moecl_device_info *info, const char *specification)
{
    unsigned platform, device;
    if (parse_indices(specification, &platform, &device))
        return info->platform_index == platform && info->device_index == device;
    char name[sizeof(info->platform) + sizeof(info->name) + 3];
    snprintf(name, sizeof(name), "%s / %s", info->platform, info->name);
    return contains_ignoring_case(name, specification);
}

/* Adds "; P:D platform / device" to the sentence for each device that matches (all, for NULL). */
static void append_names(struct moecl_error *error, const struct moecl_device *devices, size_t count,
                         const char *specification)
{
    for (size_t i = 0; i < count; i++) {
        const moecl_device_info *info = &devices[i].info;
        if (specification == NULL || matches(info, specification))
            moecl_error_append(error, MOECL_OK, "; %u:%u %s / %s", info->platform_index, info->device_index,
                               info->platform, info->name);
    }
}

static const struct moecl_device *best_device(const struct moecl_device *devices, size_t count)
{
    static const cl_device_type preference[] = {CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ACCELERATOR, CL_DEVICE_TYPE_CPU};
    for (size_t p = 0; p < sizeof(preference) / sizeof(preference[0]); p++)
        for (size_t i = 0; i < count; i++)
            if (devices[i].info.type & preference[p])
                return &devices[i];
    return &devices[0];
}

moecl_status moecl_platform_choose(struct moecl_error *error, const char *specification, struct moecl_device *chosen)
{
    moecl_status status = MOECL_OK;
    struct moecl_device *devices = NULL;
    size_t count, matching = 0;
    const char *origin = "";

    if (specification == NULL || *specification == 0) {
        specification = getenv("MOECL_DEVICE");
        origin = " (MOECL_DEVICE)";
    }
    TRY(moecl_platform_devices(error, &devices, &count));
    if (specification == NULL || *specification == 0) {
        *chosen = *best_device(devices, count);
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        if (matches(&devices[i].info, specification) && matching++ == 0)
            *chosen = devices[i];
    }
    if (matching == 0) {
        status = moecl_error_set(error, MOECL_NO_DEVICE, "no OpenCL device matches \"%.200s\"%s; there are",
                                 specification, origin);
        append_names(error, devices, count, NULL);
    } else if (matching > 1) {
        status = moecl_error_set(error, MOECL_AMBIGUOUS_DEVICE, "\"%.200s\"%s matches %zu OpenCL devices",
                                 specification, origin, matching);
        append_names(error, devices, count, specification);
    }
out:
    moecl_free(devices);
    return status;
}
