/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint.h - the tensors of a checkpoint: those of a directory's model.safetensors, or of the shards that its
 * model.safetensors.index.json names; or those of a GGUF file and of its other shards. */
#ifndef MOECL_RUNTIME_CHECKPOINT_H
#define MOECL_RUNTIME_CHECKPOINT_H

#include <jansson.h>

#include "tensor_file.h"

struct moecl_checkpoint {
    size_t file_count;
    struct moecl_tensor_file *files;
    /* both NULL where there is no index */
    json_t *index;  /* {"weight_map": {tensor: shard, ...}} */
    json_t *shards; /* {shard: its place in `files`, ...} */
};

/* Maps and checks all files. An index is held to its word: every shard must be a file of the directory and have the
 * tensors that are said to be in it. MOECL_FILE_ERROR, MOECL_BAD_FILE. */
moecl_status moecl_checkpoint_open(struct moecl_error *error, const char *directory,
                                   struct moecl_checkpoint *checkpoint);
/* The same of a GGUF file, the only one or the first of NAME-00001-of-0000N.gguf, each of which must have the number
 * that its name says. *pairs are those of the first; release them with json_decref(). */
moecl_status moecl_checkpoint_open_gguf(struct moecl_error *error, const char *path,
                                        struct moecl_checkpoint *checkpoint, json_t **pairs);
/* Zeroes it; a zeroed checkpoint is allowed. */
void moecl_checkpoint_close(struct moecl_checkpoint *checkpoint);

/* NULL where there is none. Valid until the checkpoint is closed. */
const struct moecl_tensor *moecl_checkpoint_find(const struct moecl_checkpoint *checkpoint, const char *name);
/* Gives the resident pages of all files back; they come again when they are read. */
void moecl_checkpoint_drop(const struct moecl_checkpoint *checkpoint);

#endif
