/* SPDX-License-Identifier: Apache-2.0 */
/* workspace.c - sizes of the regions, chunks under the budget, binding. */
#include "workspace.h"

#include "device/buffer.h"
#include "device/memory.h"
#include "layer.h"

static const size_t default_budget = (size_t)1 << 30;
enum { ALIGNMENT = 256 };

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The variant's scratch: what the hungriest of the products needs. */
static size_t scratch_bytes(const struct moecl_layer *layer, size_t tokens, size_t rows)
{
    size_t bytes = 0;
    for (int i = 0; i < MOECL_PART_COUNT; i++) {
        const moecl_matrices *matrices = layer->parts[i];
        const bool expert = i == MOECL_PART_GATE_UP || i == MOECL_PART_DOWN;
        if (matrices)
            bytes = larger(bytes, layer->gemm->variant->scratch_bytes(layer->gemm, matrices, expert ? rows : tokens));
    }
    return bytes;
}

static size_t cross_tokens_bytes(const moecl_layer_options *options, size_t pass)
{
    const moecl_router *router = &options->router;
    size_t bytes = 0;
    if (router->capacity.kind != MOECL_CAPACITY_NONE)
        bytes = moecl_capacity_workspace_size(pass, options->top_k, options->experts);
    if (router->selection == MOECL_SELECTION_EXPERT_CHOICE)
        bytes = moecl_expert_choice_workspace_size(pass, options->experts);
    if (router->selection == MOECL_SELECTION_SINKHORN)
        bytes = larger(bytes, moecl_sinkhorn_workspace_size(pass, moecl_router_outputs(options)));
    return bytes;
}

/* Bytes of each region for a pass of `tokens` tokens in chunks of `chunk`. No overflow: tokens, k, E and the matrix
 * sizes are bounded. */
static void region_bytes(const struct moecl_layer *layer, size_t tokens, size_t chunk, size_t bytes[MOECL_REGION_COUNT])
{
    const moecl_layer_options *options = &layer->options;
    const struct moecl_gemm *gemm = layer->gemm;
    const struct moecl_variant *variant = gemm->variant;
    const size_t pass = moecl_layer_is_wide(options) ? tokens : chunk;
    const size_t logit_tokens = moecl_layer_needs_all_logits(options) ? pass : chunk;
    const size_t slots = moecl_layer_slots(options), rows = moecl_layer_most_rows(options, pass, chunk);
    const size_t hidden = options->hidden, width = moecl_expert_width(options), shared = options->shared_intermediate;
    const size_t logits = moecl_router_columns(options) * sizeof(cl_float);
    const bool router_input = layer->router_input != NULL;
    const bool expert_input = layer->expert_input || options->latent;

    for (size_t i = 0; i < MOECL_REGION_COUNT; i++)
        bytes[i] = 0;
    bytes[MOECL_REGION_ALL_OFFSETS] = variant->any_order ? 0 : 2 * sizeof(cl_uint);
    bytes[MOECL_REGION_ALL_MAP] = variant->any_order ? 0 : variant->map_bytes(gemm, 1, chunk);
    bytes[MOECL_REGION_ALL_PACKED] = variant->packed_bytes(gemm, 1, chunk, hidden);
    if (moecl_layer_shared_in_pairs(layer, chunk))
        bytes[MOECL_REGION_SHARED_PACKED] = variant->packed_bytes(gemm, 1, chunk, hidden);
    if (router_input) {
        bytes[MOECL_REGION_ROUTER_INPUT] = chunk * hidden * sizeof(cl_float);
        bytes[MOECL_REGION_ROUTER_PACKED] = variant->packed_bytes(gemm, 1, chunk, hidden);
        bytes[MOECL_REGION_SHARED_LOGITS] = options->shared_gate ? chunk * logits : 0;
    }
    bytes[MOECL_REGION_LOGITS] = logit_tokens * logits;
    bytes[MOECL_REGION_ROUTE_SCRATCH] = moecl_route_scratch_bytes(&layer->route, logit_tokens);
    if (moecl_layer_needs_all_logits(options))
        bytes[MOECL_REGION_KEYS] = pass * moecl_router_outputs(options) * sizeof(cl_float);
    bytes[MOECL_REGION_CROSS_TOKENS] = cross_tokens_bytes(options, pass);
    bytes[MOECL_REGION_IDS] = pass * slots * sizeof(cl_int);
    bytes[MOECL_REGION_WEIGHTS] = pass * slots * sizeof(cl_float);
    bytes[MOECL_REGION_COUNTS] = moecl_permute_workspace_size(chunk, slots, options->experts);
    bytes[MOECL_REGION_OFFSETS] = (options->experts + 1) * sizeof(cl_uint);
    bytes[MOECL_REGION_ASSIGNMENTS] = rows * sizeof(cl_uint);
    bytes[MOECL_REGION_ROWS] = chunk * slots * sizeof(cl_int);
    bytes[MOECL_REGION_MAP] = variant->map_bytes(gemm, options->experts, rows);
    bytes[MOECL_REGION_EXPERT_INPUT] = expert_input ? chunk * width * sizeof(cl_float) : 0;
    bytes[MOECL_REGION_PACKED] = variant->packed_bytes(gemm, options->experts, rows, width);
    bytes[MOECL_REGION_ACTIVATED] = variant->packed_bytes(gemm, options->experts, rows, options->intermediate);
    bytes[MOECL_REGION_SHARED_ACTIVATED] = shared ? variant->packed_bytes(gemm, 1, chunk, shared) : 0;
    if (options->latent) {
        bytes[MOECL_REGION_LATENT_PACKED] = variant->packed_bytes(gemm, 1, chunk, options->latent);
        bytes[MOECL_REGION_LATENT_OUTPUT] = chunk * hidden * sizeof(cl_float);
    }
    bytes[MOECL_REGION_SCRATCH] = scratch_bytes(layer, chunk, rows);
}

/* The whole workspace, and the largest region. */
static size_t total_bytes(const struct moecl_layer *layer, size_t tokens, size_t chunk, size_t *largest)
{
    size_t bytes[MOECL_REGION_COUNT], total = 0;
    region_bytes(layer, tokens, chunk, bytes);
    *largest = 0;
    for (size_t i = 0; i < MOECL_REGION_COUNT; i++) {
        total += moecl_round_up(bytes[i], ALIGNMENT);
        *largest = larger(*largest, bytes[i]);
    }
    return total;
}

/* Whether the workspace for such chunks fits the caller's memory, or the budget and the device. */
static bool chunk_fits(const struct moecl_layer *layer, size_t tokens, size_t chunk)
{
    const struct moecl_workspace *workspace = &layer->workspace;
    size_t largest;
    const size_t total = total_bytes(layer, tokens, chunk, &largest);
    if (workspace->given.memory)
        return total <= workspace->given_bytes;
    const size_t budget = layer->options.workspace_budget ? layer->options.workspace_budget : default_budget;
    return total <= budget && largest <= layer->context->info.max_allocation;
}

moecl_status moecl_workspace_chunk(struct moecl_layer *layer, size_t tokens, size_t *chunk)
{
    moecl_status status = MOECL_OK;
    size_t fits = 0, too_many = tokens + 1;
    if (chunk_fits(layer, tokens, tokens)) {
        *chunk = tokens;
        goto out;
    }
    while (too_many - fits > 1) {
        const size_t middle = fits + (too_many - fits) / 2;
        if (chunk_fits(layer, tokens, middle))
            fits = middle;
        else
            too_many = middle;
    }
    if (fits == 0) {
        size_t largest;
        FAIL(&layer->context->error, MOECL_DEVICE_TOO_SMALL,
             "the workspace for one token of %zu needs %zu bytes, more than the budget or the device allows", tokens,
             total_bytes(layer, tokens, 1, &largest));
    }
    *chunk = moecl_divide_up(tokens, moecl_divide_up(tokens, fits)); /* chunks of about the same size */
out:
    return status;
}

static moecl_status grow(struct moecl_layer *layer, size_t tokens, size_t chunk)
{
    struct moecl_workspace *workspace = &layer->workspace;
    moecl_status status = MOECL_OK;
    size_t bytes[MOECL_REGION_COUNT];
    cl_mem fresh[MOECL_REGION_COUNT] = {NULL};
    region_bytes(layer, tokens, chunk, bytes);
    for (size_t i = 0; i < MOECL_REGION_COUNT; i++)
        TRY(moecl_buffer_create(layer->context, CL_MEM_READ_WRITE, bytes[i], "workspace", &fresh[i]));
    for (size_t i = 0; i < MOECL_REGION_COUNT; i++) {
        cl_mem old = workspace->own[i];
        workspace->own[i] = fresh[i];
        fresh[i] = old;
    }
    workspace->own_pass = tokens;
    workspace->own_chunk = chunk;
out:
    for (size_t i = 0; i < MOECL_REGION_COUNT; i++)
        moecl_buffer_release(fresh[i]);
    return status;
}

/* Makes the own buffers hold a pass; one that they hold in smaller chunks stays in those, so that nothing is allocated
 * for less than what was there before. */
static moecl_status hold(struct moecl_layer *layer, size_t tokens, size_t *chunk)
{
    const struct moecl_workspace *workspace = &layer->workspace;
    const bool wide = moecl_layer_is_wide(&layer->options);
    if (workspace->own_chunk >= *chunk && (!wide || workspace->own_pass >= tokens))
        return MOECL_OK;
    if (wide && workspace->own_pass >= tokens) {
        *chunk = workspace->own_chunk;
        return MOECL_OK;
    }
    return grow(layer, tokens, *chunk);
}

moecl_status moecl_workspace_bind(struct moecl_layer *layer, size_t tokens, size_t *chunk)
{
    struct moecl_workspace *workspace = &layer->workspace;
    moecl_status status = MOECL_OK;
    size_t bytes[MOECL_REGION_COUNT], offset = 0;
    if (!workspace->given.memory)
        TRY(hold(layer, tokens, chunk));
    region_bytes(layer, tokens, *chunk, bytes);
    for (size_t i = 0; i < MOECL_REGION_COUNT; i++) {
        workspace->region[i] =
            workspace->given.memory ? moecl_buffer_at(workspace->given, offset) : (moecl_buffer){workspace->own[i], 0};
        offset += moecl_round_up(bytes[i], ALIGNMENT);
    }
out:
    return status;
}

void moecl_workspace_release(struct moecl_workspace *workspace)
{
    for (size_t i = 0; i < MOECL_REGION_COUNT; i++)
        moecl_buffer_release(workspace->own[i]);
    moecl_buffer_release(workspace->given.memory);
    *workspace = (struct moecl_workspace){0};
}

/* -------------------------------------------------------------------------------------------- public calls -- */

static moecl_status check_tokens(struct moecl_layer *layer, size_t tokens)
{
    if (tokens <= MOECL_MAX_TOKENS)
        return MOECL_OK;
    return moecl_error_set(&layer->context->error, MOECL_INVALID_ARGUMENT, "%zu tokens; one call takes at most %d",
                           tokens, MOECL_MAX_TOKENS);
}

moecl_status moecl_layer_workspace_size(moecl_layer *layer, size_t tokens, size_t *bytes)
{
    moecl_status status = MOECL_OK;
    size_t chunk = 0, largest;
    if (!layer || !bytes)
        return MOECL_INVALID_ARGUMENT;
    TRY(check_tokens(layer, tokens));
    if (tokens > 0) {
        /* The answer is about the budget, not about a workspace brought along earlier. */
        const moecl_buffer given = layer->workspace.given;
        layer->workspace.given.memory = NULL;
        status = moecl_workspace_chunk(layer, tokens, &chunk);
        layer->workspace.given = given;
        TRY(status);
    }
    *bytes = chunk ? total_bytes(layer, tokens, chunk, &largest) : 0;
out:
    return status;
}

moecl_status moecl_layer_reserve(moecl_layer *layer, size_t tokens)
{
    moecl_status status = MOECL_OK;
    size_t chunk;
    if (!layer)
        return MOECL_INVALID_ARGUMENT;
    TRY(check_tokens(layer, tokens));
    if (tokens > 0) {
        TRY(moecl_workspace_chunk(layer, tokens, &chunk));
        TRY(moecl_workspace_bind(layer, tokens, &chunk));
    }
out:
    return status;
}

moecl_status moecl_layer_set_workspace(moecl_layer *layer, moecl_buffer workspace, size_t bytes)
{
    moecl_status status = MOECL_OK;
    if (!layer)
        return MOECL_INVALID_ARGUMENT;
    struct moecl_context *context = layer->context;
    if (workspace.memory) {
        TRY(moecl_buffer_check(context, workspace, bytes, ALIGNMENT, "workspace"));
        CL_TRY(&context->error, clRetainMemObject(workspace.memory));
    }
    moecl_buffer_release(layer->workspace.given.memory);
    layer->workspace.given = workspace;
    layer->workspace.given_bytes = bytes;
out:
    return status;
}
