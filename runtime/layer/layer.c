/* SPDX-License-Identifier: Apache-2.0 */
/* layer.c - making a layer and giving it its weights. */
#include "layer.h"

#include <string.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "options.h"
#include "stages/combine.h"

/* h, the input of the down products, stays f32. */
static moecl_status create_matrices(struct moecl_layer *layer)
{
    const moecl_layer_options *options = &layer->options;
    const moecl_type weights = options->weights, activations = options->activations;
    const size_t hidden = options->hidden, shared = options->shared_intermediate;
    const struct {
        moecl_matrices **matrices;
        moecl_matrices_options options;
    } all[] = {
        {&layer->router,
         {.groups = 1,
          .out = options->experts + (options->shared_gate ? 1 : 0),
          .in = hidden,
          .weights = MOECL_F32,
          .activations = activations}},
        {&layer->gate_up,
         {.groups = options->experts,
          .out = options->intermediate,
          .in = hidden,
          .activated = true,
          .weights = weights,
          .activations = activations}},
        {&layer->down,
         {.groups = options->experts,
          .out = hidden,
          .in = options->intermediate,
          .weights = weights,
          .activations = MOECL_F32}},
        {&layer->shared_gate_up,
         {.groups = 1, .out = shared, .in = hidden, .activated = true, .weights = weights, .activations = activations}},
        {&layer->shared_down, {.groups = 1, .out = hidden, .in = shared, .weights = weights, .activations = MOECL_F32}},
    };
    moecl_status status = MOECL_OK;
    for (size_t i = 0; i < (shared ? 5 : 3); i++)
        TRY(moecl_matrices_create_for(layer->gemm, &all[i].options, all[i].matrices));
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
    TRY(moecl_route_kernels_create(context, options, &layer->route));
    TRY(moecl_permute_kernels_create(context, &layer->permute));
    TRY(moecl_combine_kernel_create(context, options->activations, options->activations, &layer->combine));
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

void moecl_layer_destroy(moecl_layer *layer)
{
    if (!layer)
        return;
    moecl_workspace_release(&layer->workspace);
    moecl_buffer_release(layer->flag);
    if (layer->combine)
        clReleaseKernel(layer->combine);
    moecl_permute_kernels_release(&layer->permute);
    moecl_route_kernels_release(&layer->route);
    moecl_matrices_destroy(layer->router);
    moecl_matrices_destroy(layer->gate_up);
    moecl_matrices_destroy(layer->down);
    moecl_matrices_destroy(layer->shared_gate_up);
    moecl_matrices_destroy(layer->shared_down);
    moecl_gemm_destroy(layer->gemm);
    moecl_free(layer);
}

const moecl_layer_options *moecl_layer_describe(const moecl_layer *layer)
{
    return layer ? &layer->options : NULL;
}

size_t moecl_layer_weight_bytes(const moecl_layer *layer)
{
    if (!layer)
        return 0;
    return moecl_matrices_bytes(layer->router) + moecl_matrices_bytes(layer->gate_up) +
           moecl_matrices_bytes(layer->down) + moecl_matrices_bytes(layer->shared_gate_up) +
           moecl_matrices_bytes(layer->shared_down);
}

moecl_matrices *moecl_layer_matrices(moecl_layer *layer, moecl_layer_part part)
{
    if (!layer)
        return NULL;
    switch (part) {
    case MOECL_PART_ROUTER:
        return layer->router;
    case MOECL_PART_GATE_UP:
        return layer->gate_up;
    case MOECL_PART_DOWN:
        return layer->down;
    case MOECL_PART_SHARED_GATE_UP:
        return layer->shared_gate_up;
    case MOECL_PART_SHARED_DOWN:
        return layer->shared_down;
    case MOECL_PART_LATENT_DOWN:
        return layer->latent_down;
    case MOECL_PART_LATENT_UP:
        return layer->latent_up;
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------------- weights -- */

moecl_status moecl_layer_set_router(moecl_layer *layer, const moecl_matrix *router)
{
    moecl_status status = MOECL_OK;
    if (!layer)
        return MOECL_INVALID_ARGUMENT;
    TRY(moecl_matrix_check(layer->context, router, layer->options.experts, layer->options.hidden, "router"));
    TRY(moecl_matrices_set_rows(layer->router, 0, 0, &(moecl_group_weights){.matrix = *router}));
out:
    return status;
}

/* gate and up [intermediate, hidden], down [hidden, intermediate], all checked before any is written. */
static moecl_status set_expert(moecl_layer *layer, moecl_matrices *gate_up, moecl_matrices *down, size_t group,
                               const moecl_expert_weights *weights, const char *const names[3])
{
    const size_t intermediate = gate_up->options.out, hidden = gate_up->options.in;
    moecl_status status = MOECL_OK;
    TRY(moecl_matrix_check(layer->context, &weights->gate, intermediate, hidden, names[0]));
    TRY(moecl_matrix_check(layer->context, &weights->up, intermediate, hidden, names[1]));
    TRY(moecl_matrix_check(layer->context, &weights->down, hidden, intermediate, names[2]));
    TRY(moecl_matrices_set(gate_up, group, &(moecl_group_weights){.matrix = weights->gate, .up = weights->up}));
    TRY(moecl_matrices_set(down, group, &(moecl_group_weights){.matrix = weights->down}));
out:
    return status;
}

moecl_status moecl_layer_set_expert(moecl_layer *layer, size_t expert, const moecl_expert_weights *weights)
{
    static const char *const names[] = {"expert's gate", "expert's up", "expert's down"};
    moecl_status status = MOECL_OK;
    if (!layer || !weights)
        return MOECL_INVALID_ARGUMENT;
    if (expert >= layer->options.experts)
        FAIL(&layer->context->error, MOECL_INVALID_ARGUMENT, "layer: expert %zu of %zu", expert,
             layer->options.experts);
    TRY(set_expert(layer, layer->gate_up, layer->down, expert, weights, names));
out:
    return status;
}

moecl_status moecl_layer_set_shared_expert(moecl_layer *layer, const moecl_expert_weights *weights,
                                           const moecl_matrix *shared_gate)
{
    static const char *const names[] = {"shared expert's gate", "shared expert's up", "shared expert's down"};
    moecl_status status = MOECL_OK;
    if (!layer || !weights)
        return MOECL_INVALID_ARGUMENT;
    struct moecl_context *context = layer->context;
    if (!layer->shared_gate_up)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "layer: it has no shared expert");
    if (layer->options.shared_gate)
        TRY(moecl_matrix_check(context, shared_gate, 1, layer->options.hidden, "shared gate"));
    else if (shared_gate)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "layer: its shared expert is not gated");
    TRY(set_expert(layer, layer->shared_gate_up, layer->shared_down, 0, weights, names));
    if (shared_gate)
        TRY(moecl_matrices_set_rows(layer->router, 0, layer->options.experts,
                                    &(moecl_group_weights){.matrix = *shared_gate}));
out:
    return status;
}
