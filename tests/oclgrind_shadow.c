/* SPDX-License-Identifier: Apache-2.0 */
/* oclgrind_shadow.c - preloaded where Oclgrind looks for uninitialised reads, between a program and the OpenCL loader.
 *
 * What Oclgrind 21.10 knows of a buffer goes wrong when the host writes, fills or copies a part of it: the rest counts
 * as uninitialised from then on. It is also kept, at its old size, for the next buffer at the same address. So here
 * a command of the host's is followed by mapping the whole buffer for writing, which counts as writing it, and buffers
 * are never released. What kernels write and read is watched all the same. */
#include <dlfcn.h>
#include <stddef.h>

#include <CL/cl.h>

/* The function that is called here by its own name, in the loader. */
#define LOADER(name) (__extension__(__typeof__(&name)) dlsym(RTLD_NEXT, #name))

/* Passes a command's code on; where it is queued, the whole of `memory` counts as written after it. */
static cl_int written(cl_command_queue queue, cl_mem memory, cl_int code)
{
    size_t size = 0;
    if (code != CL_SUCCESS || clGetMemObjectInfo(memory, CL_MEM_SIZE, sizeof(size), &size, NULL) != CL_SUCCESS)
        return code;
    void *mapped = LOADER(clEnqueueMapBuffer)(queue, memory, CL_FALSE, CL_MAP_WRITE, 0, size, 0, NULL, NULL, &code);
    return code == CL_SUCCESS ? clEnqueueUnmapMemObject(queue, memory, mapped, 0, NULL, NULL) : code;
}

cl_int clReleaseMemObject(cl_mem memory)
{
    return memory != NULL ? CL_SUCCESS : CL_INVALID_MEM_OBJECT;
}

cl_int clEnqueueWriteBuffer(cl_command_queue queue, cl_mem memory, cl_bool blocking, size_t offset, size_t size,
                            const void *from, cl_uint wait_count, const cl_event *wait, cl_event *event)
{
    return written(queue, memory,
                   LOADER(clEnqueueWriteBuffer)(queue, memory, blocking, offset, size, from, wait_count, wait, event));
}

cl_int clEnqueueFillBuffer(cl_command_queue queue, cl_mem memory, const void *pattern, size_t pattern_size,
                           size_t offset, size_t size, cl_uint wait_count, const cl_event *wait, cl_event *event)
{
    return written(
        queue, memory,
        LOADER(clEnqueueFillBuffer)(queue, memory, pattern, pattern_size, offset, size, wait_count, wait, event));
}

cl_int clEnqueueCopyBufferRect(cl_command_queue queue, cl_mem from, cl_mem to, const size_t *from_origin,
                               const size_t *to_origin, const size_t *region, size_t from_row, size_t from_slice,
                               size_t to_row, size_t to_slice, cl_uint wait_count, const cl_event *wait,
                               cl_event *event)
{
    return written(queue, to,
                   LOADER(clEnqueueCopyBufferRect)(queue, from, to, from_origin, to_origin, region, from_row,
                                                   from_slice, to_row, to_slice, wait_count, wait, event));
}
