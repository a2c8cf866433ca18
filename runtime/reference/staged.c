/* SPDX-License-Identifier: Apache-2.0 */
/* staged.c - runs the stages of a layer one by one. */
#include "staged.h"

#include "device/buffer.h"
#include "device/memory.h"

size_t moecl_staged_token_bytes(const moecl_layer_options *options)
{
    size_t assignment = 4 * (4 + 3 * options->intermediate + options->hidden);
    size_t shared = options->shared_intermediate > 0 ? 4 * (3 * options->shared_intermediate + options->hidden) : 0;
    return 8 * (options->experts + 1) + 8 * options->hidden + options->top_k * assignment + shared;
}

static moecl_buffer start(const struct moecl_staged_array *array)
{
    return (moecl_buffer){array->device, 0};
}

static moecl_status array_make(struct moecl_verification *verification, size_t elements, size_t columns, size_t size,
                               struct moecl_staged_array *array)
{
    moecl_status status = MOECL_OK;
    struct moecl_context *context = verification->context;
    array->bytes = elements * columns * size; /* cannot overflow: chunks are small */
    array->host = moecl_allocate(array->bytes, 1);
    if (array->host == NULL)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "moecl_verify: no host memory for %zu bytes", array->bytes);
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, array->bytes, "what a stage gives", &array->device));
out:
    return status;
}

static void array_free(struct moecl_staged_array *array)
{
    moecl_buffer_release(array->device);
    moecl_free(array->host);
}

/* Waits for a stage, since calls follow each other without events, and brings its array to the host. */
static moecl_status array_fetch(struct moecl_verification *verification, struct moecl_staged_array *array)
{
    moecl_status status = MOECL_OK;
    CL_TRY(&verification->context->error, clFinish(verification->context->queue));
    TRY(moecl_buffer_read(verification->context, start(array), array->bytes, array->host));
out:
    return status;
}

static moecl_status run_route(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                              struct moecl_staged *staged)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = verification->options;
    TRY(array_make(verification, chunk->tokens, options->experts, sizeof(float), &staged->logits));
    TRY(array_make(verification, chunk->tokens, options->top_k, sizeof(int32_t), &staged->ids));
    TRY(array_make(verification, chunk->tokens, options->top_k, sizeof(float), &staged->weights));
    moecl_routing routing = {start(&staged->ids), start(&staged->weights)};
    TRY(moecl_route(verification->layer,
                    &(moecl_forward){.tokens = chunk->tokens, .x = chunk->device_x, .routing = routing},
                    start(&staged->logits), 0, NULL, NULL));
    TRY(array_fetch(verification, &staged->logits));
    TRY(array_fetch(verification, &staged->ids));
    TRY(array_fetch(verification, &staged->weights));
out:
    return status;
}

static moecl_status run_permute(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                struct moecl_staged *staged)
{
    moecl_status status = MOECL_OK;
    struct moecl_context *context = verification->context;
    size_t top_k = verification->options->top_k, experts = verification->options->experts;
    cl_mem workspace = NULL;
    TRY(array_make(verification, experts + 1, 1, sizeof(uint32_t), &staged->offsets));
    TRY(array_make(verification, chunk->tokens, top_k, sizeof(uint32_t), &staged->assignments));
    TRY(array_make(verification, chunk->tokens, top_k, sizeof(int32_t), &staged->rows));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, moecl_permute_workspace_size(chunk->tokens, top_k, experts),
                            "the workspace of permute", &workspace));
    moecl_permutation permutation = {start(&staged->offsets), start(&staged->assignments), start(&staged->rows)};
    TRY(moecl_permute(context, chunk->tokens, top_k, experts, start(&staged->ids), &permutation,
                      (moecl_buffer){workspace, 0}, 0, NULL, NULL));
    TRY(array_fetch(verification, &staged->offsets));
    TRY(array_fetch(verification, &staged->assignments));
    TRY(array_fetch(verification, &staged->rows));
out:
    moecl_buffer_release(workspace);
    return status;
}

/* One grouped product of the layer. */
struct product {
    moecl_layer_part part;
    moecl_buffer input;
    moecl_type input_type;
    bool routed; /* the rows of all experts; else the tokens, in one group */
    bool gather; /* read the tokens' rows through the assignments */
    moecl_product kind;
    size_t columns; /* of the output */
    struct moecl_staged_array *output;
};

static moecl_status run_product(struct moecl_verification *verification, size_t tokens,
                                const struct moecl_staged *staged, const struct product *product)
{
    moecl_status status = MOECL_OK;
    struct moecl_context *context = verification->context;
    moecl_matrices *matrices = moecl_layer_matrices(verification->layer, product->part);
    size_t top_k = verification->options->top_k;
    cl_mem workspace = NULL;
    moecl_grouped_gemm_call call = {.rows = product->routed ? tokens * top_k : tokens,
                                    .input = product->input,
                                    .input_type = product->input_type,
                                    .divisor = top_k,
                                    .offsets = start(product->routed ? &staged->offsets : &staged->whole),
                                    .product = product->kind};
    if (product->gather)
        call.assignments = start(&staged->assignments);
    TRY(array_make(verification, call.rows, product->columns, sizeof(float), product->output));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, moecl_grouped_gemm_workspace_size(matrices, call.rows),
                            "the workspace of a grouped GEMM", &workspace));
    call.output = start(product->output);
    call.workspace.memory = workspace;
    TRY(moecl_grouped_gemm(matrices, &call, 0, NULL, NULL));
    TRY(array_fetch(verification, product->output));
out:
    moecl_buffer_release(workspace);
    return status;
}

static moecl_status run_products(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                 struct moecl_staged *s)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = verification->options;
    const size_t intermediate = options->intermediate, shared = options->shared_intermediate;
    const moecl_buffer x = chunk->device_x;
    const moecl_type type = options->activations;
    const moecl_product linear = MOECL_PRODUCT_LINEAR, activated = MOECL_PRODUCT_ACTIVATED;

    TRY(array_make(verification, 2, 1, sizeof(uint32_t), &s->whole));
    const uint32_t whole[2] = {0, (uint32_t)chunk->tokens};
    TRY(moecl_buffer_write(verification->context, start(&s->whole), sizeof(whole), whole));

#define PRODUCT(...) run_product(verification, chunk->tokens, s, &(struct product){__VA_ARGS__})
    TRY(PRODUCT(MOECL_PART_ROUTER, x, type, false, false, activated, s->router_columns, &s->router));
    TRY(PRODUCT(MOECL_PART_GATE_UP, x, type, true, true, linear, 2 * intermediate, &s->linear));
    TRY(PRODUCT(MOECL_PART_GATE_UP, x, type, true, true, activated, intermediate, &s->h));
    TRY(PRODUCT(MOECL_PART_DOWN, start(&s->h), MOECL_F32, true, false, activated, options->hidden, &s->z));
    if (shared > 0) {
        TRY(PRODUCT(MOECL_PART_SHARED_GATE_UP, x, type, false, false, linear, 2 * shared, &s->shared_linear));
        TRY(PRODUCT(MOECL_PART_SHARED_GATE_UP, x, type, false, false, activated, shared, &s->shared_h));
        TRY(PRODUCT(MOECL_PART_SHARED_DOWN, start(&s->shared_h), MOECL_F32, false, false, activated, options->hidden,
                    &s->shared_z));
    }
#undef PRODUCT
out:
    return status;
}

static moecl_status run_combine(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                struct moecl_staged *staged)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = verification->options;
    TRY(array_make(verification, chunk->tokens, options->hidden, moecl_type_size(options->activations), &staged->y));
    moecl_combine_call call = {.tokens = chunk->tokens,
                               .top_k = options->top_k,
                               .hidden = options->hidden,
                               .z = start(&staged->z),
                               .rows = start(&staged->rows),
                               .weights = start(&staged->weights),
                               .shared = start(&staged->shared_z),
                               .y = start(&staged->y),
                               .output_type = options->activations};
    if (staged->router_columns > options->experts) {
        call.shared_logits = (moecl_buffer){staged->router.device, options->experts * sizeof(float)};
        call.shared_stride = staged->router_columns;
        call.shared_gate = options->shared_gate;
    }
    TRY(moecl_combine(verification->context, &call, 0, NULL, NULL));
    TRY(array_fetch(verification, &staged->y));
out:
    return status;
}

moecl_status moecl_staged_run(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                              struct moecl_staged *staged)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = verification->options;
    bool gated = options->shared_intermediate > 0 && options->shared_gate;
    staged->router_columns = options->experts + (gated ? 1 : 0);
    TRY(run_route(verification, chunk, staged));
    TRY(run_permute(verification, chunk, staged));
    TRY(run_products(verification, chunk, staged));
    TRY(run_combine(verification, chunk, staged));
out:
    return status;
}

void moecl_staged_free(struct moecl_staged *staged)
{
    struct moecl_staged_array *arrays[] = {
        &staged->logits,        &staged->ids,      &staged->weights,  &staged->router, &staged->offsets,
        &staged->assignments,   &staged->rows,     &staged->linear,   &staged->h,      &staged->z,
        &staged->shared_linear, &staged->shared_h, &staged->shared_z, &staged->y,      &staged->whole};
    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++)
        array_free(arrays[i]);
}
