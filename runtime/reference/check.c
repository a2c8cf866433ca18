/* SPDX-License-Identifier: Apache-2.0 */
/* check.c - whether the weights have the shapes that the options say. */
#include "device/context.h"
#include "layer/options.h"
#include "parts.h"

static bool has_shape(const moecl_matrix *matrix, size_t rows, size_t columns)
{
    return matrix->data != NULL && moecl_type_size(matrix->type) > 0 && matrix->rows == rows &&
           matrix->columns == columns;
}

/* There if and only if `wanted`: what is not wanted is not looked at. */
static bool has_shape_where(bool wanted, const moecl_matrix *matrix, size_t rows, size_t columns)
{
    return !wanted || has_shape(matrix, rows, columns);
}

static bool expert_has_shape(const moecl_expert_weights *expert, const moecl_expert_function *function, size_t width,
                             size_t intermediate)
{
    const bool gated = !function->ungated, biased = function->biased;
    return has_shape_where(gated, &expert->gate, intermediate, width) && has_shape(&expert->up, intermediate, width) &&
           has_shape(&expert->down, width, intermediate) &&
           has_shape_where(gated && biased, &expert->gate_bias, 1, intermediate) &&
           has_shape_where(biased, &expert->up_bias, 1, intermediate) &&
           has_shape_where(biased, &expert->down_bias, 1, width);
}

static bool table_is_valid(const moecl_layer_options *options, const int32_t *table)
{
    if (options->router.selection != MOECL_SELECTION_TABLE)
        return true;
    if (table == NULL)
        return false;
    for (size_t i = 0; i < options->router.table_rows * options->top_k; i++)
        if (table[i] < 0 || (size_t)table[i] >= moecl_router_outputs(options))
            return false;
    return true;
}

moecl_status moecl_reference_check(const moecl_layer_options *options, const moecl_layer_weights *weights)
{
    struct moecl_context context = {0}; /* for the sentence, which nobody reads */
    if (options == NULL || weights == NULL || weights->experts == NULL ||
        moecl_layer_options_check(&context, options) != MOECL_OK)
        return MOECL_INVALID_ARGUMENT;

    const size_t hidden = options->hidden, width = options->latent > 0 ? options->latent : hidden;
    const bool shared = options->shared_intermediate > 0;
    bool fits = has_shape(&weights->router, moecl_router_rows(options), hidden) &&
                has_shape_where(options->router.noise, &weights->noise, moecl_router_outputs(options), hidden) &&
                has_shape_where(options->latent > 0, &weights->latent_down, width, hidden) &&
                has_shape_where(options->latent > 0, &weights->latent_up, hidden, width) &&
                table_is_valid(options, weights->table);
    for (size_t e = 0; fits && e < options->experts; e++)
        fits = expert_has_shape(&weights->experts[e], &options->function, width, options->intermediate);
    for (int v = 0; fits && v < MOECL_VECTOR_COUNT; v++) {
        size_t length = moecl_vector_length(options, (moecl_vector)v);
        fits = has_shape_where(length > 0, &weights->vectors[v], 1, length);
    }
    if (fits && shared)
        fits = expert_has_shape(&weights->shared, &options->shared_function, hidden, options->shared_intermediate) &&
               has_shape_where(options->shared_gate != MOECL_SHARED_GATE_NONE, &weights->shared_gate,
                               moecl_shared_gate_rows(options), hidden);
    return fits ? MOECL_OK : MOECL_INVALID_ARGUMENT;
}
