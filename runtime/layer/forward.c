/* SPDX-License-Identifier: Apache-2.0 */
/* forward.c - the forward pass: the stages of a chunk of tokens, chunk after chunk, on one chain.
 *
 *     all rows as one group: pack x, router product, top-k
 *     permute, group by expert, pack x by expert, gate-up product, down product
 *     shared expert: its two products, from x packed above
 *     combine */
#include <time.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "layer.h"
#include "stages/combine.h"
#include "stages/flag.h"

/* A public call. */
struct pass {
    moecl_layer *layer;
    const moecl_forward *forward;
    moecl_stage_times *times; /* NULL: nobody watches */
    bool route_only;
    moecl_buffer logits; /* of route_only: where they are wanted; memory NULL: nowhere */
};

/* A part of its tokens, that the workspace holds. */
struct chunk {
    struct moecl_layer *layer;
    struct moecl_chain *chain;
    const struct pass *pass;
    size_t first, tokens;
    moecl_buffer x, y;
    moecl_routing routing; /* in or out */
    bool routing_given;
};

static moecl_buffer region(const struct chunk *chunk, enum moecl_region name)
{
    return chunk->layer->workspace.region[name];
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* -------------------------------------------------------------------------------------------------- stages -- */

static moecl_status multiply(const struct chunk *chunk, const struct moecl_grouping *grouping,
                             const moecl_matrices *matrices, enum moecl_form form, enum moecl_region from,
                             enum moecl_region to)
{
    struct moecl_gemm *gemm = chunk->layer->gemm;
    const struct moecl_multiply call = {matrices, region(chunk, from), form, region(chunk, to),
                                        region(chunk, MOECL_REGION_SCRATCH)};
    return gemm->variant->multiply(gemm, chunk->chain, grouping, &call);
}

/* x in the variant's input form; `divisor` 0: row r is token r. */
static moecl_status pack(const struct chunk *chunk, const struct moecl_grouping *grouping, size_t divisor,
                         enum moecl_region to)
{
    struct moecl_gemm *gemm = chunk->layer->gemm;
    const struct moecl_pack call = {
        .x = chunk->x,
        .type = chunk->layer->options.activations,
        .depth = chunk->layer->options.hidden,
        .assignments = region(chunk, MOECL_REGION_ASSIGNMENTS),
        .divisor = divisor,
        .packed = region(chunk, to),
        .flag = {chunk->layer->flag, 0},
        .flag_bits = MOECL_FLAG_NOT_FINITE,
    };
    return gemm->variant->pack(gemm, chunk->chain, grouping, &call);
}

/* Needed by the router and by the shared expert. */
static moecl_status pack_all(const struct chunk *chunk)
{
    struct moecl_layer *layer = chunk->layer;
    struct moecl_grouping *all = &layer->all;
    const cl_uint offsets[] = {0, (cl_uint)chunk->tokens};
    moecl_status status = MOECL_OK;
    all->groups = 1;
    all->rows = chunk->tokens;
    all->exact = true;
    all->offsets = region(chunk, MOECL_REGION_ALL_OFFSETS);
    all->map = region(chunk, MOECL_REGION_ALL_MAP);
    TRY(moecl_launch_fill(chunk->chain, all->offsets, offsets, sizeof(offsets), sizeof(offsets)));
    TRY(layer->gemm->variant->group(layer->gemm, chunk->chain, all));
    TRY(pack(chunk, all, 0, MOECL_REGION_ALL_PACKED));
out:
    return status;
}

static moecl_status route(const struct chunk *chunk)
{
    struct moecl_layer *layer = chunk->layer;
    const moecl_layer_options *options = &layer->options;
    moecl_status status = MOECL_OK;
    if (chunk->routing_given && !options->shared_intermediate)
        goto out;
    TRY(pack_all(chunk));
    if (chunk->routing_given && !options->shared_gate)
        goto out;
    TRY(multiply(chunk, &layer->all, layer->router, MOECL_FORM_ROWS, MOECL_REGION_ALL_PACKED, MOECL_REGION_LOGITS));
    if (chunk->routing_given)
        goto out;
    const struct moecl_route_call call = {
        .tokens = chunk->tokens,
        .first_token = chunk->first,
        .logits = region(chunk, MOECL_REGION_LOGITS),
        .stride = layer->router->options.out,
        .routing = chunk->routing,
        .flag = {layer->flag, 0},
    };
    TRY(moecl_route_enqueue(&layer->route, chunk->chain, &call));
out:
    return status;
}

static moecl_status permute(const struct chunk *chunk)
{
    struct moecl_layer *layer = chunk->layer;
    const moecl_layer_options *options = &layer->options;
    struct moecl_grouping *experts = &layer->experts;
    const struct moecl_permute_call call = {
        .tokens = chunk->tokens,
        .slots = options->top_k,
        .experts = options->experts,
        .outputs = options->experts,
        .row_capacity = chunk->tokens * options->top_k,
        .ids = chunk->routing.ids,
        .permutation = {region(chunk, MOECL_REGION_OFFSETS), region(chunk, MOECL_REGION_ASSIGNMENTS),
                        region(chunk, MOECL_REGION_ROWS)},
        .workspace = region(chunk, MOECL_REGION_COUNTS),
        .flag = {layer->flag, 0},
    };
    moecl_status status = MOECL_OK;
    experts->groups = options->experts;
    experts->rows = chunk->tokens * options->top_k;
    experts->offsets = call.permutation.offsets;
    experts->map = region(chunk, MOECL_REGION_MAP);
    TRY(moecl_permute_enqueue(&layer->permute, chunk->chain, &call));
    TRY(layer->gemm->variant->group(layer->gemm, chunk->chain, experts));
out:
    return status;
}

static moecl_status gather(const struct chunk *chunk)
{
    return pack(chunk, &chunk->layer->experts, chunk->layer->options.top_k, MOECL_REGION_PACKED);
}

static moecl_status gate_up(const struct chunk *chunk)
{
    return multiply(chunk, &chunk->layer->experts, chunk->layer->gate_up, MOECL_FORM_ACTIVATED_PACKED,
                    MOECL_REGION_PACKED, MOECL_REGION_ACTIVATED);
}

/* z lies where x was: the gate-up product was the last to read it, and f32 rows are never larger. */
static moecl_status down(const struct chunk *chunk)
{
    return multiply(chunk, &chunk->layer->experts, chunk->layer->down, MOECL_FORM_ROWS, MOECL_REGION_ACTIVATED,
                    MOECL_REGION_PACKED);
}

static moecl_status shared(const struct chunk *chunk)
{
    const struct moecl_layer *layer = chunk->layer;
    moecl_status status = MOECL_OK;
    if (!layer->shared_gate_up)
        goto out;
    TRY(multiply(chunk, &layer->all, layer->shared_gate_up, MOECL_FORM_ACTIVATED_PACKED, MOECL_REGION_ALL_PACKED,
                 MOECL_REGION_SHARED_ACTIVATED));
    TRY(multiply(chunk, &layer->all, layer->shared_down, MOECL_FORM_ROWS, MOECL_REGION_SHARED_ACTIVATED,
                 MOECL_REGION_ALL_PACKED));
out:
    return status;
}

static moecl_status combine(const struct chunk *chunk)
{
    const struct moecl_layer *layer = chunk->layer;
    const moecl_layer_options *options = &layer->options;
    moecl_combine_call call = {
        .tokens = chunk->tokens,
        .top_k = options->top_k,
        .hidden = options->hidden,
        .z = region(chunk, MOECL_REGION_PACKED),
        .rows = region(chunk, MOECL_REGION_ROWS),
        .weights = chunk->routing.weights,
        .y = chunk->y,
        .output_type = options->activations,
    };
    if (layer->shared_gate_up)
        call.shared = region(chunk, MOECL_REGION_ALL_PACKED);
    if (options->shared_gate) {
        call.shared_gate = options->shared_gate;
        call.shared_logits = moecl_buffer_at(region(chunk, MOECL_REGION_LOGITS), options->experts * sizeof(cl_float));
        call.shared_stride = layer->router->options.out;
    }
    return moecl_combine_enqueue(layer->combine, chunk->chain, &call, options->experts);
}

static moecl_status run_stages(const struct chunk *chunk)
{
    static moecl_status (*const stages[MOECL_STAGE_COUNT])(const struct chunk *) = {
        [MOECL_STAGE_ROUTE] = route,     [MOECL_STAGE_PERMUTE] = permute, [MOECL_STAGE_GATHER] = gather,
        [MOECL_STAGE_GATE_UP] = gate_up, [MOECL_STAGE_DOWN] = down,       [MOECL_STAGE_SHARED] = shared,
        [MOECL_STAGE_COMBINE] = combine,
    };
    struct moecl_context *context = chunk->layer->context;
    moecl_stage_times *times = chunk->pass->times;
    moecl_status status = MOECL_OK;
    for (size_t i = 0; i < MOECL_STAGE_COUNT; i++) {
        const double start = times ? now() : 0.0;
        TRY(stages[i](chunk));
        if (times) {
            CL_TRY(&context->error, clFinish(context->queue));
            times->seconds[i] += now() - start;
        }
    }
out:
    return status;
}

/* The route stage and nothing else; the logits are copied out without the shared expert's gate. */
static moecl_status run_route(const struct chunk *chunk)
{
    const struct moecl_layer *layer = chunk->layer;
    const size_t row = layer->options.experts * sizeof(cl_float);
    moecl_status status = MOECL_OK;
    TRY(route(chunk));
    if (chunk->pass->logits.memory)
        TRY(moecl_launch_copy_rows(chunk->chain, region(chunk, MOECL_REGION_LOGITS),
                                   layer->router->options.out * sizeof(cl_float),
                                   moecl_buffer_at(chunk->pass->logits, chunk->first * row), row, chunk->tokens));
out:
    return status;
}

/* -------------------------------------------------------------------------------------------------- chunks -- */

/* Where a chunk's routing lies: the caller's buffers if there are any, else the workspace. */
static moecl_routing chunk_routing(const struct moecl_layer *layer, const moecl_forward *forward, size_t first)
{
    const size_t offset = first * layer->options.top_k * sizeof(cl_int);
    if (!forward->routing.ids.memory)
        return (moecl_routing){layer->workspace.region[MOECL_REGION_IDS],
                               layer->workspace.region[MOECL_REGION_WEIGHTS]};
    return (moecl_routing){moecl_buffer_at(forward->routing.ids, offset),
                           moecl_buffer_at(forward->routing.weights, offset)};
}

static moecl_status run_chunks(const struct pass *pass, struct moecl_chain *chain, size_t chunk_tokens)
{
    moecl_layer *layer = pass->layer;
    const moecl_forward *forward = pass->forward;
    const size_t row_bytes = layer->options.hidden * moecl_type_size(layer->options.activations);
    moecl_status status = MOECL_OK;
    for (size_t first = 0; first < forward->tokens; first += chunk_tokens) {
        const size_t left = forward->tokens - first;
        const struct chunk chunk = {
            .layer = layer,
            .chain = chain,
            .pass = pass,
            .first = first,
            .tokens = left < chunk_tokens ? left : chunk_tokens,
            .x = moecl_buffer_at(forward->x, first * row_bytes),
            .y = moecl_buffer_at(forward->y, first * row_bytes),
            .routing = chunk_routing(layer, forward, first),
            .routing_given = forward->routing_given,
        };
        TRY(pass->route_only ? run_route(&chunk) : run_stages(&chunk));
    }
out:
    return status;
}

static bool overlap(moecl_buffer a, moecl_buffer b, size_t bytes)
{
    return a.memory == b.memory && a.offset < b.offset + bytes && b.offset < a.offset + bytes;
}

static moecl_status check_pass(const struct pass *pass)
{
    const moecl_forward *forward = pass->forward;
    const moecl_layer_options *options = &pass->layer->options;
    const moecl_routing *routing = &forward->routing;
    struct moecl_context *context = pass->layer->context;
    const size_t size = moecl_type_size(options->activations), tokens = forward->tokens;
    moecl_status status = MOECL_OK;
    if (tokens > MOECL_MAX_TOKENS)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%zu tokens; one call takes at most %d", tokens,
             MOECL_MAX_TOKENS);
    if (!routing->ids.memory != !routing->weights.memory)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "routing: ids and weights go together");
    if ((forward->routing_given || pass->route_only) && !routing->ids.memory)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "routing: no ids and weights");
    if (tokens == 0)
        goto out;
    const size_t bytes = tokens * options->hidden * size, choices = tokens * options->top_k * sizeof(cl_int);
    TRY(moecl_buffer_check(context, forward->x, bytes, size, "x"));
    if (routing->ids.memory) {
        TRY(moecl_buffer_check(context, routing->ids, choices, sizeof(cl_int), "routing: ids"));
        TRY(moecl_buffer_check(context, routing->weights, choices, sizeof(cl_float), "routing: weights"));
    }
    if (pass->logits.memory)
        TRY(moecl_buffer_check(context, pass->logits, tokens * options->experts * sizeof(cl_float), sizeof(cl_float),
                               "logits"));
    if (!pass->route_only)
        TRY(moecl_buffer_check(context, forward->y, bytes, size, "y"));
    if (!pass->route_only && overlap(forward->x, forward->y, bytes))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "x and y overlap");
out:
    return status;
}

/* Checks, binds the workspace, queues every chunk. */
static moecl_status enqueue(const struct pass *pass, cl_uint wait_count, const cl_event *wait, cl_event *event)
{
    moecl_layer *layer = pass->layer;
    const size_t tokens = pass->forward->tokens;
    moecl_status status = MOECL_OK;
    struct moecl_chain chain;
    size_t chunk_tokens = 1;
    TRY(check_pass(pass));
    if (tokens > 0) {
        TRY(moecl_workspace_chunk(layer, tokens, &chunk_tokens));
        TRY(moecl_workspace_bind(layer, chunk_tokens));
    }
    TRY(moecl_chain_begin(&chain, layer->context, wait_count, wait));
    TRY(moecl_chain_end(&chain, run_chunks(pass, &chain, chunk_tokens), event));
out:
    if (status != MOECL_OK)
        moecl_error_append(&layer->context->error, status,
                           " (%zu tokens through %zu experts, hidden %zu, intermediate %zu, %zu a token)", tokens,
                           layer->options.experts, layer->options.hidden, layer->options.intermediate,
                           layer->options.top_k);
    return status;
}

moecl_status moecl_layer_forward(moecl_layer *layer, const moecl_forward *forward, cl_uint num_events_in_wait_list,
                                 const cl_event *event_wait_list, cl_event *event)
{
    if (!layer || !forward)
        return MOECL_INVALID_ARGUMENT;
    const struct pass pass = {.layer = layer, .forward = forward};
    return enqueue(&pass, num_events_in_wait_list, event_wait_list, event);
}

moecl_status moecl_layer_forward_timed(moecl_layer *layer, const moecl_forward *forward, moecl_stage_times *times)
{
    moecl_status status = MOECL_OK;
    if (!layer || !forward || !times)
        return MOECL_INVALID_ARGUMENT;
    const struct pass pass = {.layer = layer, .forward = forward, .times = times};
    CL_TRY(&layer->context->error, clFinish(layer->context->queue));
    TRY(enqueue(&pass, 0, NULL, NULL));
out:
    return status;
}

moecl_status moecl_route(moecl_layer *layer, const moecl_forward *forward, moecl_buffer logits,
                         cl_uint num_events_in_wait_list, const cl_event *event_wait_list, cl_event *event)
{
    if (!layer || !forward)
        return MOECL_INVALID_ARGUMENT;
    const struct pass pass = {.layer = layer, .forward = forward, .route_only = true, .logits = logits};
    return enqueue(&pass, num_events_in_wait_list, event_wait_list, event);
}

moecl_status moecl_layer_check(moecl_layer *layer)
{
    moecl_status status = MOECL_OK;
    cl_uint flag = 0;
    const cl_uint zero = 0;
    if (!layer)
        return MOECL_INVALID_ARGUMENT;
    struct moecl_error *error = &layer->context->error;
    const moecl_buffer buffer = {layer->flag, 0};
    CL_TRY(error, clFinish(layer->context->queue));
    TRY(moecl_buffer_read(layer->context, buffer, sizeof(flag), &flag));
    if (flag)
        TRY(moecl_buffer_write(layer->context, buffer, sizeof(zero), &zero));
    if (flag & MOECL_FLAG_BAD_EXPERT)
        FAIL(error, MOECL_INVALID_ARGUMENT, "an expert id was outside 0 to %zu", layer->options.experts - 1);
    if (flag & MOECL_FLAG_NOT_FINITE)
        FAIL(error, MOECL_NOT_FINITE, "x or the router's logits held NaN or infinity");
out:
    return status;
}
