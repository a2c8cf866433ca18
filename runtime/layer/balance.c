/* SPDX-License-Identifier: Apache-2.0 */
/* balance.c - loss-free balancing of a layer: counts a pass's choices, moves the selection bias against them. */
#include <math.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "layer.h"
#include "options.h"
#include "stages/selection_bias.h"
#include "stages/statistics.h"

/* Of one call. */
struct update {
    struct moecl_statistics_kernels statistics;
    cl_kernel bias;
    cl_mem load, figures;
};

static moecl_status check_call(moecl_layer *layer, size_t tokens, moecl_buffer ids, float rate, size_t slots)
{
    moecl_status status = MOECL_OK;
    struct moecl_context *context = layer->context;
    if (!layer->options.router.selection_biased)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "the layer's router has no selection bias");
    if (!isfinite(rate))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "the rate of a selection bias must be finite");
    if (tokens > MOECL_MAX_TOKENS)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%zu tokens; one call takes at most %d", tokens,
             MOECL_MAX_TOKENS);
    if (tokens > 0)
        TRY(moecl_buffer_check(context, ids, tokens * slots * sizeof(cl_int), sizeof(cl_int), "selection bias: ids"));
out:
    return status;
}

static moecl_status prepare(struct moecl_context *context, size_t outputs, struct update *update)
{
    moecl_status status = MOECL_OK;
    TRY(moecl_statistics_kernels_create(context, &update->statistics));
    TRY(moecl_selection_bias_kernel_create(context, &update->bias));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, outputs * sizeof(cl_uint), "selection bias: load",
                            &update->load));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, sizeof(moecl_load_statistics), "selection bias: figures",
                            &update->figures));
out:
    return status;
}

/* OpenCL keeps what queued kernels use until they have run. */
static void forget(struct update *update)
{
    moecl_statistics_kernels_release(&update->statistics);
    if (update->bias)
        clReleaseKernel(update->bias);
    moecl_buffer_release(update->load);
    moecl_buffer_release(update->figures);
}

moecl_status moecl_layer_update_selection_bias(moecl_layer *layer, size_t tokens, moecl_buffer ids, float rate,
                                               cl_uint num_events_in_wait_list, const cl_event *event_wait_list,
                                               cl_event *event)
{
    moecl_status status = MOECL_OK;
    struct update update = {.load = NULL};
    struct moecl_chain chain;
    if (!layer)
        return MOECL_INVALID_ARGUMENT;
    const size_t slots = moecl_layer_slots(&layer->options), outputs = moecl_router_outputs(&layer->options);
    TRY(check_call(layer, tokens, ids, rate, slots));
    TRY(prepare(layer->context, outputs, &update));
    const moecl_buffer load = {update.load, 0}, bias = moecl_layer_vector(layer, MOECL_VECTOR_SELECTION_BIAS);
    const moecl_statistics_call statistics = {tokens, slots, outputs, ids, load, {update.figures, 0}};
    TRY(moecl_chain_begin(&chain, layer->context, num_events_in_wait_list, event_wait_list));
    status = moecl_statistics_enqueue(&update.statistics, &chain, &statistics);
    if (status == MOECL_OK)
        status = moecl_selection_bias_enqueue(update.bias, &chain, outputs, rate, load, bias);
    TRY(moecl_chain_end(&chain, status, event));
out:
    forget(&update);
    return status;
}
