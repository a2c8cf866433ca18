/* SPDX-License-Identifier: Apache-2.0 */
/* routing.c - from x to ids and weights, for one chunk or, where tokens depend on each other, for a whole pass.
 *
 *     a chunk    [x to the router's input,] pack, router product, route
 *     a pass     the router product (and the route) of each chunk, then once over all tokens: Sinkhorn and the route,
 * or the experts' choice; and the capacity
 */
#include "chunk.h"
#include "device/buffer.h"
#include "stages/flag.h"
#include "stages/input.h"

static const moecl_buffer none = {NULL, 0};

static moecl_buffer vector_of(const struct moecl_layer *layer, moecl_vector vector)
{
    return (moecl_buffer){layer->vectors[vector], 0};
}

/* Whether this pass's router reads another input than x: the norm, or x jittered. */
static bool has_router_input(const struct moecl_pass *pass)
{
    const moecl_layer_options *options = &pass->layer->options;
    return options->router_input.normalised || (options->router.input_jitter > 0 && pass->forward->noisy);
}

/* -------------------------------------------------------------------------------------------------- logits -- */

moecl_buffer moecl_chunk_logits(const struct moecl_chunk *chunk)
{
    const moecl_layer_options *options = &chunk->layer->options;
    const size_t first = moecl_layer_needs_all_logits(options) ? chunk->first : 0;
    return moecl_buffer_at(moecl_chunk_region(chunk, MOECL_REGION_LOGITS),
                           first * moecl_router_columns(options) * sizeof(cl_float));
}

moecl_buffer moecl_chunk_shared_logits(const struct moecl_chunk *chunk)
{
    const moecl_buffer logits = has_router_input(chunk->pass) ? moecl_chunk_region(chunk, MOECL_REGION_SHARED_LOGITS)
                                                              : moecl_chunk_logits(chunk);
    return moecl_buffer_at(logits, moecl_router_rows(&chunk->layer->options) * sizeof(cl_float));
}

static moecl_status group_all(const struct moecl_chunk *chunk)
{
    struct moecl_layer *layer = chunk->layer;
    struct moecl_grouping *all = &layer->all;
    const cl_uint offsets[] = {0, (cl_uint)chunk->tokens};
    moecl_status status = MOECL_OK;
    all->groups = 1;
    all->rows = chunk->tokens;
    all->exact = true;
    all->order = layer->gemm->variant->any_order ? MOECL_ORDER_ALONE : MOECL_ORDER_BY_GROUP;
    if (all->order == MOECL_ORDER_ALONE)
        goto out;
    all->offsets = moecl_chunk_region(chunk, MOECL_REGION_ALL_OFFSETS);
    all->map = moecl_chunk_region(chunk, MOECL_REGION_ALL_MAP);
    TRY(moecl_launch_fill(chunk->chain, all->offsets, offsets, sizeof(offsets), sizeof(offsets)));
    TRY(layer->gemm->variant->group(layer->gemm, chunk->chain, all));
out:
    return status;
}

/* x as it is: for a router that reads it, the shared expert and its gate, the latent projection. */
static moecl_status pack_x(const struct moecl_chunk *chunk, enum moecl_region to)
{
    const moecl_layer_options *options = &chunk->layer->options;
    return moecl_chunk_pack(chunk, &chunk->layer->all, chunk->x, options->activations, options->hidden, 0, none, to);
}

static moecl_status make_router_input(const struct moecl_chunk *chunk)
{
    const struct moecl_layer *layer = chunk->layer;
    const moecl_layer_options *options = &layer->options;
    const moecl_forward *forward = chunk->pass->forward;
    moecl_status status = MOECL_OK;
    const struct moecl_input_call call = {
        .options = &options->router_input,
        .tokens = chunk->tokens,
        .hidden = options->hidden,
        .x = chunk->x,
        .vector = vector_of(layer, MOECL_VECTOR_ROUTER_NORM),
        .jitter = forward->noisy ? options->router.input_jitter : 0,
        .seed = options->router.seed,
        .step = forward->step,
        .first_token = chunk->first,
        .input = moecl_chunk_region(chunk, MOECL_REGION_ROUTER_INPUT),
    };
    TRY(moecl_input_enqueue(layer->router_input, chunk->chain, &call));
    TRY(moecl_chunk_pack(chunk, &layer->all, call.input, MOECL_F32, options->hidden, 0, none,
                         MOECL_REGION_ROUTER_PACKED));
out:
    return status;
}

/* The router's product, and the shared gate's logits; either only where they are asked for. */
static moecl_status make_logits(const struct moecl_chunk *chunk, bool router)
{
    const struct moecl_layer *layer = chunk->layer;
    const moecl_layer_options *options = &layer->options;
    const bool own_input = has_router_input(chunk->pass), gated = options->shared_gate != MOECL_SHARED_GATE_NONE;
    const bool shared = options->shared_intermediate > 0,
               shared_in_pairs = moecl_layer_shared_in_pairs(layer, chunk->tokens);
    const bool needs_x = (router && !own_input) || gated || (shared && !shared_in_pairs) || options->latent;
    moecl_status status = MOECL_OK;
    if (!router && !needs_x && !shared)
        goto out;
    TRY(group_all(chunk));
    if (needs_x && !moecl_chunk_is_token(chunk))
        TRY(pack_x(chunk, MOECL_REGION_ALL_PACKED));
    if (shared_in_pairs)
        TRY(pack_x(chunk, MOECL_REGION_SHARED_PACKED));
    if (router && own_input) {
        TRY(make_router_input(chunk));
        TRY(moecl_chunk_multiply(chunk, &layer->all, MOECL_PART_ROUTER, MOECL_FORM_ROWS, MOECL_REGION_ROUTER_PACKED,
                                 moecl_chunk_logits(chunk)));
    }
    if (gated && own_input)
        TRY(moecl_chunk_multiply_x(chunk, &layer->all, MOECL_PART_ROUTER, MOECL_FORM_ROWS,
                                   moecl_chunk_region(chunk, MOECL_REGION_SHARED_LOGITS)));
    if (!own_input && (router || gated))
        TRY(moecl_chunk_multiply_x(chunk, &layer->all, MOECL_PART_ROUTER, MOECL_FORM_ROWS, moecl_chunk_logits(chunk)));
out:
    return status;
}

/* --------------------------------------------------------------------------------------------------- route -- */

/* The call of the route stage for `tokens` tokens from `first` on. */
static struct moecl_route_call route_call(const struct moecl_pass *pass, size_t first, size_t tokens,
                                          moecl_buffer logits, moecl_routing routing)
{
    const struct moecl_layer *layer = pass->layer;
    const moecl_layer_options *options = &layer->options;
    const moecl_forward *forward = pass->forward;
    struct moecl_route_call call = {
        .tokens = tokens,
        .first_token = first,
        .logits = logits,
        .stride = moecl_router_columns(options),
        .noise_column = moecl_router_rows(options) + moecl_shared_gate_rows(options),
        .router_bias = vector_of(layer, MOECL_VECTOR_ROUTER_BIAS),
        .selection_bias = vector_of(layer, MOECL_VECTOR_SELECTION_BIAS),
        .expert_scale = vector_of(layer, MOECL_VECTOR_EXPERT_SCALE),
        .table = {layer->table, 0},
        .scratch = layer->workspace.region[MOECL_REGION_ROUTE_SCRATCH],
        .noisy = forward->noisy,
        .step = forward->step,
        .routing = routing,
        .flag = {layer->flag, 0},
    };
    if (forward->token_ids.memory)
        call.token_ids = moecl_buffer_at(forward->token_ids, first * sizeof(cl_int));
    return call;
}

static moecl_status route(const struct moecl_chunk *chunk)
{
    const struct moecl_route_call call =
        route_call(chunk->pass, chunk->first, chunk->tokens, moecl_chunk_logits(chunk), chunk->routing);
    return moecl_route_enqueue(&chunk->layer->route, chunk->chain, &call);
}

/* The logits where the caller wants them, without the shared gate's and the noise's. */
static moecl_status copy_logits(const struct moecl_chunk *chunk)
{
    const moecl_layer_options *options = &chunk->layer->options;
    const size_t row = moecl_router_outputs(options) * sizeof(cl_float);
    if (!chunk->pass->logits.memory)
        return MOECL_OK;
    return moecl_launch_copy_rows(chunk->chain, moecl_chunk_logits(chunk),
                                  moecl_router_columns(options) * sizeof(cl_float),
                                  moecl_buffer_at(chunk->pass->logits, chunk->first * row), row, chunk->tokens);
}

moecl_status moecl_route_chunk(const struct moecl_chunk *chunk)
{
    const struct moecl_pass *pass = chunk->pass;
    const bool routed = pass->forward->routing_given || moecl_layer_is_wide(&chunk->layer->options);
    moecl_status status = MOECL_OK;
    /* A pass that fits one chunk has what it needs from its routing. */
    if (routed && !pass->forward->routing_given && chunk->tokens == pass->forward->tokens)
        goto out;
    TRY(make_logits(chunk, !routed));
    if (!routed) {
        TRY(route(chunk));
        TRY(copy_logits(chunk));
    }
out:
    return status;
}

/* Keys that Sinkhorn's iterations balance over all tokens, then the route stage with them. */
static moecl_status route_balanced(const struct moecl_pass *pass, const struct moecl_chunk *whole)
{
    const struct moecl_layer *layer = pass->layer;
    const moecl_layer_options *options = &layer->options;
    struct moecl_route_call call =
        route_call(pass, 0, pass->forward->tokens, moecl_chunk_logits(whole), whole->routing);
    const moecl_sinkhorn_call balance = {
        .tokens = call.tokens,
        .experts = moecl_router_outputs(options),
        .iterations = options->router.sinkhorn_iterations,
        .logits = call.logits,
        .stride = call.stride,
        .keys = moecl_chunk_region(whole, MOECL_REGION_KEYS),
        .workspace = moecl_chunk_region(whole, MOECL_REGION_CROSS_TOKENS),
    };
    moecl_status status = MOECL_OK;
    TRY(moecl_route_scores_enqueue(&layer->route, pass->chain, &call, none));
    TRY(moecl_sinkhorn_enqueue(&layer->sinkhorn, pass->chain, &balance));
    call.keys = balance.keys;
    TRY(moecl_route_enqueue(&layer->route, pass->chain, &call));
out:
    return status;
}

/* Scores of all tokens, of which each expert takes its best. */
static moecl_status route_by_experts(const struct moecl_pass *pass, const struct moecl_chunk *whole)
{
    const struct moecl_layer *layer = pass->layer;
    const moecl_layer_options *options = &layer->options;
    const size_t tokens = pass->forward->tokens;
    const struct moecl_route_call call = route_call(pass, 0, tokens, moecl_chunk_logits(whole), whole->routing);
    const moecl_expert_choice_call choice = {
        .tokens = tokens,
        .experts = options->experts,
        .capacity = moecl_expert_choice_capacity(options, tokens),
        .scores = moecl_chunk_region(whole, MOECL_REGION_KEYS),
        .stride = options->experts,
        .logits = call.logits,
        .logits_stride = call.stride,
        .selection_bias = call.selection_bias,
        .routing = whole->routing,
        .workspace = moecl_chunk_region(whole, MOECL_REGION_CROSS_TOKENS),
    };
    moecl_status status = MOECL_OK;
    TRY(moecl_route_scores_enqueue(&layer->route, pass->chain, &call, choice.scores));
    TRY(moecl_expert_choice_enqueue(&layer->expert_choice, pass->chain, &choice));
    TRY(moecl_choice_weights_enqueue(&layer->expert_choice, pass->chain, tokens, options->experts,
                                     options->router.weight, call.logits, call.stride, whole->routing));
    TRY(moecl_route_finish_enqueue(&layer->route, pass->chain, tokens, options->experts, whole->routing,
                                   call.expert_scale));
out:
    return status;
}

/* Takes back what the experts have no room for. */
static moecl_status limit_capacity(const struct moecl_pass *pass, const struct moecl_chunk *whole)
{
    const struct moecl_layer *layer = pass->layer;
    const moecl_layer_options *options = &layer->options;
    const moecl_capacity *capacity = &options->router.capacity;
    const size_t tokens = pass->forward->tokens;
    const struct moecl_capacity_call call = {
        .tokens = tokens,
        .slots = options->top_k,
        .experts = options->experts,
        .rows = moecl_capacity_rows(capacity, tokens, options->top_k, options->experts),
        .order = capacity->order,
        .routing = whole->routing,
        .workspace = moecl_chunk_region(whole, MOECL_REGION_CROSS_TOKENS),
    };
    moecl_status status = MOECL_OK;
    TRY(moecl_capacity_enqueue(&layer->capacity, pass->chain, &call));
    if (capacity->normalise_after)
        TRY(moecl_route_finish_enqueue(&layer->route, pass->chain, tokens, options->top_k, whole->routing,
                                       vector_of(layer, MOECL_VECTOR_EXPERT_SCALE)));
out:
    return status;
}

moecl_status moecl_route_pass(const struct moecl_pass *pass)
{
    const moecl_layer_options *options = &pass->layer->options;
    const struct moecl_chunk whole = moecl_chunk_at(pass, 0);
    const bool all_logits = moecl_layer_needs_all_logits(options);
    const size_t tokens = pass->forward->tokens;
    moecl_status status = MOECL_OK;
    for (size_t first = 0; first < tokens; first += pass->chunk_tokens) {
        const struct moecl_chunk chunk = moecl_chunk_at(pass, first);
        TRY(make_logits(&chunk, true));
        if (all_logits)
            continue;
        TRY(route(&chunk));
        TRY(copy_logits(&chunk));
    }
    if (options->router.selection == MOECL_SELECTION_SINKHORN)
        TRY(route_balanced(pass, &whole));
    if (options->router.selection == MOECL_SELECTION_EXPERT_CHOICE)
        TRY(route_by_experts(pass, &whole));
    if (options->router.capacity.kind != MOECL_CAPACITY_NONE)
        TRY(limit_capacity(pass, &whole));
    for (size_t first = 0; all_logits && first < tokens; first += pass->chunk_tokens) {
        const struct moecl_chunk chunk = moecl_chunk_at(pass, first);
        TRY(copy_logits(&chunk));
    }
out:
    return status;
}
