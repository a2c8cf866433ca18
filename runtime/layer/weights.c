/* SPDX-License-Identifier: Apache-2.0 */
/* weights.c - giving a layer its weights. */
#include "device/buffer.h"
#include "device/matrix.h"
#include "device/memory.h"
#include "layer.h"

/* The context where `layer` has what is set; fails the call otherwise. */
static moecl_status require(const moecl_layer *layer, bool present, const char *what)
{
    if (present)
        return MOECL_OK;
    return moecl_error_set(&layer->context->error, MOECL_INVALID_ARGUMENT, "layer: it has no %s", what);
}

/* Rows of the router's matrix: those of `rows`, behind the first `first`. */
static moecl_status set_router_rows(moecl_layer *layer, size_t first, size_t rows, const moecl_matrix *matrix,
                                    const char *what)
{
    moecl_status status = MOECL_OK;
    TRY(moecl_matrix_check(layer->context, matrix, rows, layer->options.hidden, what));
    TRY(moecl_matrices_set_rows(layer->parts[MOECL_PART_ROUTER], 0, first, &(moecl_group_weights){.matrix = *matrix}));
out:
    return status;
}

moecl_status moecl_layer_set_router(moecl_layer *layer, const moecl_matrix *router)
{
    if (!layer)
        return MOECL_INVALID_ARGUMENT;
    return set_router_rows(layer, 0, moecl_router_rows(&layer->options), router, "router");
}

moecl_status moecl_layer_set_noise(moecl_layer *layer, const moecl_matrix *noise)
{
    moecl_status status = MOECL_OK;
    if (!layer)
        return MOECL_INVALID_ARGUMENT;
    const moecl_layer_options *options = &layer->options;
    TRY(require(layer, options->router.noise, "noise"));
    TRY(set_router_rows(layer, moecl_router_rows(options) + moecl_shared_gate_rows(options),
                        moecl_router_outputs(options), noise, "router's noise"));
out:
    return status;
}

/* ------------------------------------------------------------------------------------------------- experts -- */

/* A vector [1,n] that is there exactly where `present`. */
static moecl_status check_bias(const moecl_layer *layer, const moecl_matrix *bias, bool present, size_t length,
                               const char *owner, const char *what)
{
    struct moecl_error *error = &layer->context->error;
    moecl_status status = MOECL_OK;
    if (present)
        TRY(moecl_matrix_check(layer->context, bias, 1, length, what));
    else if (bias->data)
        FAIL(error, MOECL_INVALID_ARGUMENT, "the function has no such bias");
out:
    if (status != MOECL_OK)
        moecl_error_append(error, status, " (%s %s bias)", owner, what);
    return status;
}

static moecl_status check_expert(const moecl_layer *layer, const moecl_expert_function *function,
                                 const moecl_expert_weights *weights, size_t intermediate, size_t width,
                                 const char *owner)
{
    struct moecl_context *context = layer->context;
    const bool gated = !function->ungated, biased = function->biased;
    moecl_status status = MOECL_OK;
    if (gated)
        TRY(moecl_matrix_check(context, &weights->gate, intermediate, width, "gate"));
    else if (weights->gate.data)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "a gate matrix, but the function has no gate");
    TRY(moecl_matrix_check(context, &weights->up, intermediate, width, "up"));
    TRY(moecl_matrix_check(context, &weights->down, width, intermediate, "down"));
    TRY(check_bias(layer, &weights->gate_bias, biased && gated, intermediate, owner, "gate"));
    TRY(check_bias(layer, &weights->up_bias, biased, intermediate, owner, "up"));
    TRY(check_bias(layer, &weights->down_bias, biased, width, owner, "down"));
out:
    if (status != MOECL_OK)
        moecl_error_append(&context->error, status, " (%s)", owner);
    return status;
}

/* All checked before any is written. */
static moecl_status set_expert(moecl_layer *layer, moecl_layer_part gate_up, size_t group,
                               const moecl_expert_function *function, const moecl_expert_weights *weights,
                               const char *owner)
{
    moecl_matrices *first = layer->parts[gate_up], *second = layer->parts[gate_up + 1];
    moecl_group_weights h = {.matrix = weights->up, .bias = weights->up_bias};
    const moecl_group_weights z = {.matrix = weights->down, .bias = weights->down_bias};
    moecl_status status = MOECL_OK;
    if (!function->ungated)
        h = (moecl_group_weights){weights->gate, weights->up, weights->gate_bias, weights->up_bias};
    TRY(check_expert(layer, function, weights, first->options.out, first->options.in, owner));
    TRY(moecl_matrices_set(first, group, &h));
    TRY(moecl_matrices_set(second, group, &z));
out:
    return status;
}

moecl_status moecl_layer_set_expert(moecl_layer *layer, size_t expert, const moecl_expert_weights *weights)
{
    moecl_status status = MOECL_OK;
    if (!layer || !weights)
        return MOECL_INVALID_ARGUMENT;
    if (expert >= layer->options.experts)
        FAIL(&layer->context->error, MOECL_INVALID_ARGUMENT, "layer: expert %zu of %zu", expert,
             layer->options.experts);
    TRY(set_expert(layer, MOECL_PART_GATE_UP, expert, &layer->options.function, weights, "expert"));
out:
    return status;
}

moecl_status moecl_layer_set_shared_expert(moecl_layer *layer, const moecl_expert_weights *weights,
                                           const moecl_matrix *shared_gate)
{
    moecl_status status = MOECL_OK;
    if (!layer || !weights)
        return MOECL_INVALID_ARGUMENT;
    const moecl_layer_options *options = &layer->options;
    const size_t gate_rows = moecl_shared_gate_rows(options);
    TRY(require(layer, options->shared_intermediate > 0, "shared expert"));
    if (gate_rows)
        TRY(moecl_matrix_check(layer->context, shared_gate, gate_rows, options->hidden, "shared gate"));
    else if (shared_gate)
        FAIL(&layer->context->error, MOECL_INVALID_ARGUMENT, "layer: its shared expert is not gated");
    TRY(set_expert(layer, MOECL_PART_SHARED_GATE_UP, 0, &options->shared_function, weights, "shared expert"));
    if (gate_rows)
        TRY(set_router_rows(layer, moecl_router_rows(options), gate_rows, shared_gate, "shared gate"));
out:
    return status;
}

moecl_status moecl_layer_set_latent(moecl_layer *layer, const moecl_matrix *down, const moecl_matrix *up)
{
    moecl_status status = MOECL_OK;
    if (!layer || !down || !up)
        return MOECL_INVALID_ARGUMENT;
    const moecl_layer_options *options = &layer->options;
    TRY(require(layer, options->latent > 0, "latent projection"));
    TRY(moecl_matrix_check(layer->context, down, options->latent, options->hidden, "latent down"));
    TRY(moecl_matrix_check(layer->context, up, options->hidden, options->latent, "latent up"));
    TRY(moecl_matrices_set(layer->parts[MOECL_PART_LATENT_DOWN], 0, &(moecl_group_weights){.matrix = *down}));
    TRY(moecl_matrices_set(layer->parts[MOECL_PART_LATENT_UP], 0, &(moecl_group_weights){.matrix = *up}));
out:
    return status;
}

/* ------------------------------------------------------------------------------------------------- vectors -- */

moecl_status moecl_layer_set_vector(moecl_layer *layer, moecl_vector vector, const moecl_matrix *values)
{
    moecl_status status = MOECL_OK;
    float *copy = NULL;
    if (!layer)
        return MOECL_INVALID_ARGUMENT;
    struct moecl_context *context = layer->context;
    const char *name = moecl_vector_name(vector);
    const size_t length = moecl_vector_length(&layer->options, vector);
    TRY(require(layer, length > 0, name ? name : "vector of this number"));
    TRY(moecl_matrix_check(context, values, 1, length, name));
    copy = moecl_allocate(length, sizeof(*copy));
    if (!copy)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "layer: no memory for its %s", name);
    moecl_matrix_read_row(values, 0, 0, length, MOECL_F32, copy);
    TRY(moecl_buffer_write(context, (moecl_buffer){layer->vectors[vector], 0}, length * sizeof(*copy), copy));
out:
    moecl_free(copy);
    return status;
}

moecl_buffer moecl_layer_vector(moecl_layer *layer, moecl_vector vector)
{
    const bool known = layer && vector >= 0 && vector < MOECL_VECTOR_COUNT;
    return (moecl_buffer){known ? layer->vectors[vector] : NULL, 0};
}

moecl_status moecl_layer_set_table(moecl_layer *layer, const int32_t *ids)
{
    moecl_status status = MOECL_OK;
    if (!layer || !ids)
        return MOECL_INVALID_ARGUMENT;
    const moecl_layer_options *options = &layer->options;
    TRY(require(layer, layer->table != NULL, "id table"));
    const size_t outputs = moecl_router_outputs(options), count = options->router.table_rows * options->top_k;
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= outputs)
            FAIL(&layer->context->error, MOECL_INVALID_ARGUMENT,
                 "layer: the id table has expert %d in row %zu; there are %zu", (int)ids[i], i / options->top_k,
                 outputs);
    TRY(moecl_buffer_write(layer->context, (moecl_buffer){layer->table, 0}, count * sizeof(*ids), ids));
out:
    return status;
}
