/* SPDX-License-Identifier: Apache-2.0 */
/* forward.c - the forward pass: the stages of a chunk of tokens, chunk after chunk, on one chain.
 *
 *     route (routing.c)
 *     permute, group by expert, pack the experts' input by expert, gate-up product, down product
 *     shared expert: its two products, from x packed by the route stage
 *     combine; with a latent projection to the latent sum, which its up product brings back to H */
#include "chunk.h"
#include "device/buffer.h"
#include "device/clock.h"
#include "device/memory.h"
#include "stages/combine.h"
#include "stages/flag.h"
#include "stages/input.h"

static const moecl_buffer none = {NULL, 0};

/* -------------------------------------------------------------------------------------------------- stages -- */

moecl_buffer moecl_chunk_region(const struct moecl_chunk *chunk, enum moecl_region name)
{
    return chunk->layer->workspace.region[name];
}

bool moecl_chunk_is_token(const struct moecl_chunk *chunk)
{
    return chunk->tokens == 1 && chunk->layer->gemm->variant->any_order;
}

moecl_status moecl_chunk_multiply(const struct moecl_chunk *chunk, const struct moecl_grouping *grouping,
                                  moecl_layer_part part, enum moecl_form form, enum moecl_region from, moecl_buffer to)
{
    struct moecl_gemm *gemm = chunk->layer->gemm;
    const struct moecl_multiply call = {.matrices = chunk->layer->parts[part],
                                        .packed = moecl_chunk_region(chunk, from),
                                        .form = form,
                                        .output = to,
                                        .scratch = moecl_chunk_region(chunk, MOECL_REGION_SCRATCH)};
    return gemm->variant->multiply(gemm, chunk->chain, grouping, &call);
}

moecl_status moecl_chunk_multiply_x(const struct moecl_chunk *chunk, const struct moecl_grouping *grouping,
                                    moecl_layer_part part, enum moecl_form form, moecl_buffer to)
{
    struct moecl_gemm *gemm = chunk->layer->gemm;
    const struct moecl_multiply call = {.matrices = chunk->layer->parts[part],
                                        .form = form,
                                        .output = to,
                                        .x = chunk->x,
                                        .type = chunk->layer->options.activations,
                                        .flag = {chunk->layer->flag, 0},
                                        .flag_bits = MOECL_FLAG_NOT_FINITE};
    if (!moecl_chunk_is_token(chunk))
        return moecl_chunk_multiply(chunk, grouping, part, form, MOECL_REGION_ALL_PACKED, to);
    return gemm->variant->multiply(gemm, chunk->chain, grouping, &call);
}

static bool experts_in_pairs(const struct moecl_chunk *chunk)
{
    return moecl_matrices_in_pairs(chunk->layer->parts[MOECL_PART_GATE_UP], chunk->layer->experts.rows);
}

moecl_status moecl_chunk_pack(const struct moecl_chunk *chunk, const struct moecl_grouping *grouping, moecl_buffer rows,
                              moecl_type type, size_t depth, size_t divisor, moecl_buffer row_weights,
                              enum moecl_region to)
{
    struct moecl_gemm *gemm = chunk->layer->gemm;
    const struct moecl_pack call = {
        .x = rows,
        .type = type,
        .depth = depth,
        .assignments = moecl_chunk_region(chunk, MOECL_REGION_ASSIGNMENTS),
        .divisor = divisor,
        .row_weights = row_weights,
        .packed = moecl_chunk_region(chunk, to),
        .pairs = to == MOECL_REGION_SHARED_PACKED || (to == MOECL_REGION_PACKED && experts_in_pairs(chunk)),
        .flag = {chunk->layer->flag, 0},
        .flag_bits = MOECL_FLAG_NOT_FINITE,
    };
    return gemm->variant->pack(gemm, chunk->chain, grouping, &call);
}

static moecl_status permute(const struct moecl_chunk *chunk)
{
    struct moecl_layer *layer = chunk->layer;
    const moecl_layer_options *options = &layer->options;
    struct moecl_grouping *experts = &layer->experts;
    moecl_status status = MOECL_OK;
    experts->groups = options->experts;
    experts->rows = moecl_layer_most_rows(options, chunk->pass->forward->tokens, chunk->tokens);
    experts->choices = chunk->routing.ids;
    experts->order = moecl_chunk_is_token(chunk) ? MOECL_ORDER_BY_CHOICE : MOECL_ORDER_BY_GROUP;
    if (experts->order == MOECL_ORDER_BY_CHOICE)
        goto out;
    experts->offsets = moecl_chunk_region(chunk, MOECL_REGION_OFFSETS);
    experts->map = moecl_chunk_region(chunk, MOECL_REGION_MAP);
    const struct moecl_permute_call call = {
        .tokens = chunk->tokens,
        .slots = moecl_layer_slots(options),
        .experts = options->experts,
        .outputs = moecl_router_outputs(options),
        .row_capacity = experts->rows,
        .ids = chunk->routing.ids,
        .permutation = {experts->offsets, moecl_chunk_region(chunk, MOECL_REGION_ASSIGNMENTS),
                        moecl_chunk_region(chunk, MOECL_REGION_ROWS)},
        .workspace = moecl_chunk_region(chunk, MOECL_REGION_COUNTS),
        .flag = {layer->flag, 0},
    };
    TRY(moecl_permute_enqueue(&layer->permute, chunk->chain, &call));
    TRY(layer->gemm->variant->group(layer->gemm, chunk->chain, experts));
out:
    return status;
}

/* What the experts read, where that is not x. */
static moecl_status make_expert_input(const struct moecl_chunk *chunk)
{
    const struct moecl_layer *layer = chunk->layer;
    const moecl_layer_options *options = &layer->options;
    if (options->latent)
        return moecl_chunk_multiply_x(chunk, &layer->all, MOECL_PART_LATENT_DOWN, MOECL_FORM_ROWS,
                                      moecl_chunk_region(chunk, MOECL_REGION_EXPERT_INPUT));
    const struct moecl_input_call call = {
        .options = &options->expert_input,
        .tokens = chunk->tokens,
        .hidden = options->hidden,
        .x = chunk->x,
        .vector = {layer->vectors[MOECL_VECTOR_EXPERT_NORM], 0},
        .input = moecl_chunk_region(chunk, MOECL_REGION_EXPERT_INPUT),
    };
    return moecl_input_enqueue(layer->expert_input, chunk->chain, &call);
}

static bool has_expert_input(const struct moecl_chunk *chunk)
{
    const moecl_layer_options *options = &chunk->layer->options;
    return options->latent || options->expert_input.normalised;
}

/* Whether the gate-up product reads x as it is, so that there is nothing to gather. */
static bool experts_read_x(const struct moecl_chunk *chunk)
{
    return moecl_chunk_is_token(chunk) && !has_expert_input(chunk) && !chunk->layer->options.router.weight_on_input &&
           !experts_in_pairs(chunk);
}

static moecl_status gather(const struct moecl_chunk *chunk)
{
    const struct moecl_layer *layer = chunk->layer;
    const moecl_layer_options *options = &layer->options;
    const bool own_input = has_expert_input(chunk);
    moecl_status status = MOECL_OK;
    if (experts_read_x(chunk))
        goto out;
    if (own_input)
        TRY(make_expert_input(chunk));
    TRY(moecl_chunk_pack(
        chunk, &layer->experts, own_input ? moecl_chunk_region(chunk, MOECL_REGION_EXPERT_INPUT) : chunk->x,
        own_input ? MOECL_F32 : options->activations, moecl_expert_width(options), moecl_layer_slots(options),
        options->router.weight_on_input ? chunk->routing.weights : none, MOECL_REGION_PACKED));
out:
    return status;
}

static moecl_status gate_up(const struct moecl_chunk *chunk)
{
    const moecl_buffer activated = moecl_chunk_region(chunk, MOECL_REGION_ACTIVATED);
    if (experts_read_x(chunk))
        return moecl_chunk_multiply_x(chunk, &chunk->layer->experts, MOECL_PART_GATE_UP, MOECL_FORM_ACTIVATED_PACKED,
                                      activated);
    return moecl_chunk_multiply(chunk, &chunk->layer->experts, MOECL_PART_GATE_UP, MOECL_FORM_ACTIVATED_PACKED,
                                MOECL_REGION_PACKED, activated);
}

/* z lies where x was: the gate-up product was the last to read it, and f32 rows are never larger. */
static moecl_status down(const struct moecl_chunk *chunk)
{
    return moecl_chunk_multiply(chunk, &chunk->layer->experts, MOECL_PART_DOWN, MOECL_FORM_ROWS, MOECL_REGION_ACTIVATED,
                                moecl_chunk_region(chunk, MOECL_REGION_PACKED));
}

static moecl_status shared(const struct moecl_chunk *chunk)
{
    const struct moecl_layer *layer = chunk->layer;
    moecl_status status = MOECL_OK;
    if (!layer->options.shared_intermediate)
        goto out;
    const moecl_buffer activated = moecl_chunk_region(chunk, MOECL_REGION_SHARED_ACTIVATED);
    if (moecl_layer_shared_in_pairs(layer, chunk->tokens))
        TRY(moecl_chunk_multiply(chunk, &layer->all, MOECL_PART_SHARED_GATE_UP, MOECL_FORM_ACTIVATED_PACKED,
                                 MOECL_REGION_SHARED_PACKED, activated));
    else
        TRY(moecl_chunk_multiply_x(chunk, &layer->all, MOECL_PART_SHARED_GATE_UP, MOECL_FORM_ACTIVATED_PACKED,
                                   activated));
    TRY(moecl_chunk_multiply(chunk, &layer->all, MOECL_PART_SHARED_DOWN, MOECL_FORM_ROWS, MOECL_REGION_SHARED_ACTIVATED,
                             moecl_chunk_region(chunk, MOECL_REGION_ALL_PACKED)));
out:
    return status;
}

/* The weighted sum over the experts' outputs: all that there is to y, or its latent part. */
static moecl_combine_call experts_sum(const struct moecl_chunk *chunk)
{
    const moecl_layer_options *options = &chunk->layer->options;
    const bool by_choice = chunk->layer->experts.order == MOECL_ORDER_BY_CHOICE;
    return (moecl_combine_call){
        .tokens = chunk->tokens,
        .top_k = moecl_layer_slots(options),
        .hidden = moecl_expert_width(options),
        .z = moecl_chunk_region(chunk, MOECL_REGION_PACKED),
        .rows = by_choice ? none : moecl_chunk_region(chunk, MOECL_REGION_ROWS),
        .weights = options->router.weight_on_input ? none : chunk->routing.weights,
        .experts = options->experts,
        .ids = by_choice || options->router.zero_experts ? chunk->routing.ids : none,
        .x = chunk->x,
        .x_type = options->activations,
    };
}

static moecl_buffer flag_of(const struct moecl_chunk *chunk)
{
    return (moecl_buffer){chunk->layer->flag, 0};
}

/* The latent sum over the experts, brought back to H; *sum is then that of one row a token. */
static moecl_status leave_latent(const struct moecl_chunk *chunk, moecl_combine_call *sum)
{
    const struct moecl_layer *layer = chunk->layer;
    const moecl_layer_options *options = &layer->options;
    const moecl_buffer output = moecl_chunk_region(chunk, MOECL_REGION_LATENT_OUTPUT);
    moecl_status status = MOECL_OK;
    sum->y = moecl_chunk_region(chunk, MOECL_REGION_EXPERT_INPUT);
    sum->output_type = MOECL_F32;
    TRY(moecl_combine_enqueue(layer->combine_latent, chunk->chain, sum, options->experts, flag_of(chunk)));
    TRY(moecl_chunk_pack(chunk, &layer->all, sum->y, MOECL_F32, options->latent, 0, none, MOECL_REGION_LATENT_PACKED));
    TRY(moecl_chunk_multiply(chunk, &layer->all, MOECL_PART_LATENT_UP, MOECL_FORM_ROWS, MOECL_REGION_LATENT_PACKED,
                             output));
    *sum = (moecl_combine_call){.tokens = chunk->tokens, .top_k = 1, .hidden = options->hidden, .z = output};
out:
    return status;
}

static moecl_status combine(const struct moecl_chunk *chunk)
{
    const struct moecl_layer *layer = chunk->layer;
    const moecl_layer_options *options = &layer->options;
    moecl_combine_call call = experts_sum(chunk);
    moecl_status status = MOECL_OK;
    if (options->latent)
        TRY(leave_latent(chunk, &call));
    call.bias = (moecl_buffer){layer->vectors[MOECL_VECTOR_OUTPUT_BIAS], 0};
    if (options->shared_intermediate) {
        call.shared = moecl_chunk_region(chunk, MOECL_REGION_ALL_PACKED);
        call.shared_scale = options->shared_scale;
        call.shared_gate = options->shared_gate;
    }
    if (options->shared_gate != MOECL_SHARED_GATE_NONE) {
        call.shared_logits = moecl_chunk_shared_logits(chunk);
        call.shared_stride = moecl_router_columns(options);
    }
    call.y = chunk->y;
    call.output_type = options->activations;
    TRY(moecl_combine_enqueue(layer->combine, chunk->chain, &call, moecl_router_outputs(options), flag_of(chunk)));
out:
    return status;
}

/* Waits for the stage that began at `start`, where somebody watches. */
static moecl_status add_time(const struct moecl_pass *pass, moecl_stage stage, double start)
{
    struct moecl_context *context = pass->layer->context;
    moecl_status status = MOECL_OK;
    if (!pass->times)
        goto out;
    CL_TRY(&context->error, clFinish(context->queue));
    pass->times->seconds[stage] += moecl_now() - start;
out:
    return status;
}

static moecl_status run_stages(const struct moecl_chunk *chunk)
{
    static moecl_status (*const stages[MOECL_STAGE_COUNT])(const struct moecl_chunk *) = {
        [MOECL_STAGE_ROUTE] = moecl_route_chunk, [MOECL_STAGE_PERMUTE] = permute, [MOECL_STAGE_GATHER] = gather,
        [MOECL_STAGE_GATE_UP] = gate_up,         [MOECL_STAGE_DOWN] = down,       [MOECL_STAGE_SHARED] = shared,
        [MOECL_STAGE_COMBINE] = combine,
    };
    moecl_status status = MOECL_OK;
    for (int i = 0; i < MOECL_STAGE_COUNT; i++) {
        const double start = moecl_now();
        TRY(stages[i](chunk));
        TRY(add_time(chunk->pass, (moecl_stage)i, start));
    }
out:
    return status;
}

/* -------------------------------------------------------------------------------------------------- chunks -- */

/* Where a chunk's routing lies: the caller's buffers if there are any, else the workspace. */
static moecl_routing chunk_routing(const moecl_layer *layer, const moecl_forward *forward, size_t first)
{
    const size_t offset = first * moecl_layer_slots(&layer->options) * sizeof(cl_int);
    const struct moecl_workspace *workspace = &layer->workspace;
    if (forward->routing.ids.memory)
        return (moecl_routing){moecl_buffer_at(forward->routing.ids, offset),
                               moecl_buffer_at(forward->routing.weights, offset)};
    const size_t own = moecl_layer_is_wide(&layer->options) ? offset : 0;
    return (moecl_routing){moecl_buffer_at(workspace->region[MOECL_REGION_IDS], own),
                           moecl_buffer_at(workspace->region[MOECL_REGION_WEIGHTS], own)};
}

struct moecl_chunk moecl_chunk_at(const struct moecl_pass *pass, size_t first)
{
    moecl_layer *layer = pass->layer;
    const moecl_forward *forward = pass->forward;
    const size_t row_bytes = layer->options.hidden * moecl_type_size(layer->options.activations);
    const size_t left = forward->tokens - first;
    return (struct moecl_chunk){
        .layer = layer,
        .chain = pass->chain,
        .pass = pass,
        .first = first,
        .tokens = left < pass->chunk_tokens ? left : pass->chunk_tokens,
        .x = moecl_buffer_at(forward->x, first * row_bytes),
        .y = moecl_buffer_at(forward->y, first * row_bytes),
        .routing = chunk_routing(layer, forward, first),
    };
}

static moecl_status run_chunks(const struct moecl_pass *pass)
{
    const moecl_forward *forward = pass->forward;
    const bool wide = moecl_layer_is_wide(&pass->layer->options) && !forward->routing_given;
    const double start = moecl_now();
    moecl_status status = MOECL_OK;
    if (wide && forward->tokens > 0) {
        TRY(moecl_route_pass(pass));
        TRY(add_time(pass, MOECL_STAGE_ROUTE, start));
    }
    for (size_t first = 0; first < forward->tokens; first += pass->chunk_tokens) {
        const struct moecl_chunk chunk = moecl_chunk_at(pass, first);
        if (!pass->route_only)
            TRY(run_stages(&chunk));
        else if (!wide)
            TRY(moecl_route_chunk(&chunk));
    }
out:
    return status;
}

static bool overlap(moecl_buffer a, moecl_buffer b, size_t bytes)
{
    return a.memory == b.memory && a.offset < b.offset + bytes && b.offset < a.offset + bytes;
}

static moecl_status check_pass(const struct moecl_pass *pass)
{
    const moecl_forward *forward = pass->forward;
    const moecl_layer_options *options = &pass->layer->options;
    const moecl_routing *routing = &forward->routing;
    struct moecl_context *context = pass->layer->context;
    const size_t size = moecl_type_size(options->activations), tokens = forward->tokens;
    const size_t choices = tokens * moecl_layer_slots(options) * sizeof(cl_int);
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
    const size_t bytes = tokens * options->hidden * size;
    TRY(moecl_buffer_check(context, forward->x, bytes, size, "x"));
    if (routing->ids.memory) {
        TRY(moecl_buffer_check(context, routing->ids, choices, sizeof(cl_int), "routing: ids"));
        TRY(moecl_buffer_check(context, routing->weights, choices, sizeof(cl_float), "routing: weights"));
    }
    if (options->router.selection == MOECL_SELECTION_TABLE && !forward->routing_given)
        TRY(moecl_buffer_check(context, forward->token_ids, tokens * sizeof(cl_int), sizeof(cl_int), "token ids"));
    if (pass->logits.memory)
        TRY(moecl_buffer_check(context, pass->logits, tokens * moecl_router_outputs(options) * sizeof(cl_float),
                               sizeof(cl_float), "logits"));
    if (!pass->route_only)
        TRY(moecl_buffer_check(context, forward->y, bytes, size, "y"));
    if (!pass->route_only && overlap(forward->x, forward->y, bytes))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "x and y overlap");
out:
    return status;
}

/* Checks, binds the workspace, queues every chunk. */
static moecl_status enqueue(const struct moecl_pass *asked, cl_uint wait_count, const cl_event *wait, cl_event *event)
{
    moecl_layer *layer = asked->layer;
    const size_t tokens = asked->forward->tokens;
    moecl_status status = MOECL_OK;
    struct moecl_chain chain;
    struct moecl_pass pass = *asked;
    pass.chain = &chain;
    TRY(check_pass(&pass));
    if (tokens > 0) {
        TRY(moecl_workspace_chunk(layer, tokens, &pass.chunk_tokens));
        TRY(moecl_workspace_bind(layer, tokens, &pass.chunk_tokens));
    }
    TRY(moecl_chain_begin(&chain, layer->context, wait_count, wait));
    TRY(moecl_chain_end(&chain, run_chunks(&pass), event));
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
    const struct moecl_pass pass = {.layer = layer, .forward = forward};
    return enqueue(&pass, num_events_in_wait_list, event_wait_list, event);
}

moecl_status moecl_layer_forward_timed(moecl_layer *layer, const moecl_forward *forward, moecl_stage_times *times)
{
    moecl_status status = MOECL_OK;
    if (!layer || !forward || !times)
        return MOECL_INVALID_ARGUMENT;
    const struct moecl_pass pass = {.layer = layer, .forward = forward, .times = times};
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
    const struct moecl_pass pass = {.layer = layer, .forward = forward, .route_only = true, .logits = logits};
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
        FAIL(error, MOECL_INVALID_ARGUMENT, "an expert id was outside 0 to %zu, or a token id outside the id table",
             moecl_router_outputs(&layer->options) - 1);
    if (flag & MOECL_FLAG_NOT_FINITE)
        FAIL(error, MOECL_NOT_FINITE, "x or the router's logits held NaN or infinity");
out:
    return status;
}
