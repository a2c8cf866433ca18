/* SPDX-License-Identifier: Apache-2.0 */
/* device.c - the tool's own few OpenCL calls. */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "output.h"

static enum outcome check(cl_int code, const char *call, const char *what, struct fault *fault)
{
    if (code == CL_SUCCESS)
        return OUTCOME_SUCCESS;
    return fault_set(fault, OUTCOME_ERROR, "%s for %s failed with the OpenCL code %d", call, what, (int)code);
}

enum outcome device_buffer_create(moecl_context *context, const char *what, size_t bytes, const void *content,
                                  moecl_buffer *buffer, struct fault *fault)
{
    cl_int code = CL_SUCCESS;
    buffer->offset = 0;
    buffer->memory = clCreateBuffer(moecl_context_cl(context), CL_MEM_READ_WRITE, bytes > 0 ? bytes : 1, NULL, &code);
    if (code == CL_SUCCESS && content && bytes > 0)
        code = clEnqueueWriteBuffer(moecl_context_queue(context), buffer->memory, CL_TRUE, 0, bytes, content, 0, NULL,
                                    NULL);
    return check(code, "making a device buffer", what, fault);
}

void device_buffer_release(moecl_buffer *buffer)
{
    if (buffer->memory)
        clReleaseMemObject(buffer->memory);
    *buffer = (moecl_buffer){0};
}

enum outcome device_buffer_read(moecl_context *context, const char *what, moecl_buffer buffer, size_t bytes, void *to,
                                struct fault *fault)
{
    if (bytes == 0)
        return OUTCOME_SUCCESS;
    cl_int code = clEnqueueReadBuffer(moecl_context_queue(context), buffer.memory, CL_TRUE, buffer.offset, bytes, to, 0,
                                      NULL, NULL);
    return check(code, "reading a device buffer", what, fault);
}

enum outcome device_finish(moecl_context *context, struct fault *fault)
{
    return check(clFinish(moecl_context_queue(context)), "clFinish", "the queued work", fault);
}

const char *device_title(char text[DEVICE_TEXT], const moecl_device_info *info)
{
    snprintf(text, DEVICE_TEXT, "%s / %s (%u:%u)", info->platform, info->name, info->platform_index,
             info->device_index);
    return text;
}

/* What the host can still give, as Linux estimates it; 0 where it does not tell. */
static uint64_t host_available_memory(void)
{
    static const char key[] = "MemAvailable:";
    uint64_t kilobytes = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file)
        return 0;
    while (kilobytes == 0 && fgets(line, sizeof(line), file)) {
        if (strncmp(line, key, sizeof(key) - 1) == 0)
            kilobytes = strtoull(line + sizeof(key) - 1, NULL, 10);
    }
    fclose(file);
    return kilobytes * 1024;
}

uint64_t device_available_memory(const moecl_device_info *info)
{
    uint64_t host = info->type & CL_DEVICE_TYPE_CPU ? host_available_memory() : 0;
    return host > 0 && host < info->global_memory ? host : info->global_memory;
}

enum outcome device_require_memory(const moecl_device_info *info, const char *what, double device_bytes,
                                   double host_bytes, struct fault *fault)
{
    char title[DEVICE_TEXT], needs[OUTPUT_TEXT], has[OUTPUT_TEXT];
    double available = (double)device_available_memory(info), host = (double)host_available_memory();
    if (device_bytes > available)
        return fault_set(fault, OUTCOME_ERROR, "%s needs %s, and %s has %s", what, output_bytes(needs, device_bytes),
                         device_title(title, info), output_bytes(has, available));
    if (info->type & CL_DEVICE_TYPE_CPU)
        host_bytes += device_bytes;
    if (host > 0 && host_bytes > host)
        return fault_set(fault, OUTCOME_ERROR, "%s needs %s of host memory, and %s are available", what,
                         output_bytes(needs, host_bytes), output_bytes(has, host));
    return OUTCOME_SUCCESS;
}

double clock_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare_times(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double clock_quantile(double *times, size_t count, double share)
{
    qsort(times, count, sizeof(*times), compare_times);
    return times[(size_t)(share * (double)(count - 1) + 0.5)];
}
