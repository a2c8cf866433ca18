/* SPDX-License-Identifier: Apache-2.0 */
/* context.c - a context's life: made bare, then given a device of its own or the caller's. */
#include "context.h"

#include "describe.h"
#include "memory.h"
#include "platform.h"
#include "probe.h"
#include "program.h"
#include "threads.h"

moecl_status moecl_context_create(moecl_context **context)
{
    if (context == NULL)
        return MOECL_INVALID_ARGUMENT;
    *context = moecl_allocate(1, sizeof(**context));
    return *context == NULL ? MOECL_OUT_OF_HOST_MEMORY : MOECL_OK;
}

void moecl_context_destroy(moecl_context *context)
{
    if (context == NULL)
        return;
    moecl_programs_release(context);
    if (context->forget != NULL)
        context->forget();
    if (context->queue != NULL)
        clReleaseCommandQueue(context->queue);
    if (context->cl != NULL)
        clReleaseContext(context->cl);
    if (context->device != NULL)
        clReleaseDevice(context->device);
    moecl_free(context->cache_directory);
    moecl_free(context);
}

const char *moecl_context_error(const moecl_context *context)
{
    return context == NULL ? "the host has no memory for a context" : context->error.sentence;
}

cl_context moecl_context_cl(const moecl_context *context)
{
    return context->cl;
}

cl_device_id moecl_context_device(const moecl_context *context)
{
    return context->device;
}

cl_command_queue moecl_context_queue(const moecl_context *context)
{
    return context->queue;
}

static moecl_status require_no_device(struct moecl_context *context)
{
    if (context == NULL)
        return MOECL_INVALID_ARGUMENT;
    if (context->device != NULL)
        return moecl_error_set(&context->error, MOECL_INVALID_ARGUMENT, "a device is open already: %s / %s",
                               context->info.platform, context->info.name);
    return MOECL_OK;
}

moecl_status moecl_context_require_device(struct moecl_context *context)
{
    if (context == NULL)
        return MOECL_INVALID_ARGUMENT;
    if (context->device == NULL)
        return moecl_error_set(&context->error, MOECL_INVALID_ARGUMENT,
                               "no device is open: moecl_context_open() or moecl_context_adopt() comes first");
    return MOECL_OK;
}

moecl_status moecl_context_open(moecl_context *context, const char *device)
{
    moecl_status status = MOECL_OK;
    struct moecl_device chosen;
    cl_context cl = NULL;
    cl_command_queue queue = NULL;

    TRY(require_no_device(context));
    TRY(moecl_platform_choose(&context->error, device, &chosen));
    const cl_context_properties properties[] = {CL_CONTEXT_PLATFORM, (cl_context_properties)chosen.platform, 0};
    CL_NEW(&context->error, cl, clCreateContext(properties, 1, &chosen.id, NULL, NULL, &cl_code));
    CL_NEW(&context->error, queue, clCreateCommandQueue(cl, chosen.id, 0, &cl_code));
    TRY(moecl_threads_bind(&context->error, cl, chosen.id, &chosen.info));
    CL_TRY(&context->error, clRetainDevice(chosen.id));

    context->cl = cl;
    context->device = chosen.id;
    context->queue = queue;
    context->out_of_order = false;
    context->info = chosen.info;
    cl = NULL;
    queue = NULL;
out:
    if (queue != NULL)
        clReleaseCommandQueue(queue);
    if (cl != NULL)
        clReleaseContext(cl);
    return status;
}

/* ---------------------------------------------------------------------------------------- the caller's device -- */

/* The queue tells: it can only be of a device that its OpenCL context has. */
static moecl_status check_belongs(struct moecl_context *context, cl_context cl, cl_device_id device,
                                  cl_command_queue queue)
{
    moecl_status status = MOECL_OK;
    cl_context queue_context;
    cl_device_id queue_device;
    CL_TRY(&context->error, clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof(cl_context), &queue_context, NULL));
    CL_TRY(&context->error, clGetCommandQueueInfo(queue, CL_QUEUE_DEVICE, sizeof(cl_device_id), &queue_device, NULL));
    if (queue_context != cl)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "the queue belongs to another OpenCL context");
    if (queue_device != device)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "the queue belongs to another device");
out:
    return status;
}

/* The device's place in moecl_device_list(); a sub-device has its parent's. */
static moecl_status find_indices(struct moecl_context *context, cl_device_id device, moecl_device_info *info)
{
    moecl_status status = MOECL_OK;
    struct moecl_device *devices = NULL;
    size_t count;
    cl_device_id parent = device;
    while (parent != NULL) {
        device = parent;
        CL_TRY(&context->error, clGetDeviceInfo(device, CL_DEVICE_PARENT_DEVICE, sizeof(parent), &parent, NULL));
    }
    TRY(moecl_platform_devices(&context->error, &devices, &count));
    for (size_t i = 0; i < count; i++) {
        if (devices[i].id == device) {
            info->platform_index = devices[i].info.platform_index;
            info->device_index = devices[i].info.device_index;
        }
    }
out:
    moecl_free(devices);
    return status;
}

static moecl_status retain(struct moecl_error *error, cl_context cl, cl_device_id device, cl_command_queue queue)
{
    moecl_status status = MOECL_OK;
    bool has_context = false, has_device = false;
    CL_TRY(error, clRetainContext(cl));
    has_context = true;
    CL_TRY(error, clRetainDevice(device));
    has_device = true;
    CL_TRY(error, clRetainCommandQueue(queue));
    return MOECL_OK;
out:
    if (has_device)
        clReleaseDevice(device);
    if (has_context)
        clReleaseContext(cl);
    return status;
}

moecl_status moecl_context_adopt(moecl_context *context, cl_context cl, cl_device_id device, cl_command_queue queue)
{
    moecl_status status = MOECL_OK;
    moecl_device_info info = {0};
    cl_command_queue_properties properties;

    TRY(require_no_device(context));
    if (cl == NULL || device == NULL || queue == NULL)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "the OpenCL context, the device or the queue is NULL");
    TRY(check_belongs(context, cl, device, queue));
    CL_TRY(&context->error, clGetCommandQueueInfo(queue, CL_QUEUE_PROPERTIES, sizeof(properties), &properties, NULL));
    TRY(moecl_describe_device(&context->error, device, &info));
    TRY(find_indices(context, device, &info));
    TRY(retain(&context->error, cl, device, queue));

    context->cl = cl;
    context->device = device;
    context->queue = queue;
    context->out_of_order = (properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) != 0;
    context->info = info;
out:
    return status;
}

/* ------------------------------------------------------------------------------------------------- settings -- */

moecl_status moecl_context_set_cache(moecl_context *context, const char *directory)
{
    if (context == NULL)
        return MOECL_INVALID_ARGUMENT;
    moecl_status status = MOECL_OK;
    char *copy = NULL;
    if (directory != NULL) {
        copy = moecl_duplicate(directory);
        if (copy == NULL)
            FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for the name of the cache directory");
    }
    moecl_free(context->cache_directory);
    context->cache_directory = copy;
out:
    return status;
}

moecl_status moecl_device_describe(moecl_context *context, bool probe, moecl_device_info *info)
{
    moecl_status status = MOECL_OK;
    TRY(moecl_context_require_device(context));
    if (info == NULL)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "moecl_device_describe: info is NULL");
    if (probe)
        TRY(moecl_probe_device(context));
    *info = context->info;
out:
    return status;
}
