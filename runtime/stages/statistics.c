/* SPDX-License-Identifier: Apache-2.0 */
/* statistics.c - launches cl/statistics.cl. */
#include "statistics.h"

#include <stdio.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "device/program.h"

enum { GROUP = 64, MOST_GROUPS = 256 };

moecl_status moecl_statistics_kernels_create(struct moecl_context *context, struct moecl_statistics_kernels *kernels)
{
    moecl_status status = MOECL_OK;
    char options[64];
    *kernels = (struct moecl_statistics_kernels){0};
    snprintf(options, sizeof(options), "-DGROUP=%d -DMOST_OUTPUTS=%d", GROUP, MOECL_MAX_EXPERTS);
    TRY(moecl_kernel_create(context, "statistics.cl", options, "statistics_count", &kernels->count));
    TRY(moecl_kernel_create(context, "statistics.cl", options, "statistics_figures", &kernels->figures));
out:
    if (status != MOECL_OK)
        moecl_statistics_kernels_release(kernels);
    return status;
}

void moecl_statistics_kernels_release(struct moecl_statistics_kernels *kernels)
{
    if (kernels->count)
        clReleaseKernel(kernels->count);
    if (kernels->figures)
        clReleaseKernel(kernels->figures);
    *kernels = (struct moecl_statistics_kernels){0};
}

moecl_status moecl_statistics_enqueue(const struct moecl_statistics_kernels *kernels, struct moecl_chain *chain,
                                      const moecl_statistics_call *call)
{
    const size_t needed = moecl_divide_up(call->tokens, GROUP), one = 1, local[] = {GROUP};
    const size_t items[] = {(needed < MOST_GROUPS ? needed : MOST_GROUPS) * GROUP};
    const cl_uint zero = 0;
    moecl_status status = MOECL_OK;
    TRY(moecl_launch_fill(chain, call->load, &zero, sizeof(zero), call->outputs * sizeof(zero)));
    TRY(moecl_launch_fill(chain, call->figures, &zero, sizeof(zero), sizeof(moecl_load_statistics)));
    if (call->tokens > 0) {
        const struct moecl_argument count[] = {ARGUMENT_U32(call->tokens),  ARGUMENT_U32(call->slots),
                                               ARGUMENT_U32(call->outputs), ARGUMENT_BUFFER(call->ids),
                                               ARGUMENT_BUFFER(call->load), ARGUMENT_BUFFER(call->figures)};
        TRY(moecl_launch(chain, kernels->count, 1, items, local, count, 6));
    }
    const struct moecl_argument figures[] = {ARGUMENT_U32(call->outputs), ARGUMENT_BUFFER(call->load),
                                             ARGUMENT_BUFFER(call->figures)};
    TRY(moecl_launch(chain, kernels->figures, 1, &one, NULL, figures, 3));
out:
    return status;
}

/* All but the outputs. */
static moecl_status check_ids(moecl_context *context, const moecl_statistics_call *call)
{
    moecl_status status = MOECL_OK;
    size_t choices;
    TRY(moecl_context_require_device(context));
    if (call->tokens > MOECL_MAX_TOKENS || call->slots < 1 || call->outputs < 1 || call->outputs > MOECL_MAX_EXPERTS ||
        !moecl_size_multiply(call->tokens, call->slots, &choices) || choices > INT32_MAX)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "statistics: %zu tokens of %zu choices among %zu experts",
             call->tokens, call->slots, call->outputs);
    if (choices > 0)
        TRY(moecl_buffer_check(context, call->ids, choices * sizeof(cl_int), sizeof(cl_int), "statistics: ids"));
out:
    return status;
}

moecl_status moecl_statistics(moecl_context *context, const moecl_statistics_call *call,
                              cl_uint num_events_in_wait_list, const cl_event *event_wait_list, cl_event *event)
{
    moecl_status status = MOECL_OK;
    struct moecl_statistics_kernels kernels = {0};
    struct moecl_chain chain;
    if (!context || !call)
        return MOECL_INVALID_ARGUMENT;
    TRY(check_ids(context, call));
    TRY(moecl_buffer_check(context, call->load, call->outputs * sizeof(cl_uint), sizeof(cl_uint), "statistics: load"));
    TRY(moecl_buffer_check(context, call->figures, sizeof(moecl_load_statistics), sizeof(cl_uint),
                           "statistics: figures"));
    TRY(moecl_statistics_kernels_create(context, &kernels));
    TRY(moecl_chain_begin(&chain, context, num_events_in_wait_list, event_wait_list));
    TRY(moecl_chain_end(&chain, moecl_statistics_enqueue(&kernels, &chain, call), event));
out:
    moecl_statistics_kernels_release(&kernels);
    return status;
}

moecl_status moecl_statistics_read(moecl_context *context, size_t tokens, size_t slots, size_t outputs,
                                   moecl_buffer ids, uint32_t *load, moecl_load_statistics *figures)
{
    moecl_status status = MOECL_OK;
    moecl_statistics_call call = {.tokens = tokens, .slots = slots, .outputs = outputs, .ids = ids};
    if (!context || !load || !figures)
        return MOECL_INVALID_ARGUMENT;
    TRY(check_ids(context, &call));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, outputs * sizeof(*load), "statistics: load",
                            &call.load.memory));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, sizeof(*figures), "statistics: figures", &call.figures.memory));
    CL_TRY(&context->error, clFinish(context->queue)); /* whoever writes the ids, on an out-of-order queue too */
    TRY(moecl_statistics(context, &call, 0, NULL, NULL));
    CL_TRY(&context->error, clFinish(context->queue));
    TRY(moecl_buffer_read(context, call.load, outputs * sizeof(*load), load));
    TRY(moecl_buffer_read(context, call.figures, sizeof(*figures), figures));
out:
    moecl_buffer_release(call.load.memory);
    moecl_buffer_release(call.figures.memory);
    return status;
}
