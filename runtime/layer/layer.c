/* SPDX-License-Identifier: Apache-2.0 */
/* layer.c - making a layer and giving it its weights. */
#include "layer.h"

#include <string.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "options.h"
#include "stages/combine.h"
#include "stages/input.h"

/* Whether the router may read another input than x; in a pass that is not noisy, x is not jittered. */
static bool has_router_input(const moecl_layer_options *options)
{
    return options->router_input.normalised || options->router.input_jitter > 0;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Inputs that a layer makes of x itself are f32; so is h, the input of the down products, unless an expert's products
 * are always made in pairs. They are where nothing but x is rounded by it: not where a weight is multiplied into x
 * first. */
static moecl_status create_matrices(struct moecl_layer *layer)
{
    const moecl_layer_options *options = &layer->options;
    const moecl_type weights = options->weights, activations = options->activations;
    const size_t experts = options->experts, hidden = options->hidden, width = moecl_expert_width(options);
    const size_t shared = options->shared_intermediate;
    const bool own_input = options->latent || options->expert_input.normalised;
    const moecl_type expert_input = own_input ? MOECL_F32 : activations;
    const size_t never = MOECL_NEVER_IN_PAIRS;
    const size_t pair_rows =
        options->router.weight_on_input
            ? never
            : moecl_gemm_pair_rows(layer->gemm, weights, expert_input, smaller(width, options->intermediate));
    const size_t shared_pair_rows = moecl_gemm_pair_rows(layer->gemm, weights, activations, smaller(hidden, shared));
    const struct {
        size_t groups, out, in;
        const moecl_expert_function *function; /* of an activated product */
        bool biased;
        moecl_type weights, input;
        size_t pair_rows;
    } all[MOECL_PART_COUNT] = {
        [MOECL_PART_ROUTER] = {1, moecl_router_columns(options), hidden, NULL, false, MOECL_F32, activations, never},
        [MOECL_PART_GATE_UP] = {experts, options->intermediate, width, &options->function, options->function.biased,
                                weights, expert_input, pair_rows},
        [MOECL_PART_DOWN] = {experts, width, options->intermediate, NULL, options->function.biased, weights,
                             pair_rows ? MOECL_F32 : MOECL_BF16, pair_rows},
        [MOECL_PART_SHARED_GATE_UP] = {1, shared, hidden, &options->shared_function, options->shared_function.biased,
                                       weights, activations, shared_pair_rows},
        [MOECL_PART_SHARED_DOWN] = {1, hidden, shared, NULL, options->shared_function.biased, weights,
                                    shared_pair_rows ? MOECL_F32 : MOECL_BF16, shared_pair_rows},
        [MOECL_PART_LATENT_DOWN] = {1, options->latent, hidden, NULL, false, weights, activations, never},
        [MOECL_PART_LATENT_UP] = {1, hidden, options->latent, NULL, false, weights, MOECL_F32, never},
    };
    moecl_status status = MOECL_OK;
    for (int i = 0; i < MOECL_PART_COUNT; i++) {
        if (all[i].out == 0 || all[i].in == 0)
            continue;
        moecl_matrices_options matrices = {.groups = all[i].groups,
                                           .out = all[i].out,
                                           .in = all[i].in,
                                           .activated = all[i].function != NULL,
                                           .biased = all[i].biased,
                                           .weights = all[i].weights,
                                           .activations = all[i].input};
        if (all[i].function)
            matrices.function = *all[i].function;
        TRY(moecl_matrices_create_for(layer->gemm, &matrices, all[i].pair_rows, &layer->parts[i]));
        matrices.activations = MOECL_F32;
        if (i == MOECL_PART_ROUTER && has_router_input(options)) /* beside x, which the shared gate reads */
            TRY(layer->gemm->variant->prepare(layer->gemm, &matrices, false));
    }
out:
    return status;
}

static moecl_status create_vectors(struct moecl_layer *layer)
{
    const moecl_layer_options *options = &layer->options;
    const size_t table = options->router.selection == MOECL_SELECTION_TABLE ? options->router.table_rows : 0;
    moecl_status status = MOECL_OK;
    for (int i = 0; i < MOECL_VECTOR_COUNT; i++) {
        const size_t length = moecl_vector_length(options, (moecl_vector)i);
        if (length)
            TRY(moecl_buffer_create(layer->context, CL_MEM_READ_WRITE, length * sizeof(cl_float),
                                    moecl_vector_name((moecl_vector)i), &layer->vectors[i]));
    }
    if (table)
        TRY(moecl_buffer_create(layer->context, CL_MEM_READ_WRITE, table * options->top_k * sizeof(cl_int), "id table",
                                &layer->table));
out:
    return status;
}

static moecl_status create_kernels(struct moecl_layer *layer)
{
    struct moecl_context *context = layer->context;
    const moecl_layer_options *options = &layer->options;
    moecl_status status = MOECL_OK;
    TRY(moecl_route_kernels_create(context, options, &layer->route));
    TRY(moecl_permute_kernels_create(context, &layer->permute));
    TRY(moecl_combine_kernel_create(context, options->activations, options->activations, &layer->combine));
    if (options->latent)
        TRY(moecl_combine_kernel_create(context, MOECL_F32, options->activations, &layer->combine_latent));
    if (has_router_input(options))
        TRY(moecl_input_kernel_create(context, &options->router_input, options->activations, &layer->router_input));
    if (options->expert_input.normalised)
        TRY(moecl_input_kernel_create(context, &options->expert_input, options->activations, &layer->expert_input));
    if (options->router.capacity.kind != MOECL_CAPACITY_NONE)
        TRY(moecl_capacity_kernels_create(context, &layer->capacity));
    if (options->router.selection == MOECL_SELECTION_EXPERT_CHOICE)
        TRY(moecl_expert_choice_kernels_create(context, &layer->expert_choice));
    if (options->router.selection == MOECL_SELECTION_SINKHORN)
        TRY(moecl_sinkhorn_kernels_create(context, &layer->sinkhorn));
out:
    return status;
}

static moecl_status create_flag(struct moecl_layer *layer)
{
    const cl_uint zero = 0;
    moecl_status status = MOECL_OK;
    TRY(moecl_buffer_create(layer->context, CL_MEM_READ_WRITE, sizeof(zero), "flag", &layer->flag));
    TRY(moecl_buffer_write(layer->context, (moecl_buffer){layer->flag, 0}, sizeof(zero), &zero));
out:
    return status;
}

moecl_status moecl_layer_create(moecl_context *context, const moecl_layer_options *options, moecl_layer **created)
{
    moecl_status status = MOECL_OK;
    struct moecl_layer *layer = NULL;
    if (!context || !options || !created)
        return MOECL_INVALID_ARGUMENT;
    *created = NULL;
    TRY(moecl_context_require_device(context));
    TRY(moecl_layer_options_check(context, options));
    layer = moecl_allocate(1, sizeof(*layer));
    if (!layer)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "layer: out of memory");
    layer->context = context;
    layer->options = *options;
    TRY(moecl_gemm_create(context, options->variant, options->parameters, &layer->gemm));
    layer->options.variant = layer->gemm->variant->name;
    layer->options.parameters = NULL;
    TRY(create_matrices(layer));
    TRY(create_vectors(layer));
    TRY(create_kernels(layer));
    TRY(create_flag(layer));
    *created = layer;
    layer = NULL;
out:
    if (status != MOECL_OK)
        moecl_error_append(&context->error, status, " (layer of %zu experts, hidden %zu, intermediate %zu, %s)",
                           options->experts, options->hidden, options->intermediate, moecl_type_name(options->weights));
    moecl_layer_destroy(layer);
    return status;
}

static void release_kernel(cl_kernel kernel)
{
    if (kernel)
        clReleaseKernel(kernel);
}

void moecl_layer_destroy(moecl_layer *layer)
{
    if (!layer)
        return;
    moecl_workspace_release(&layer->workspace);
    moecl_buffer_release(layer->flag);
    moecl_buffer_release(layer->table);
    for (int i = 0; i < MOECL_VECTOR_COUNT; i++)
        moecl_buffer_release(layer->vectors[i]);
    moecl_sinkhorn_kernels_release(&layer->sinkhorn);
    moecl_capacity_kernels_release(&layer->capacity);
    moecl_expert_choice_kernels_release(&layer->expert_choice);
    release_kernel(layer->expert_input);
    release_kernel(layer->router_input);
    release_kernel(layer->combine_latent);
    release_kernel(layer->combine);
    moecl_permute_kernels_release(&layer->permute);
    moecl_route_kernels_release(&layer->route);
    for (int i = 0; i < MOECL_PART_COUNT; i++)
        moecl_matrices_destroy(layer->parts[i]);
    moecl_gemm_destroy(layer->gemm);
    moecl_free(layer);
}

const moecl_layer_options *moecl_layer_describe(const moecl_layer *layer)
{
    return layer ? &layer->options : NULL;
}

size_t moecl_layer_weight_bytes(const moecl_layer *layer)
{
    size_t bytes = 0;
    for (int i = 0; layer && i < MOECL_PART_COUNT; i++)
        bytes += moecl_matrices_bytes(layer->parts[i]);
    return bytes;
}

moecl_matrices *moecl_layer_matrices(moecl_layer *layer, moecl_layer_part part)
{
    return layer && part >= 0 && part < MOECL_PART_COUNT ? layer->parts[part] : NULL;
}
