/* SPDX-License-Identifier: Apache-2.0 */
/* layers.c - layers with random weights. */
#include "layers.h"

#include <math.h>
#include <stdlib.h>

#include "device.h"
#include "random.h"

moecl_layer_options random_options(uint64_t *seed, size_t number)
{
    const moecl_type types[] = {MOECL_F32, MOECL_F16, MOECL_BF16};
    size_t variants = 0, scale = small_sizes() ? 1 : 5;
    while (moecl_variant_name(variants) != NULL)
        variants++;
    moecl_layer_options options = {.experts = random_between(seed, 1, 8 * scale),
                                   .hidden = random_between(seed, 1, 40 * scale),
                                   .intermediate = random_between(seed, 1, 24 * scale),
                                   .router.normalisation = (moecl_normalisation)random_between(seed, 0, 1),
                                   .weights = types[number / variants % 3],
                                   .activations = types[(number / variants + number / variants / 3) % 3],
                                   .variant = moecl_variant_name(number % variants)};
    options.top_k = random_between(seed, 1, options.experts < 8 ? options.experts : 8);
    if (random_between(seed, 0, 2) == 0) {
        options.shared_intermediate = random_between(seed, 1, 30 * scale);
        options.shared_gate = (moecl_shared_gate)random_between(seed, 0, 1);
    }
    return options;
}

void print_case(const moecl_layer_options *options, size_t tokens, uint64_t seed)
{
    print_message("           seed %llu: E %zu, H %zu, I %zu, k %zu%s, shared %zu%s, T %zu, %s, activations %s, %s\n",
                  (unsigned long long)seed, options->experts, options->hidden, options->intermediate, options->top_k,
                  options->router.normalisation ? " normalised" : "", options->shared_intermediate,
                  options->shared_gate ? " gated" : "", tokens, moecl_type_name(options->weights),
                  moecl_type_name(options->activations), options->variant);
}

static moecl_matrix random_matrix(uint64_t *seed, moecl_type type, size_t rows, size_t columns)
{
    float *values = make(rows * columns, sizeof *values);
    random_fill(seed, 1.0 / sqrt((double)columns), values, rows * columns);
    void *stored = make(rows * columns, moecl_type_size(type));
    moecl_convert(values, MOECL_F32, stored, type, rows * columns);
    free(values);
    return (moecl_matrix){stored, type, rows, columns, 0, 0};
}

static moecl_expert_weights random_expert(uint64_t *seed, moecl_type type, size_t hidden, size_t intermediate)
{
    moecl_expert_weights expert = {0};
    expert.gate = random_matrix(seed, type, intermediate, hidden);
    expert.up = random_matrix(seed, type, intermediate, hidden);
    expert.down = random_matrix(seed, type, hidden, intermediate);
    return expert;
}

static void expert_free(const moecl_expert_weights *expert)
{
    free((void *)expert->gate.data);
    free((void *)expert->up.data);
    free((void *)expert->down.data);
}

struct host_layer host_layer_make(const moecl_layer_options *options, moecl_type stored, uint64_t seed)
{
    struct host_layer layer = {.options = *options};
    layer.experts = make(options->experts, sizeof *layer.experts);
    layer.weights.experts = layer.experts;
    layer.weights.router = random_matrix(&seed, stored, options->experts, options->hidden);
    for (size_t e = 0; e < options->experts; e++)
        layer.experts[e] = random_expert(&seed, stored, options->hidden, options->intermediate);
    if (options->shared_intermediate > 0)
        layer.weights.shared = random_expert(&seed, stored, options->hidden, options->shared_intermediate);
    if (options->shared_intermediate > 0 && options->shared_gate)
        layer.weights.shared_gate = random_matrix(&seed, stored, 1, options->hidden);
    return layer;
}

void host_layer_free(struct host_layer *layer)
{
    for (size_t e = 0; e < layer->options.experts; e++)
        expert_free(&layer->experts[e]);
    expert_free(&layer->weights.shared);
    free((void *)layer->weights.router.data);
    free((void *)layer->weights.shared_gate.data);
    free(layer->experts);
}

static void *element(const moecl_matrix *matrix, size_t row, size_t column)
{
    return (char *)matrix->data + (row * matrix->columns + column) * moecl_type_size(matrix->type);
}

void matrix_set(const moecl_matrix *matrix, size_t row, size_t column, float value)
{
    moecl_convert(&value, MOECL_F32, element(matrix, row, column), matrix->type, 1);
}

float matrix_get(const moecl_matrix *matrix, size_t row, size_t column)
{
    float value;
    moecl_convert(element(matrix, row, column), matrix->type, &value, MOECL_F32, 1);
    return value;
}
