/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint.h - checkpoint directories to read with nothing of the library, to split, and to spoil. */
#ifndef MOECL_TESTS_CHECKPOINT_H
#define MOECL_TESTS_CHECKPOINT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* A safetensors file in memory. */
struct tensors {
    char *bytes;
    json_t *header;
    const char *data; /* in `bytes`, behind the header */
};
struct tensors tensors_read(const char *directory, const char *name);
void tensors_free(struct tensors *tensors);

/* A scratch directory with the config.json and the model.safetensors of another. */
char *checkpoint_copy(const char *from);
/* Splits model.safetensors into shards with an index: tensor i of the file goes to shard i % shards + 1. */
void checkpoint_split(const char *directory, size_t shards);
/* Replaces `from` in a file, once or everywhere; there must be one. The header of a safetensors file keeps its length
 * where `to` is as long as `from`. */
void checkpoint_edit(const char *directory, const char *name, const char *from, const char *to, bool everywhere);

#endif
