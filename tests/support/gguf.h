/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.h - GGUF files to read, made with nothing of the library; and checkpoint directories as such files. */
#ifndef MOECL_TESTS_GGUF_H
#define MOECL_TESTS_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <moecl/model.h>

/* The kinds of values, as the format numbers them. */
enum gguf_kind {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};
/* Some types of tensors. */
enum gguf_type { GGUF_TYPE_F32 = 0, GGUF_TYPE_F16 = 1, GGUF_TYPE_Q4_0 = 2, GGUF_TYPE_Q4_K = 12, GGUF_TYPE_BF16 = 30 };

struct gguf_part {
    unsigned char *bytes;
    size_t size;
};

/* A file as it grows. Zero-initialise; `alignment` 0: 32. */
struct gguf {
    uint32_t version; /* 0: 3 */
    size_t alignment;
    uint64_t pair_count, tensor_count;
    struct gguf_part pairs, tensors, data;
};

/* Little-endian bytes at a part's end. */
void gguf_append(struct gguf_part *part, const void *bytes, size_t size);
void gguf_append_number(struct gguf_part *part, uint64_t number, size_t bytes);
void gguf_append_string(struct gguf_part *part, const char *text);

/* A pair; the value is converted to its kind, which is a number or a boolean. */
void gguf_pair(struct gguf *gguf, const char *key, enum gguf_kind kind, double value);
void gguf_pair_string(struct gguf *gguf, const char *key, const char *value);
void gguf_pair_array(struct gguf *gguf, const char *key, enum gguf_kind kind, const double *values, size_t count);
/* A tensor; `shape` is row-major. */
void gguf_tensor(struct gguf *gguf, const char *name, uint32_t type, size_t rank, const size_t *shape, const void *data,
                 size_t size);

/* The file's bytes in fresh memory, and the parts freed. */
unsigned char *gguf_finish(struct gguf *gguf, size_t *size);
void gguf_finish_file(struct gguf *gguf, const char *directory, const char *name);

/* Adds the tensors of an MoE layer under llama.cpp's names and in its layout. */
void gguf_layer(struct gguf *gguf, size_t layer, const moecl_layer_options *options,
                const moecl_layer_weights *weights);

#endif
