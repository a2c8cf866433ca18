/* SPDX-License-Identifier: Apache-2.0 */
/* staged.c - runs the stages of a layer one by one. */
#include "staged.h"

#include "device/buffer.h"
#include "device/memory.h"
#include "layer/layer.h"
#include "layer/options.h"
#include "stages/input.h"

size_t moecl_staged_token_bytes(const moecl_layer_options *options)
{
    const size_t width = options->latent > 0 ? options->latent : options->hidden;
    const size_t assignment = 4 * (4 + 4 * options->intermediate + width);
    const size_t shared =
        options->shared_intermediate > 0 ? 4 * (4 * options->shared_intermediate + options->hidden) : 0;
    const size_t router = 4 * (3 * moecl_router_rows(options) + 2);
    return router + 12 * options->hidden + 8 * width + moecl_layer_slots(options) * assignment + shared;
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
    const struct moecl_reference_router *router = &verification->router;
    TRY(array_make(verification, chunk->tokens, router->outputs, sizeof(float), &staged->logits));
    TRY(array_make(verification, chunk->tokens, router->slots, sizeof(int32_t), &staged->ids));
    TRY(array_make(verification, chunk->tokens, router->slots, sizeof(float), &staged->weights));
    const moecl_forward forward = {.tokens = chunk->tokens,
                                   .x = chunk->device_x,
                                   .routing = {start(&staged->ids), start(&staged->weights)},
                                   .token_ids = chunk->device_token_ids,
                                   .noisy = router->noisy,
                                   .step = router->step};
    TRY(moecl_route(verification->layer, &forward, start(&staged->logits), 0, NULL, NULL));
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
    const size_t slots = verification->router.slots, experts = verification->options->experts;
    cl_mem workspace = NULL;
    TRY(array_make(verification, experts + 1, 1, sizeof(uint32_t), &staged->offsets));
    TRY(array_make(verification, chunk->tokens, slots, sizeof(uint32_t), &staged->assignments));
    TRY(array_make(verification, chunk->tokens, slots, sizeof(int32_t), &staged->rows));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, moecl_permute_workspace_size(chunk->tokens, slots, experts),
                            "the workspace of permute", &workspace));
    moecl_permutation permutation = {start(&staged->offsets), start(&staged->assignments), start(&staged->rows)};
    TRY(moecl_permute(context, chunk->tokens, slots, experts, start(&staged->ids), &permutation,
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
    struct moecl_staged_array *output;
};

/* Columns of what a part's matrices give. */
static size_t product_columns(const moecl_matrices_options *options, moecl_product kind)
{
    const bool two = kind == MOECL_PRODUCT_LINEAR && options->activated && !options->function.ungated;
    return two ? 2 * options->out : options->out;
}

static moecl_status run_product(struct moecl_verification *verification, size_t tokens,
                                const struct moecl_staged *staged, const struct product *product)
{
    moecl_status status = MOECL_OK;
    struct moecl_context *context = verification->context;
    moecl_matrices *matrices = moecl_layer_matrices(verification->layer, product->part);
    const size_t slots = verification->router.slots;
    cl_mem workspace = NULL;
    /* As many as the layer takes them for: a variant may round in another way for other numbers of rows. */
    const size_t rows = product->routed ? moecl_layer_most_rows(verification->options, tokens, tokens) : tokens;
    moecl_grouped_gemm_call call = {.rows = rows,
                                    .input = product->input,
                                    .input_type = product->input_type,
                                    .divisor = slots,
                                    .offsets = start(product->routed ? &staged->offsets : &staged->whole),
                                    .product = product->kind};
    if (product->gather)
        call.assignments = start(&staged->assignments);
    if (product->gather && verification->options->router.weight_on_input)
        call.row_weights = start(&staged->weights);
    TRY(array_make(verification, product->routed ? tokens * slots : tokens,
                   product_columns(moecl_matrices_describe(matrices), product->kind), sizeof(float), product->output));
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

#define PRODUCT(...) run_product(verification, chunk->tokens, s, &(struct product){__VA_ARGS__})

/* The norm that experts read, by the layer's own kernel. */
static moecl_status run_norm(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                             struct moecl_staged *staged)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = verification->options;
    struct moecl_chain chain;
    TRY(array_make(verification, chunk->tokens, options->hidden, sizeof(float), &staged->input));
    const struct moecl_input_call call = {.options = &options->expert_input,
                                          .tokens = chunk->tokens,
                                          .hidden = options->hidden,
                                          .x = chunk->device_x,
                                          .vector = moecl_layer_vector(verification->layer, MOECL_VECTOR_EXPERT_NORM),
                                          .input = start(&staged->input)};
    TRY(moecl_chain_begin(&chain, verification->context, 0, NULL));
    TRY(moecl_chain_end(&chain, moecl_input_enqueue(verification->layer->expert_input, &chain, &call), NULL));
    TRY(array_fetch(verification, &staged->input));
out:
    return status;
}

/* h [rows,columns] as a down product reads it, which may be as it is. */
static moecl_status round_h(struct moecl_verification *verification, const struct moecl_staged_array *h,
                            moecl_type type, size_t rows, size_t columns, struct moecl_staged_array *rounded,
                            moecl_buffer *input)
{
    moecl_status status = MOECL_OK;
    *input = start(h);
    if (type == MOECL_F32)
        goto out;
    TRY(array_make(verification, rows, columns, moecl_type_size(type), rounded));
    moecl_convert(h->host, MOECL_F32, rounded->host, type, rows * columns);
    TRY(moecl_buffer_write(verification->context, start(rounded), rounded->bytes, rounded->host));
    *input = start(rounded);
out:
    return status;
}

/* What the experts read, and the three arrays of their products. */
static moecl_status run_experts(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                struct moecl_staged *s)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = verification->options;
    const moecl_product linear = MOECL_PRODUCT_LINEAR, activated = MOECL_PRODUCT_ACTIVATED;
    moecl_buffer x = chunk->device_x, h;
    moecl_type type = options->activations;
    if (options->latent > 0)
        TRY(PRODUCT(MOECL_PART_LATENT_DOWN, x, type, false, false, activated, &s->input));
    else if (options->expert_input.normalised)
        TRY(run_norm(verification, chunk, s));
    if (s->input.device != NULL) {
        x = start(&s->input);
        type = MOECL_F32;
    }
    TRY(PRODUCT(MOECL_PART_GATE_UP, x, type, true, true, linear, &s->linear));
    TRY(PRODUCT(MOECL_PART_GATE_UP, x, type, true, true, activated, &s->h));
    TRY(round_h(verification, &s->h, verification->h_type, chunk->tokens * verification->router.slots,
                options->intermediate, &s->rounded_h, &h));
    TRY(PRODUCT(MOECL_PART_DOWN, h, verification->h_type, true, false, activated, &s->z));
out:
    return status;
}

static moecl_status run_products(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                 struct moecl_staged *s)
{
    moecl_status status = MOECL_OK;
    const moecl_buffer x = chunk->device_x;
    moecl_buffer h;
    const moecl_type type = verification->options->activations, h_type = verification->shared_h_type;
    const moecl_product linear = MOECL_PRODUCT_LINEAR, activated = MOECL_PRODUCT_ACTIVATED;

    TRY(array_make(verification, 2, 1, sizeof(uint32_t), &s->whole));
    const uint32_t whole[2] = {0, (uint32_t)chunk->tokens};
    TRY(moecl_buffer_write(verification->context, start(&s->whole), sizeof(whole), whole));

    TRY(PRODUCT(MOECL_PART_ROUTER, x, type, false, false, activated, &s->router));
    TRY(run_experts(verification, chunk, s));
    if (verification->options->shared_intermediate > 0) {
        TRY(PRODUCT(MOECL_PART_SHARED_GATE_UP, x, type, false, false, linear, &s->shared_linear));
        TRY(PRODUCT(MOECL_PART_SHARED_GATE_UP, x, type, false, false, activated, &s->shared_h));
        TRY(round_h(verification, &s->shared_h, h_type, chunk->tokens, verification->options->shared_intermediate,
                    &s->rounded_shared_h, &h));
        TRY(PRODUCT(MOECL_PART_SHARED_DOWN, h, h_type, false, false, activated, &s->shared_z));
    }
out:
    return status;
}

/* The weighted sum over the experts, to `to`. */
static moecl_combine_call experts_sum(const struct moecl_verification *verification,
                                      const struct moecl_verify_chunk *chunk, const struct moecl_staged *staged)
{
    const moecl_layer_options *options = verification->options;
    moecl_combine_call call = {.tokens = chunk->tokens,
                               .top_k = verification->router.slots,
                               .hidden = options->latent > 0 ? options->latent : options->hidden,
                               .z = start(&staged->z),
                               .rows = start(&staged->rows),
                               .experts = options->experts,
                               .x = chunk->device_x,
                               .x_type = options->activations};
    if (!options->router.weight_on_input)
        call.weights = start(&staged->weights);
    if (options->router.zero_experts > 0)
        call.ids = start(&staged->ids);
    return call;
}

/* The latent sum, and its way back to H: *call is then a sum of one row a token. */
static moecl_status leave_latent(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                 struct moecl_staged *s, moecl_combine_call *call)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = verification->options;
    TRY(array_make(verification, chunk->tokens, options->latent, sizeof(float), &s->sum));
    call->y = start(&s->sum);
    call->output_type = MOECL_F32;
    TRY(moecl_combine(verification->context, call, 0, NULL, NULL));
    TRY(array_fetch(verification, &s->sum));
    TRY(PRODUCT(MOECL_PART_LATENT_UP, start(&s->sum), MOECL_F32, false, false, MOECL_PRODUCT_ACTIVATED,
                &s->latent_output));
    *call = (moecl_combine_call){
        .tokens = chunk->tokens, .top_k = 1, .hidden = options->hidden, .z = start(&s->latent_output)};
out:
    return status;
}

static moecl_status run_combine(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                struct moecl_staged *staged)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = verification->options;
    moecl_combine_call call = experts_sum(verification, chunk, staged);
    if (options->latent > 0)
        TRY(leave_latent(verification, chunk, staged, &call));
    TRY(array_make(verification, chunk->tokens, options->hidden, moecl_type_size(options->activations), &staged->y));
    if (options->output_biased)
        call.bias = moecl_layer_vector(verification->layer, MOECL_VECTOR_OUTPUT_BIAS);
    call.shared = start(&staged->shared_z);
    call.shared_scale = options->shared_scale;
    call.shared_gate = options->shared_gate;
    if (options->shared_gate != MOECL_SHARED_GATE_NONE) {
        call.shared_logits = (moecl_buffer){staged->router.device, verification->router.columns * sizeof(float)};
        call.shared_stride = staged->router_columns;
        call.shared_gate = options->shared_gate;
    }
    call.y = start(&staged->y);
    call.output_type = options->activations;
    TRY(moecl_combine(verification->context, &call, 0, NULL, NULL));
    TRY(array_fetch(verification, &staged->y));
out:
    return status;
}

moecl_status moecl_staged_run(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                              struct moecl_staged *staged)
{
    moecl_status status = MOECL_OK;
    staged->router_columns = moecl_matrices_describe(moecl_layer_matrices(verification->layer, MOECL_PART_ROUTER))->out;
    TRY(run_route(verification, chunk, staged));
    TRY(run_permute(verification, chunk, staged));
    TRY(run_products(verification, chunk, staged));
    TRY(run_combine(verification, chunk, staged));
out:
    return status;
}

void moecl_staged_free(struct moecl_staged *staged)
{
#define MOECL_STAGED_FREE(name) array_free(&staged->name);
    MOECL_STAGED_LIST(MOECL_STAGED_FREE)
#undef MOECL_STAGED_FREE
}
