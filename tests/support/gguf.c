/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.c - GGUF files, made with nothing of the library. */
#include "gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "scratch.h"

/* ---------------------------------------------------------------------------------------------------- a file -- */

void gguf_append(struct gguf_part *part, const void *bytes, size_t size)
{
    part->bytes = realloc(part->bytes, part->size + size + 1);
    assert_non_null(part->bytes);
    if (size > 0)
        memcpy(part->bytes + part->size, bytes, size);
    part->size += size;
}

void gguf_append_number(struct gguf_part *part, uint64_t number, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)(number >> 8 * i);
        gguf_append(part, &byte, 1);
    }
}

void gguf_append_string(struct gguf_part *part, const char *text)
{
    gguf_append_number(part, strlen(text), 8);
    gguf_append(part, text, strlen(text));
}

static void append_value(struct gguf_part *part, enum gguf_kind kind, double value)
{
    static const size_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    const float single = (float)value;
    if (kind == GGUF_F32)
        gguf_append(part, &single, sizeof single);
    else if (kind == GGUF_F64)
        gguf_append(part, &value, sizeof value);
    else
        gguf_append_number(part, (uint64_t)(int64_t)value, bytes[kind]);
}

void gguf_pair(struct gguf *gguf, const char *key, enum gguf_kind kind, double value)
{
    gguf_append_string(&gguf->pairs, key);
    gguf_append_number(&gguf->pairs, kind, 4);
    append_value(&gguf->pairs, kind, value);
    gguf->pair_count++;
}

void gguf_pair_string(struct gguf *gguf, const char *key, const char *value)
{
    gguf_append_string(&gguf->pairs, key);
    gguf_append_number(&gguf->pairs, GGUF_STRING, 4);
    gguf_append_string(&gguf->pairs, value);
    gguf->pair_count++;
}

void gguf_pair_array(struct gguf *gguf, const char *key, enum gguf_kind kind, const double *values, size_t count)
{
    gguf_append_string(&gguf->pairs, key);
    gguf_append_number(&gguf->pairs, GGUF_ARRAY, 4);
    gguf_append_number(&gguf->pairs, kind, 4);
    gguf_append_number(&gguf->pairs, count, 8);
    for (size_t i = 0; i < count; i++)
        append_value(&gguf->pairs, kind, values[i]);
    gguf->pair_count++;
}

static void pad(struct gguf_part *part, size_t alignment)
{
    while (part->size % alignment != 0)
        gguf_append_number(part, 0, 1);
}

static size_t alignment_of(const struct gguf *gguf)
{
    return gguf->alignment ? gguf->alignment : 32;
}

void gguf_tensor(struct gguf *gguf, const char *name, uint32_t type, size_t rank, const size_t *shape, const void *data,
                 size_t size)
{
    pad(&gguf->data, alignment_of(gguf));
    gguf_append_string(&gguf->tensors, name);
    gguf_append_number(&gguf->tensors, rank, 4);
    for (size_t i = rank; i-- > 0;)
        gguf_append_number(&gguf->tensors, shape[i], 8);
    gguf_append_number(&gguf->tensors, type, 4);
    gguf_append_number(&gguf->tensors, gguf->data.size, 8);
    gguf_append(&gguf->data, data, size);
    gguf->tensor_count++;
}

unsigned char *gguf_finish(struct gguf *gguf, size_t *size)
{
    struct gguf_part file = {NULL, 0};
    gguf_append(&file, "GGUF", 4);
    gguf_append_number(&file, gguf->version ? gguf->version : 3, 4);
    gguf_append_number(&file, gguf->tensor_count, 8);
    gguf_append_number(&file, gguf->pair_count, 8);
    gguf_append(&file, gguf->pairs.bytes, gguf->pairs.size);
    gguf_append(&file, gguf->tensors.bytes, gguf->tensors.size);
    if (gguf->tensor_count > 0)
        pad(&file, alignment_of(gguf));
    gguf_append(&file, gguf->data.bytes, gguf->data.size);
    free(gguf->pairs.bytes);
    free(gguf->tensors.bytes);
    free(gguf->data.bytes);
    *gguf = (struct gguf){.version = 0};
    *size = file.size;
    return file.bytes;
}

void gguf_finish_file(struct gguf *gguf, const char *directory, const char *name)
{
    size_t size;
    unsigned char *bytes = gguf_finish(gguf, &size);
    scratch_write(directory, name, bytes, size);
    free(bytes);
}

/* --------------------------------------------------------------------------------------------------- a layer -- */

/* The elements of a matrix, row by row, behind those at `to`. */
static void *gather(const moecl_matrix *matrix, char *to)
{
    const size_t size = moecl_type_size(matrix->type);
    const size_t row_stride = matrix->row_stride ? matrix->row_stride : matrix->columns;
    const size_t column_stride = matrix->column_stride ? matrix->column_stride : 1;
    for (size_t row = 0; row < matrix->rows; row++)
        for (size_t column = 0; column < matrix->columns; column++, to += size)
            memcpy(to, (const char *)matrix->data + (row * row_stride + column * column_stride) * size, size);
    return to;
}

static uint32_t type_of(const moecl_matrix *matrix)
{
    return matrix->type == MOECL_F32 ? GGUF_TYPE_F32 : matrix->type == MOECL_F16 ? GGUF_TYPE_F16 : GGUF_TYPE_BF16;
}

/* One matrix of each of `count` experts in a tensor [count,rows,columns]; a vector, [1,n], has no rows there, nor has
 * a single matrix a count. */
static void stack(struct gguf *gguf, size_t layer, const char *name, const moecl_matrix *first, size_t step,
                  size_t count, bool vector)
{
    size_t shape[3], rank = 0;
    char full[64];
    if (!first->data)
        return;
    const size_t size = count * first->rows * first->columns * moecl_type_size(first->type);
    char *data = make(size, 1), *end = data;
    for (size_t i = 0; i < count; i++)
        end = gather((const moecl_matrix *)((const char *)first + i * step), end);
    if (count > 1)
        shape[rank++] = count;
    if (!vector)
        shape[rank++] = first->rows;
    shape[rank++] = first->columns;
    snprintf(full, sizeof full, "blk.%zu.%s", layer, name);
    gguf_tensor(gguf, full, type_of(first), rank, shape, data, size);
    free(data);
}

static void single(struct gguf *gguf, size_t layer, const char *name, const moecl_matrix *matrix, bool vector)
{
    stack(gguf, layer, name, matrix, 0, 1, vector);
}

void gguf_layer(struct gguf *gguf, size_t layer, const moecl_layer_options *options, const moecl_layer_weights *weights)
{
    const moecl_expert_weights *experts = weights->experts, *shared = &weights->shared;
    const size_t count = options->experts, step = sizeof *experts;
    single(gguf, layer, "ffn_gate_inp.weight", &weights->router, false);
    single(gguf, layer, "ffn_gate_inp.bias", &weights->vectors[MOECL_VECTOR_ROUTER_BIAS], true);
    single(gguf, layer, "exp_probs_b.bias", &weights->vectors[MOECL_VECTOR_SELECTION_BIAS], true);
    single(gguf, layer, "ffn_down_exps.scale", &weights->vectors[MOECL_VECTOR_EXPERT_SCALE], true);
    single(gguf, layer, "ffn_gate_inp.scale", &weights->vectors[MOECL_VECTOR_ROUTER_NORM], true);
    single(gguf, layer, "pre_ffw_norm_2.weight", &weights->vectors[MOECL_VECTOR_EXPERT_NORM], true);
    stack(gguf, layer, "ffn_gate_exps.weight", &experts->gate, step, count, false);
    stack(gguf, layer, "ffn_up_exps.weight", &experts->up, step, count, false);
    stack(gguf, layer, "ffn_down_exps.weight", &experts->down, step, count, false);
    stack(gguf, layer, "ffn_gate_exps.bias", &experts->gate_bias, step, count, true);
    stack(gguf, layer, "ffn_up_exps.bias", &experts->up_bias, step, count, true);
    stack(gguf, layer, "ffn_down_exps.bias", &experts->down_bias, step, count, true);
    single(gguf, layer, "ffn_gate_shexp.weight", &shared->gate, false);
    single(gguf, layer, "ffn_up_shexp.weight", &shared->up, false);
    single(gguf, layer, "ffn_down_shexp.weight", &shared->down, false);
    single(gguf, layer, "ffn_gate_inp_shexp.weight", &weights->shared_gate, true);
    single(gguf, layer, "ffn_latent_down.weight", &weights->latent_down, false);
    single(gguf, layer, "ffn_latent_up.weight", &weights->latent_up, false);
}
