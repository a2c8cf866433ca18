/* SPDX-License-Identifier: Apache-2.0 */
/* load.c - a checkpoint's weights into a layer. */
#include <moecl/model.h>

#include "model.h"

static moecl_status set_expert(moecl_layer *layer, const moecl_layer_weights *weights, size_t expert)
{
    return moecl_layer_set_expert(layer, expert, &weights->experts[expert]);
}

static moecl_status set_shared(moecl_layer *layer, const moecl_layer_weights *weights)
{
    if (!weights->shared.down.data && moecl_layer_describe(layer)->shared_intermediate == 0)
        return MOECL_OK;
    return moecl_layer_set_shared_expert(layer, &weights->shared,
                                         weights->shared_gate.data ? &weights->shared_gate : NULL);
}

moecl_status moecl_layer_set_weights(moecl_layer *layer, const moecl_layer_weights *weights)
{
    moecl_status status = MOECL_OK;

    if (!layer || !weights)
        return MOECL_INVALID_ARGUMENT;
    TRY(moecl_layer_set_router(layer, &weights->router));
    for (size_t expert = 0; expert < moecl_layer_describe(layer)->experts; expert++)
        TRY(set_expert(layer, weights, expert));
    TRY(set_shared(layer, weights));
out:
    return status;
}

/* All bytes from a matrix's first element to its last: those of other experts too, where they are stored by turns. */
static void prefetch(const moecl_matrix *matrix)
{
    const size_t row_stride = matrix->column_stride ? matrix->row_stride : matrix->columns;
    const size_t column_stride = matrix->column_stride ? matrix->column_stride : 1;
    if (!matrix->data)
        return;
    const size_t last = (matrix->rows - 1) * row_stride + (matrix->columns - 1) * column_stride;
    moecl_mapping_prefetch(matrix->data, (last + 1) * moecl_type_size(matrix->type));
}

static void prefetch_expert(const moecl_expert_weights *weights)
{
    prefetch(&weights->gate);
    prefetch(&weights->up);
    prefetch(&weights->down);
}

/* As moecl_layer_set_weights(), but the next expert is read from disk while one is packed, and the pages of one packed
 * are given back. The layer has as many experts as the weights. */
static moecl_status stream_weights(moecl_layer *layer, const moecl_layer_weights *weights,
                                   const struct moecl_checkpoint *checkpoint)
{
    moecl_status status = MOECL_OK;
    const size_t experts = moecl_layer_describe(layer)->experts;

    TRY(moecl_layer_set_router(layer, &weights->router));
    for (size_t expert = 0; expert < experts; expert++) {
        if (expert + 1 < experts)
            prefetch_expert(&weights->experts[expert + 1]);
        TRY(set_expert(layer, weights, expert));
        moecl_checkpoint_drop(checkpoint);
    }
    TRY(set_shared(layer, weights));
out:
    moecl_checkpoint_drop(checkpoint);
    return status;
}

/* The weights are those of so many experts, and more may not be read of them. */
static moecl_status check_experts(const struct moecl_model *model, size_t layer, const moecl_layer_options *options)
{
    const moecl_layer_options *own = &model->config.layer[layer].options;
    if (options->experts == own->experts && options->router.zero_experts == own->router.zero_experts)
        return MOECL_OK;
    return moecl_error_set(&model->context->error, MOECL_INVALID_ARGUMENT,
                           "%s: layer %zu has %zu experts and %zu zero experts, not %zu and %zu", model->directory,
                           layer, own->experts, own->router.zero_experts, options->experts,
                           options->router.zero_experts);
}

moecl_status moecl_layer_load(moecl_model *model, size_t layer, const moecl_layer_options *options,
                              moecl_layer **loaded)
{
    moecl_status status = MOECL_OK;
    moecl_layer_weights weights = {0};
    moecl_layer *made = NULL;

    if (loaded)
        *loaded = NULL;
    if (!model || !options || !loaded)
        return MOECL_INVALID_ARGUMENT;
    TRY(moecl_model_weights(model, layer, &weights));
    TRY(check_experts(model, layer, options));
    TRY(moecl_layer_create(model->context, options, &made));
    TRY(stream_weights(made, &weights, &model->checkpoint));
    *loaded = made;
    made = NULL;
out:
    moecl_layer_destroy(made);
    moecl_model_weights_free(&weights);
    return status;
}
