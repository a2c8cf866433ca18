/* SPDX-License-Identifier: Apache-2.0 */
/* load.c - a checkpoint's weights into a layer. */
#include <moecl/model.h>

#include "model.h"

/* All but the experts, as the layer's options say; what a layer needs and the weights lack is refused there. */
static moecl_status set_surroundings(moecl_layer *layer, const moecl_layer_weights *weights)
{
    const moecl_layer_options *options = moecl_layer_describe(layer);
    moecl_status status = MOECL_OK;

    TRY(moecl_layer_set_router(layer, &weights->router));
    if (options->router.noise)
        TRY(moecl_layer_set_noise(layer, &weights->noise));
    for (size_t i = 0; i < MOECL_VECTOR_COUNT; i++)
        if (moecl_vector_length(options, (moecl_vector)i) > 0)
            TRY(moecl_layer_set_vector(layer, (moecl_vector)i, &weights->vectors[i]));
    if (options->router.selection == MOECL_SELECTION_TABLE)
        TRY(moecl_layer_set_table(layer, weights->table));
    if (options->latent > 0)
        TRY(moecl_layer_set_latent(layer, &weights->latent_down, &weights->latent_up));
    if (options->shared_intermediate > 0 || weights->shared.down.data)
        TRY(moecl_layer_set_shared_expert(layer, &weights->shared,
                                          weights->shared_gate.data ? &weights->shared_gate : NULL));
out:
    return status;
}

moecl_status moecl_layer_set_weights(moecl_layer *layer, const moecl_layer_weights *weights)
{
    moecl_status status = MOECL_OK;

    if (!layer || !weights)
        return MOECL_INVALID_ARGUMENT;
    TRY(set_surroundings(layer, weights));
    for (size_t expert = 0; expert < moecl_layer_describe(layer)->experts; expert++)
        TRY(moecl_layer_set_expert(layer, expert, &weights->experts[expert]));
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

    TRY(set_surroundings(layer, weights));
    moecl_checkpoint_drop(checkpoint);
    for (size_t expert = 0; expert < experts; expert++) {
        if (expert + 1 < experts)
            prefetch_expert(&weights->experts[expert + 1]);
        TRY(moecl_layer_set_expert(layer, expert, &weights->experts[expert]));
        moecl_checkpoint_drop(checkpoint);
    }
out:
    moecl_checkpoint_drop(checkpoint);
    return status;
}

/* The weights are those of so many experts and token ids, and more may not be read of them. */
static moecl_status check_counts(const struct moecl_model *model, const moecl_layer_options *own,
                                 const moecl_layer_options *options)
{
    struct moecl_error *error = &model->context->error;
    moecl_status status = MOECL_OK;

    if (options->experts != own->experts || options->router.zero_experts != own->router.zero_experts)
        FAIL(error, MOECL_INVALID_ARGUMENT, "%s: the layer has %zu experts and %zu zero experts, not %zu and %zu",
             model->directory, own->experts, own->router.zero_experts, options->experts, options->router.zero_experts);
    if (options->router.selection == MOECL_SELECTION_TABLE &&
        (options->router.table_rows != own->router.table_rows || options->top_k != own->top_k))
        FAIL(error, MOECL_INVALID_ARGUMENT, "%s: the layer's table is [%zu,%zu], not [%zu,%zu]", model->directory,
             own->router.table_rows, own->top_k, options->router.table_rows, options->top_k);
out:
    return status;
}

moecl_status moecl_layer_load(moecl_model *model, size_t layer, const moecl_layer_options *options,
                              moecl_layer **loaded)
{
    moecl_status status = MOECL_OK;
    moecl_layer_weights weights = {.experts = NULL};
    moecl_layer_options own;
    moecl_layer *made = NULL;

    if (loaded)
        *loaded = NULL;
    if (!model || !options || !loaded)
        return MOECL_INVALID_ARGUMENT;
    TRY(moecl_model_find_weights(model, layer, &own, &weights));
    TRY(check_counts(model, &own, options));
    TRY(moecl_layer_create(model->context, options, &made));
    TRY(stream_weights(made, &weights, &model->checkpoint));
    *loaded = made;
    made = NULL;
out:
    moecl_layer_destroy(made);
    moecl_model_weights_free(&weights);
    return status;
}
