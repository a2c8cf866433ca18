/* SPDX-License-Identifier: Apache-2.0 */
/* layers.c - layers with random weights. */
#include "layers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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
    const bool pairs = options.weights == MOECL_BF16 && options.activations == MOECL_BF16;
    if (pairs && strcmp(options.variant, "vector") == 0 && random_between(seed, 0, 2) > 0)
        options.parameters = "products=2";
    return options;
}

size_t random_tokens(uint64_t *seed, size_t most)
{
    const bool one = random_between(seed, 0, 3) == 0;
    return one ? 1 : random_between(seed, 0, most);
}

void print_case(const moecl_layer_options *options, size_t tokens, uint64_t seed)
{
    print_message(
        "           seed %llu: E %zu, H %zu, I %zu, k %zu%s, shared %zu%s, T %zu, %s, activations %s, %s %s\n",
        (unsigned long long)seed, options->experts, options->hidden, options->intermediate, options->top_k,
        options->router.normalisation ? " normalised" : "", options->shared_intermediate,
        options->shared_gate ? " gated" : "", tokens, moecl_type_name(options->weights),
        moecl_type_name(options->activations), options->variant, options->parameters ? options->parameters : "");
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

/* Biases and other vectors: of deviation 1/2 around `middle`. */
static moecl_matrix random_vector(uint64_t *seed, moecl_type type, size_t count, float middle)
{
    moecl_matrix vector = random_matrix(seed, type, 1, count);
    float values[1];
    for (size_t i = 0; i < count; i++) {
        random_fill(seed, 0.5, values, 1);
        matrix_set(&vector, 0, i, middle + values[0]);
    }
    return vector;
}

static moecl_expert_weights random_expert(uint64_t *seed, moecl_type type, const moecl_expert_function *function,
                                          size_t width, size_t intermediate)
{
    moecl_expert_weights expert = {0};
    if (!function->ungated)
        expert.gate = random_matrix(seed, type, intermediate, width);
    expert.up = random_matrix(seed, type, intermediate, width);
    expert.down = random_matrix(seed, type, width, intermediate);
    if (!function->biased)
        return expert;
    if (!function->ungated)
        expert.gate_bias = random_vector(seed, type, intermediate, 0);
    expert.up_bias = random_vector(seed, type, intermediate, 0);
    expert.down_bias = random_vector(seed, type, width, 0);
    return expert;
}

static void expert_free(const moecl_expert_weights *expert)
{
    const moecl_matrix *matrices[] = {&expert->gate,      &expert->up,      &expert->down,
                                      &expert->gate_bias, &expert->up_bias, &expert->down_bias};
    for (size_t i = 0; i < sizeof(matrices) / sizeof(matrices[0]); i++)
        free((void *)matrices[i]->data);
}

/* Noise, latent projections and vectors, where there are any. */
static void make_rest(struct host_layer *layer, moecl_type stored, uint64_t *seed)
{
    const moecl_layer_options *options = &layer->options;
    const size_t outputs = options->experts + options->router.zero_experts;
    if (options->router.noise)
        layer->weights.noise = random_matrix(seed, stored, outputs, options->hidden);
    if (options->latent > 0) {
        layer->weights.latent_down = random_matrix(seed, stored, options->latent, options->hidden);
        layer->weights.latent_up = random_matrix(seed, stored, options->hidden, options->latent);
    }
    for (int v = 0; v < MOECL_VECTOR_COUNT; v++) {
        const bool factor =
            v == MOECL_VECTOR_EXPERT_SCALE || v == MOECL_VECTOR_ROUTER_NORM || v == MOECL_VECTOR_EXPERT_NORM;
        const size_t length = moecl_vector_length(options, (moecl_vector)v);
        if (length > 0)
            layer->weights.vectors[v] = random_vector(seed, stored, length, factor ? 1 : 0);
    }
}

struct host_layer host_layer_make(const moecl_layer_options *options, moecl_type stored, uint64_t seed)
{
    const bool hierarchical = options->router.score == MOECL_SCORE_HIERARCHICAL;
    const size_t rows = options->experts + options->router.zero_experts + (hierarchical ? options->router.groups : 0);
    const size_t width = options->latent > 0 ? options->latent : options->hidden;
    struct host_layer layer = {.options = *options};
    layer.experts = make(options->experts, sizeof *layer.experts);
    layer.weights.experts = layer.experts;
    layer.weights.router = random_matrix(&seed, stored, rows, options->hidden);
    for (size_t e = 0; e < options->experts; e++)
        layer.experts[e] = random_expert(&seed, stored, &options->function, width, options->intermediate);
    if (options->shared_intermediate > 0)
        layer.weights.shared =
            random_expert(&seed, stored, &options->shared_function, options->hidden, options->shared_intermediate);
    if (options->shared_intermediate > 0 && options->shared_gate)
        layer.weights.shared_gate =
            random_matrix(&seed, stored, options->shared_gate == MOECL_SHARED_GATE_SOFTMAX ? 2 : 1, options->hidden);
    make_rest(&layer, stored, &seed);
    return layer;
}

void host_layer_free(struct host_layer *layer)
{
    const moecl_layer_weights *weights = &layer->weights;
    for (size_t e = 0; e < layer->options.experts; e++)
        expert_free(&layer->experts[e]);
    expert_free(&weights->shared);
    free((void *)weights->router.data);
    free((void *)weights->noise.data);
    free((void *)weights->shared_gate.data);
    free((void *)weights->latent_down.data);
    free((void *)weights->latent_up.data);
    for (int v = 0; v < MOECL_VECTOR_COUNT; v++)
        free((void *)weights->vectors[v].data);
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
