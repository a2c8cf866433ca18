/* SPDX-License-Identifier: Apache-2.0 */
/* buffer.c - device memory: making it, checking the caller's, moving bytes. */
#include "buffer.h"

#include <stdint.h>
#include <sys/mman.h>

#ifdef MADV_HUGEPAGE
/* Where the device's memory is the host's, asks for pages of 2 MiB, before anything is written: with pages of 4 KiB a
 * processor spends a part of the time that streaming weights takes on finding them. It is a wish: that it was not
 * granted is no error. */
static moecl_status advise_huge_pages(struct moecl_context *context, cl_mem memory, size_t size)
{
    enum { HUGE_PAGE = 2 << 20 };
    moecl_status status = MOECL_OK;
    void *mapped;
    if (context->info.type != CL_DEVICE_TYPE_CPU || size < 2 * HUGE_PAGE)
        return MOECL_OK;
    TRY(moecl_buffer_map(context, (moecl_buffer){memory, 0}, size, &mapped));
    const uintptr_t begin = (uintptr_t)mapped, end = begin + size;
    const uintptr_t first = (begin + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE, last = end / HUGE_PAGE * HUGE_PAGE;
    madvise((void *)first, last - first, MADV_HUGEPAGE);
    TRY(moecl_buffer_unmap(context, (moecl_buffer){memory, 0}, mapped));
out:
    return status;
}
#endif

moecl_status moecl_buffer_create(struct moecl_context *context, cl_mem_flags flags, size_t size, const char *what,
                                 cl_mem *memory)
{
    moecl_status status = MOECL_OK;
    cl_mem created = NULL;
    if (size == 0)
        size = 1;
    if (size > context->info.max_allocation)
        FAIL(&context->error, MOECL_DEVICE_TOO_SMALL,
             "%s needs a buffer of %zu bytes, but %s / %s allows %llu bytes in one", what, size, context->info.platform,
             context->info.name, (unsigned long long)context->info.max_allocation);
    cl_int code = CL_SUCCESS;
    created = clCreateBuffer(context->cl, flags, size, NULL, &code);
    if (code != CL_SUCCESS) {
        status = moecl_error_opencl(&context->error, code, "clCreateBuffer");
        if (code == CL_INVALID_BUFFER_SIZE)
            status = MOECL_DEVICE_TOO_SMALL;
        return moecl_error_append(&context->error, status, ", for %s of %zu bytes", what, size);
    }
#ifdef MADV_HUGEPAGE
    TRY(advise_huge_pages(context, created, size));
#endif
    *memory = created;
    created = NULL;
out:
    moecl_buffer_release(created);
    return status;
}

void moecl_buffer_release(cl_mem memory)
{
    if (memory != NULL)
        clReleaseMemObject(memory);
}

moecl_status moecl_buffer_check(struct moecl_context *context, moecl_buffer buffer, size_t size, size_t alignment,
                                const char *what)
{
    moecl_status status = MOECL_OK;
    size_t available = 0;
    cl_context owner;
    if (buffer.memory == NULL)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: no memory object is given", what);
    CL_TRY(&context->error, clGetMemObjectInfo(buffer.memory, CL_MEM_SIZE, sizeof(available), &available, NULL));
    CL_TRY(&context->error, clGetMemObjectInfo(buffer.memory, CL_MEM_CONTEXT, sizeof(cl_context), &owner, NULL));
    if (owner != context->cl)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: its memory belongs to another OpenCL context", what);
    if (buffer.offset % alignment != 0)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: its offset %zu is no multiple of %zu", what, buffer.offset,
             alignment);
    if (buffer.offset > available || size > available - buffer.offset)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT,
             "%s: %zu bytes from offset %zu on do not fit a memory object of %zu bytes", what, size, buffer.offset,
             available);
out:
    return status;
}

moecl_buffer moecl_buffer_at(moecl_buffer buffer, size_t bytes)
{
    return (moecl_buffer){.memory = buffer.memory, .offset = buffer.offset + bytes};
}

/* ------------------------------------------------------------------------------------------------ moving bytes -- */

/* Makes the next command wait for all before it, on a queue that does not do so anyway. */
static moecl_status wait_for_earlier(struct moecl_context *context)
{
    moecl_status status = MOECL_OK;
    if (context->out_of_order)
        CL_TRY(&context->error, clEnqueueBarrierWithWaitList(context->queue, 0, NULL, NULL));
out:
    return status;
}

moecl_status moecl_buffer_map(struct moecl_context *context, moecl_buffer buffer, size_t size, void **mapped)
{
    moecl_status status = MOECL_OK;
    TRY(wait_for_earlier(context));
    CL_NEW(&context->error, *mapped,
           clEnqueueMapBuffer(context->queue, buffer.memory, CL_TRUE, CL_MAP_WRITE_INVALIDATE_REGION, buffer.offset,
                              size, 0, NULL, NULL, &cl_code));
out:
    return status;
}

moecl_status moecl_buffer_unmap(struct moecl_context *context, moecl_buffer buffer, void *mapped)
{
    moecl_status status = MOECL_OK;
    cl_event done = NULL;
    CL_TRY(&context->error, clEnqueueUnmapMemObject(context->queue, buffer.memory, mapped, 0, NULL, &done));
    CL_TRY(&context->error, clWaitForEvents(1, &done));
out:
    if (done != NULL)
        clReleaseEvent(done);
    return status;
}

moecl_status moecl_buffer_read(struct moecl_context *context, moecl_buffer buffer, size_t size, void *to)
{
    moecl_status status = MOECL_OK;
    if (size == 0)
        return MOECL_OK;
    TRY(wait_for_earlier(context));
    CL_TRY(&context->error,
           clEnqueueReadBuffer(context->queue, buffer.memory, CL_TRUE, buffer.offset, size, to, 0, NULL, NULL));
out:
    return status;
}

moecl_status moecl_buffer_write(struct moecl_context *context, moecl_buffer buffer, size_t size, const void *from)
{
    moecl_status status = MOECL_OK;
    if (size == 0)
        return MOECL_OK;
    TRY(wait_for_earlier(context));
    CL_TRY(&context->error,
           clEnqueueWriteBuffer(context->queue, buffer.memory, CL_TRUE, buffer.offset, size, from, 0, NULL, NULL));
out:
    return status;
}
