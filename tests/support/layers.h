/* SPDX-License-Identifier: Apache-2.0 */
/* layers.h - layers with random weights. */
#ifndef MOECL_TESTS_LAYERS_H
#define MOECL_TESTS_LAYERS_H

#include <moecl/reference.h>

#include "check.h"

/* Random options of a small layer, for every variant and type in turn; `number` counts the cases. */
moecl_layer_options random_options(uint64_t *seed, size_t number);
/* 0 to `most`, and one in every fourth case: a layer takes one token in a way of its own. */
size_t random_tokens(uint64_t *seed, size_t most);
/* Says what a case is, so that a failure can be repeated. */
void print_case(const moecl_layer_options *options, size_t tokens, uint64_t seed);

/* Weights in host memory. All are scaled so that a normally distributed x gives outputs of the order of 1. */
struct host_layer {
    moecl_layer_options options;
    moecl_layer_weights weights;
    moecl_expert_weights *experts; /* what weights.experts points to */
};

/* Random weights, stored in host memory as `stored`: all that the options have but an id table. */
struct host_layer host_layer_make(const moecl_layer_options *options, moecl_type stored, uint64_t seed);
void host_layer_free(struct host_layer *layer);

/* A layer on the device with these weights. */
moecl_layer *host_layer_upload(moecl_context *context, const struct host_layer *layer);

/* An element of a matrix, set to `value`: to spoil it. */
void matrix_set(const moecl_matrix *matrix, size_t row, size_t column, float value);
float matrix_get(const moecl_matrix *matrix, size_t row, size_t column);

#endif
