/* SPDX-License-Identifier: Apache-2.0 */
/* tokens.c - reads what a layer is run on. */
#include "tokens.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *tokens_path(const char *path, size_t layer)
{
    char number[32];
    const size_t digits = (size_t)snprintf(number, sizeof(number), "%zu", layer);
    size_t length = 0;
    for (const char *at = path; *at; at++)
        length += *at == '#' ? digits : 1;
    char *made = malloc(length + 1), *to = made;
    if (!made)
        return NULL;
    for (const char *at = path; *at; at++) {
        if (*at == '#') {
            memcpy(to, number, digits);
            to += digits;
        } else {
            *to++ = *at;
        }
    }
    *to = 0;
    return made;
}

/* ------------------------------------------------------------------------------------------------------ floats -- */

static enum outcome check_finite(const char *path, const struct npy_array *array, const char *when, struct fault *fault)
{
    const float *values = array->data;
    for (size_t i = 0; i < array->count; i++) {
        if (!isfinite(values[i]))
            return fault_set(fault, OUTCOME_ERROR, "%s holds %s in row %zu, column %zu (counted from 0)%s", path,
                             isnan(values[i]) ? "NaN" : "infinity", i / array->shape[1], i % array->shape[1], when);
    }
    return OUTCOME_SUCCESS;
}

enum outcome tokens_read_rows(const char *path, size_t hidden, struct npy_array *array, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    TRY(npy_read(path, 2, NPY_F4 | NPY_F2, array, fault));
    if (array->shape[1] != hidden)
        FAIL(OUTCOME_ERROR, "%s has rows of %zu, and the layer's hidden size is %zu", path, array->shape[1], hidden);
    TRY(npy_widen(array, fault));
    TRY(check_finite(path, array, "", fault));
out:
    return outcome;
}

static enum outcome read_activations(struct tokens *tokens, const char *path, const moecl_layer_options *options,
                                     struct fault *fault)
{
    const moecl_type type = options->activations;
    enum outcome outcome = OUTCOME_SUCCESS;
    TRY(tokens_read_rows(path, options->hidden, &tokens->x, fault));
    tokens->count = tokens->x.shape[0];
    if (tokens->count > MOECL_MAX_TOKENS)
        FAIL(OUTCOME_ERROR, "%s has %zu tokens, and a call takes at most %d", path, tokens->count, MOECL_MAX_TOKENS);
    tokens->rounded = malloc(tokens->x.count * moecl_type_size(type) + 1);
    if (!tokens->rounded) {
        outcome = fault_memory(fault, "the activations");
        goto out;
    }
    moecl_convert(tokens->x.data, MOECL_F32, tokens->rounded, type, tokens->x.count);
    moecl_convert(tokens->rounded, type, tokens->x.data, MOECL_F32, tokens->x.count);
    TRY(check_finite(path, &tokens->x, " once it is rounded to the activations' type", fault));
out:
    return outcome;
}

/* -------------------------------------------------------------------------------------------------------- ids -- */

static int64_t element(const struct npy_array *array, size_t index)
{
    return array->type == NPY_I8 ? ((const int64_t *)array->data)[index] : ((const int32_t *)array->data)[index];
}

/* The array's numbers as i32, each of them lowest to highest. */
static enum outcome take_ids(const char *path, const struct npy_array *array, int64_t lowest, int64_t highest,
                             int32_t **ids, struct fault *fault)
{
    *ids = malloc(array->count * sizeof(**ids) + 1);
    if (!*ids)
        return fault_memory(fault, "ids");
    for (size_t i = 0; i < array->count; i++) {
        const int64_t id = element(array, i);
        if (id < lowest || id > highest)
            return fault_set(fault, OUTCOME_ERROR, "%s holds %lld in row %zu (counted from 0): ids are %lld to %lld",
                             path, (long long)id, i / (array->rank > 1 ? array->shape[1] : 1), (long long)lowest,
                             (long long)highest);
        (*ids)[i] = (int32_t)id;
    }
    return OUTCOME_SUCCESS;
}

static enum outcome read_token_ids(struct tokens *tokens, const char *path, const moecl_layer_options *options,
                                   struct fault *fault)
{
    const bool table = options->router.selection == MOECL_SELECTION_TABLE;
    struct npy_array array = {.data = NULL};
    enum outcome outcome = OUTCOME_SUCCESS;
    TRY(npy_read(path, 1, NPY_I4 | NPY_I8, &array, fault));
    if (array.count != tokens->count)
        FAIL(OUTCOME_ERROR, "%s has %zu token ids, and there are %zu tokens", path, array.count, tokens->count);
    TRY(take_ids(path, &array, 0, table ? (int64_t)options->router.table_rows - 1 : INT32_MAX, &tokens->ids, fault));
out:
    npy_free(&array);
    return outcome;
}

/* ------------------------------------------------------------------------------------------------------- whole -- */

enum outcome tokens_read(struct tokens *tokens, const char *path, const char *ids_path,
                         const moecl_layer_options *options, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    if (!ids_path && options->router.selection == MOECL_SELECTION_TABLE)
        FAIL(OUTCOME_WRONG_USE, "the layer picks experts by token id: --token-ids is missing");
    TRY(read_activations(tokens, path, options, fault));
    if (ids_path)
        TRY(read_token_ids(tokens, ids_path, options, fault));
out:
    return outcome;
}

void tokens_free(struct tokens *tokens)
{
    npy_free(&tokens->x);
    free(tokens->rounded);
    free(tokens->ids);
    *tokens = (struct tokens){.count = 0};
}

enum outcome given_routing_read(struct given_routing *routing, const char *ids_path, const char *weights_path,
                                size_t tokens, const moecl_layer_options *options, struct fault *fault)
{
    const size_t slots = moecl_layer_slots(options), outputs = options->experts + options->router.zero_experts;
    struct npy_array ids = {.data = NULL};
    enum outcome outcome = OUTCOME_SUCCESS;
    TRY(npy_read(ids_path, 2, NPY_I4 | NPY_I8, &ids, fault));
    if (ids.shape[0] != tokens || ids.shape[1] != slots)
        FAIL(OUTCOME_ERROR, "%s is [%zu,%zu], and %zu tokens of %zu choices are wanted", ids_path, ids.shape[0],
             ids.shape[1], tokens, slots);
    TRY(take_ids(ids_path, &ids, -1, (int64_t)outputs - 1, &routing->ids, fault));
    TRY(npy_read(weights_path, 2, NPY_F4 | NPY_F2, &routing->weights, fault));
    if (routing->weights.shape[0] != tokens || routing->weights.shape[1] != slots)
        FAIL(OUTCOME_ERROR, "%s is [%zu,%zu], and %zu tokens of %zu choices are wanted", weights_path,
             routing->weights.shape[0], routing->weights.shape[1], tokens, slots);
    TRY(npy_widen(&routing->weights, fault));
    TRY(check_finite(weights_path, &routing->weights, "", fault));
out:
    npy_free(&ids);
    return outcome;
}

void given_routing_free(struct given_routing *routing)
{
    free(routing->ids);
    npy_free(&routing->weights);
    routing->ids = NULL;
}
