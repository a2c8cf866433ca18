/* SPDX-License-Identifier: Apache-2.0 */
/* launch.c - queueing kernels, one after the other, on in-order and out-of-order queues alike. */
#include "launch.h"

#include "memory.h"

moecl_status moecl_chain_begin(struct moecl_chain *chain, struct moecl_context *context, cl_uint wait_count,
                               const cl_event *wait)
{
    moecl_status status = MOECL_OK;
    *chain = (struct moecl_chain){.context = context};
    TRY(moecl_context_require_device(context));
    if ((wait_count == 0) != (wait == NULL))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "the wait list has a count of %u and %s pointer",
             (unsigned)wait_count, wait == NULL ? "no" : "a");
    chain->wait_count = wait_count;
    chain->wait = wait;
out:
    return status;
}

/* What the chain's next command has to wait for. */
struct wait_list {
    cl_uint count;
    const cl_event *events;
};

static struct wait_list next_wait(const struct moecl_chain *chain)
{
    if (chain->last != NULL)
        return (struct wait_list){1, &chain->last};
    return (struct wait_list){chain->wait_count, chain->wait};
}

/* Where a command leaves its event: nowhere on an in-order queue, whose order is enough. */
static cl_event *next_event(const struct moecl_chain *chain, cl_event *event)
{
    return chain->context->out_of_order ? event : NULL;
}

/* A command was queued, `event` its event or NULL: it stands for the chain so far. */
static void advance(struct moecl_chain *chain, cl_event event)
{
    if (chain->last != NULL)
        clReleaseEvent(chain->last);
    chain->last = event;
    chain->wait_count = 0;
    chain->wait = NULL;
}

moecl_status moecl_chain_end(struct moecl_chain *chain, moecl_status status, cl_event *event)
{
    if (status != MOECL_OK || event == NULL)
        goto out;
    if (chain->last != NULL) {
        *event = chain->last;
        chain->last = NULL;
        return MOECL_OK;
    }
    cl_event marker = NULL;
    CL_TRY(&chain->context->error,
           clEnqueueMarkerWithWaitList(chain->context->queue, chain->wait_count, chain->wait, &marker));
    *event = marker;
out:
    advance(chain, NULL);
    return status;
}

/* ------------------------------------------------------------------------------------------------------ commands -- */

static moecl_status set_arguments(struct moecl_error *error, cl_kernel kernel, const struct moecl_argument *arguments,
                                  size_t count)
{
    moecl_status status = MOECL_OK;
    cl_uint parameter = 0;
    for (size_t i = 0; i < count; i++) {
        const struct moecl_argument *argument = &arguments[i];
        if (argument->kind == MOECL_ARGUMENT_BUFFER) {
            cl_ulong offset = argument->value.buffer.offset;
            CL_TRY(error, clSetKernelArg(kernel, parameter++, sizeof(cl_mem), &argument->value.buffer.memory));
            CL_TRY(error, clSetKernelArg(kernel, parameter++, sizeof(offset), &offset));
        } else {
            CL_TRY(error, clSetKernelArg(kernel, parameter++, argument->size, &argument->value));
        }
    }
    return MOECL_OK;
out:
    return moecl_error_append(error, status, ", parameter %u", (unsigned)(parameter - 1));
}

/* Adds to the sentence which kernel failed, over what. */
static moecl_status append_kernel(struct moecl_error *error, moecl_status status, cl_kernel kernel,
                                  const size_t global[3], const size_t local[3])
{
    char name[128];
    if (clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, sizeof(name), name, NULL) != CL_SUCCESS)
        name[0] = 0;
    return moecl_error_append(error, status,
                              " (kernel %s over %zu x %zu x %zu work-items in groups of %zu x %zu x %zu)", name,
                              global[0], global[1], global[2], local[0], local[1], local[2]);
}

moecl_status moecl_launch(struct moecl_chain *chain, cl_kernel kernel, cl_uint dimensions, const size_t *global,
                          const size_t *local, const struct moecl_argument *arguments, size_t count)
{
    moecl_status status = MOECL_OK;
    struct moecl_error *error = &chain->context->error;
    size_t items[3] = {1, 1, 1}, group[3] = {1, 1, 1};
    for (cl_uint d = 0; d < dimensions; d++) {
        if (global[d] == 0)
            return MOECL_OK;
        group[d] = local == NULL ? 1 : local[d];
        items[d] = moecl_round_up(global[d], group[d]);
    }
    TRY(set_arguments(error, kernel, arguments, count));
    struct wait_list wait = next_wait(chain);
    cl_event event = NULL;
    CL_TRY(error, clEnqueueNDRangeKernel(chain->context->queue, kernel, dimensions, NULL, items, group, wait.count,
                                         wait.events, next_event(chain, &event)));
    advance(chain, event);
    return MOECL_OK;
out:
    return append_kernel(error, status, kernel, items, group);
}

moecl_status moecl_launch_fill(struct moecl_chain *chain, moecl_buffer buffer, const void *pattern, size_t pattern_size,
                               size_t size)
{
    moecl_status status = MOECL_OK;
    if (size == 0)
        return MOECL_OK;
    struct wait_list wait = next_wait(chain);
    cl_event event = NULL;
    CL_TRY(&chain->context->error,
           clEnqueueFillBuffer(chain->context->queue, buffer.memory, pattern, pattern_size, buffer.offset, size,
                               wait.count, wait.events, next_event(chain, &event)));
    advance(chain, event);
out:
    return status;
}

moecl_status moecl_launch_copy_rows(struct moecl_chain *chain, moecl_buffer from, size_t pitch, moecl_buffer to,
                                    size_t row_bytes, size_t rows)
{
    moecl_status status = MOECL_OK;
    const size_t from_origin[] = {from.offset, 0, 0}, to_origin[] = {to.offset, 0, 0}, region[] = {row_bytes, rows, 1};
    if (row_bytes == 0 || rows == 0)
        return MOECL_OK;
    struct wait_list wait = next_wait(chain);
    cl_event event = NULL;
    CL_TRY(&chain->context->error,
           clEnqueueCopyBufferRect(chain->context->queue, from.memory, to.memory, from_origin, to_origin, region, pitch,
                                   0, row_bytes, 0, wait.count, wait.events, next_event(chain, &event)));
    advance(chain, event);
out:
    return status;
}

/* ------------------------------------------------------------------------------------------- others' commands -- */

moecl_status moecl_chain_leave(struct moecl_chain *chain)
{
    moecl_status status = MOECL_OK;
    struct wait_list wait = next_wait(chain);
    if (wait.count == 0)
        return MOECL_OK;
    cl_event event = NULL;
    CL_TRY(&chain->context->error,
           clEnqueueBarrierWithWaitList(chain->context->queue, wait.count, wait.events, next_event(chain, &event)));
    advance(chain, event);
out:
    return status;
}

moecl_status moecl_chain_enter(struct moecl_chain *chain)
{
    moecl_status status = MOECL_OK;
    if (!chain->context->out_of_order)
        return MOECL_OK;
    cl_event event = NULL;
    CL_TRY(&chain->context->error, clEnqueueMarkerWithWaitList(chain->context->queue, 0, NULL, &event));
    advance(chain, event);
out:
    return status;
}
