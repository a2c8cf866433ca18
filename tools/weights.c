/* SPDX-License-Identifier: Apache-2.0 */
/* weights.c - a layer's synthetic weights. */
#include "weights.h"

#include <stdlib.h>

#include "synthetic.h"

/* Parts of a seed: the experts take 0 and up. */
enum { PART_ROUTER = 1 << 20, PART_SHARED, PART_SHARED_GATE };

static size_t layer_elements(const moecl_layer_options *options)
{
    size_t expert = 3 * options->hidden * options->intermediate;
    size_t shared = 3 * options->hidden * options->shared_intermediate;
    return options->experts * (expert + options->hidden) + shared + options->hidden;
}

double weights_bytes(const moecl_layer_options *options, moecl_type type)
{
    return (double)layer_elements(options) * (double)moecl_type_size(type);
}

/* A [rows, columns] matrix at *memory, which moves on past it. */
static moecl_matrix make_matrix(size_t rows, size_t columns, moecl_type type, uint64_t seed, char **memory)
{
    moecl_matrix matrix = {*memory, type, rows, columns, 0, 0};
    synthetic_weights(seed, columns, type, *memory, rows * columns);
    *memory += rows * columns * moecl_type_size(type);
    return matrix;
}

moecl_expert_weights weights_make_expert(size_t hidden, size_t intermediate, moecl_type type, uint64_t seed,
                                         size_t expert, void *memory)
{
    char *at = memory;
    uint64_t key = synthetic_seed(seed, expert);
    moecl_expert_weights made = {0};
    made.gate = make_matrix(intermediate, hidden, type, synthetic_seed(key, 0), &at);
    made.up = make_matrix(intermediate, hidden, type, synthetic_seed(key, 1), &at);
    made.down = make_matrix(hidden, intermediate, type, synthetic_seed(key, 2), &at);
    return made;
}

enum outcome weights_make(struct weights *weights, const moecl_layer_options *options, moecl_type type, uint64_t seed,
                          struct fault *fault)
{
    size_t hidden = options->hidden, size = moecl_type_size(type);
    weights->memory = malloc(layer_elements(options) * size);
    weights->experts = calloc(options->experts, sizeof(*weights->experts));
    if (!weights->memory || !weights->experts) {
        weights_free(weights);
        return fault_memory(fault, "the weights");
    }
    char *at = weights->memory;
    weights->layer.experts = weights->experts;
    weights->layer.router = make_matrix(options->experts, hidden, type, synthetic_seed(seed, PART_ROUTER), &at);
    for (size_t e = 0; e < options->experts; e++) {
        weights->experts[e] = weights_make_expert(hidden, options->intermediate, type, seed, e, at);
        at += 3 * hidden * options->intermediate * size;
    }
    if (options->shared_intermediate > 0) {
        weights->layer.shared = weights_make_expert(hidden, options->shared_intermediate, type, seed, PART_SHARED, at);
        at += 3 * hidden * options->shared_intermediate * size;
    }
    if (options->shared_intermediate > 0 && options->shared_gate)
        weights->layer.shared_gate = make_matrix(1, hidden, type, synthetic_seed(seed, PART_SHARED_GATE), &at);
    return OUTCOME_SUCCESS;
}

void weights_free(struct weights *weights)
{
    free(weights->experts);
    free(weights->memory);
    *weights = (struct weights){.memory = NULL};
}
