/* SPDX-License-Identifier: Apache-2.0 */
/* weights.c - a layer's synthetic weights. */
#include "weights.h"

#include <math.h>
#include <stdlib.h>

#include "synthetic.h"

/* Parts of a seed: the experts take 0 and up, the vectors PART_VECTOR and up. */
enum {
    PART_ROUTER = 1 << 20,
    PART_SHARED,
    PART_SHARED_GATE,
    PART_NOISE,
    PART_LATENT_DOWN,
    PART_LATENT_UP,
    PART_TABLE,
    PART_TIES,
    PART_VECTOR
};

/* Where matrices are made, one after the other; memory NULL: their bytes are only counted. */
struct maker {
    char *memory;
    size_t bytes;
    moecl_type type;
    uint64_t seed;
};

/* Room for `count` elements of `size` bytes, on a multiple of that. */
static void *place(struct maker *maker, size_t count, size_t size)
{
    maker->bytes = (maker->bytes + size - 1) / size * size;
    void *at = maker->memory ? maker->memory + maker->bytes : NULL;
    maker->bytes += count * size;
    return at;
}

static moecl_matrix make_matrix(struct maker *maker, size_t rows, size_t columns, uint64_t part)
{
    void *at = place(maker, rows * columns, moecl_type_size(maker->type));
    if (at)
        synthetic_weights(synthetic_seed(maker->seed, part), columns, maker->type, at, rows * columns);
    return (moecl_matrix){at, maker->type, rows, columns, 0, 0};
}

/* Of deviation 1/2, around 0; biases and the like. */
static moecl_matrix make_bias(struct maker *maker, size_t count, uint64_t part)
{
    void *at = place(maker, count, moecl_type_size(maker->type));
    if (at)
        synthetic_weights(synthetic_seed(maker->seed, part), 4, maker->type, at, count);
    return (moecl_matrix){at, maker->type, 1, count, 0, 0};
}

static moecl_expert_weights make_expert(struct maker *maker, const moecl_expert_function *function, size_t width,
                                        size_t intermediate, uint64_t expert)
{
    const uint64_t seed = maker->seed;
    moecl_expert_weights made = {0};
    maker->seed = synthetic_seed(seed, expert);
    if (!function->ungated)
        made.gate = make_matrix(maker, intermediate, width, 0);
    made.up = make_matrix(maker, intermediate, width, 1);
    made.down = make_matrix(maker, width, intermediate, 2);
    if (function->biased) {
        if (!function->ungated)
            made.gate_bias = make_bias(maker, intermediate, 3);
        made.up_bias = make_bias(maker, intermediate, 4);
        made.down_bias = make_bias(maker, width, 5);
    }
    maker->seed = seed;
    return made;
}

moecl_expert_weights weights_make_expert(size_t hidden, size_t intermediate, moecl_type type, uint64_t seed,
                                         size_t expert, void *memory)
{
    struct maker maker = {memory, 0, type, seed};
    return make_expert(&maker, &(moecl_expert_function){.activation = MOECL_ACTIVATION_SILU}, hidden, intermediate,
                       expert);
}

/* One layer in eight has router rows that are copies of the row before: their experts tie. */
static void make_ties(const struct maker *maker, const moecl_matrix *router, size_t outputs)
{
    const uint64_t key = synthetic_seed(maker->seed, PART_TIES);
    const size_t row = router->columns * moecl_type_size(router->type);
    if (!router->data || synthetic_between(key, 0, 0, 7) != 0)
        return;
    for (size_t e = 1; e < outputs; e++)
        if (synthetic_between(key, e, 0, 1))
            for (size_t i = 0; i < row; i++)
                ((char *)router->data)[e * row + i] = ((char *)router->data)[(e - 1) * row + i];
}

/* Scales and norms lie around 1; of router biases some mask their expert. */
static void adjust_vector(const struct maker *maker, moecl_vector vector, const moecl_matrix *values)
{
    const uint64_t key = synthetic_seed(synthetic_seed(maker->seed, PART_VECTOR + (uint64_t)vector), 1);
    const bool around_one =
        vector == MOECL_VECTOR_EXPERT_SCALE || vector == MOECL_VECTOR_ROUTER_NORM || vector == MOECL_VECTOR_EXPERT_NORM;
    const size_t size = moecl_type_size(values->type);
    const bool masks = vector == MOECL_VECTOR_ROUTER_BIAS && synthetic_between(key, 0, 0, 3) == 0;
    for (size_t i = 0; values->data && i < values->columns; i++) {
        char *at = (char *)values->data + i * size;
        float value;
        moecl_convert(at, values->type, &value, MOECL_F32, 1);
        if (around_one)
            value = 1 + value / 2;
        if (masks && synthetic_between(key, i + 1, 0, 7) == 0)
            value = -INFINITY;
        moecl_convert(&value, MOECL_F32, at, values->type, 1);
    }
}

static void make_vectors(struct maker *maker, const moecl_layer_options *options, moecl_layer_weights *weights)
{
    for (int v = 0; v < MOECL_VECTOR_COUNT; v++) {
        const size_t length = moecl_vector_length(options, (moecl_vector)v);
        if (!length)
            continue;
        weights->vectors[v] = make_bias(maker, length, PART_VECTOR + (uint64_t)v);
        adjust_vector(maker, (moecl_vector)v, &weights->vectors[v]);
    }
}

/* Different experts in each row, as hash layers have. */
static void make_table(struct maker *maker, const moecl_layer_options *options, moecl_layer_weights *weights)
{
    const size_t outputs = options->experts + options->router.zero_experts, top_k = options->top_k;
    if (options->router.selection != MOECL_SELECTION_TABLE)
        return;
    int32_t *table = place(maker, options->router.table_rows * top_k, sizeof(*table));
    for (size_t row = 0; table && row < options->router.table_rows; row++) {
        const uint64_t key = synthetic_seed(synthetic_seed(maker->seed, PART_TABLE), row);
        const size_t first = synthetic_between(key, 0, 0, outputs - 1);
        for (size_t j = 0; j < top_k; j++)
            table[row * top_k + j] = (int32_t)((first + j) % outputs);
    }
    weights->table = table;
}

/* All of a layer, but the array of its experts' weights, which is there already. */
static void make_layer(struct maker *maker, const moecl_layer_options *options, struct weights *weights)
{
    const size_t hidden = options->hidden, width = options->latent ? options->latent : hidden;
    const size_t outputs = options->experts + options->router.zero_experts;
    const size_t groups = options->router.score == MOECL_SCORE_HIERARCHICAL ? options->router.groups : 0;
    moecl_layer_weights *layer = &weights->layer;
    layer->experts = weights->experts;
    layer->router = make_matrix(maker, outputs + groups, hidden, PART_ROUTER);
    make_ties(maker, &layer->router, outputs);
    for (size_t e = 0; e < options->experts; e++) {
        const moecl_expert_weights expert = make_expert(maker, &options->function, width, options->intermediate, e);
        if (weights->experts)
            weights->experts[e] = expert;
    }
    if (options->shared_intermediate)
        layer->shared =
            make_expert(maker, &options->shared_function, hidden, options->shared_intermediate, PART_SHARED);
    if (options->shared_gate != MOECL_SHARED_GATE_NONE)
        layer->shared_gate =
            make_matrix(maker, options->shared_gate == MOECL_SHARED_GATE_SOFTMAX ? 2 : 1, hidden, PART_SHARED_GATE);
    if (options->router.noise)
        layer->noise = make_matrix(maker, outputs, hidden, PART_NOISE);
    if (options->latent) {
        layer->latent_down = make_matrix(maker, width, hidden, PART_LATENT_DOWN);
        layer->latent_up = make_matrix(maker, hidden, width, PART_LATENT_UP);
    }
    make_vectors(maker, options, layer);
    make_table(maker, options, layer);
}

static size_t count_bytes(const moecl_layer_options *options, moecl_type type)
{
    struct maker maker = {NULL, 0, type, 0};
    struct weights nothing = {.memory = NULL};
    make_layer(&maker, options, &nothing);
    return maker.bytes;
}

double weights_bytes(const moecl_layer_options *options, moecl_type type)
{
    return (double)count_bytes(options, type);
}

enum outcome weights_make(struct weights *weights, const moecl_layer_options *options, moecl_type type, uint64_t seed,
                          struct fault *fault)
{
    weights->memory = malloc(count_bytes(options, type));
    weights->experts = calloc(options->experts, sizeof(*weights->experts));
    if (!weights->memory || !weights->experts) {
        weights_free(weights);
        return fault_memory(fault, "the weights");
    }
    struct maker maker = {weights->memory, 0, type, seed};
    make_layer(&maker, options, weights);
    return OUTCOME_SUCCESS;
}

void weights_free(struct weights *weights)
{
    free(weights->experts);
    free(weights->memory);
    *weights = (struct weights){.memory = NULL};
}
