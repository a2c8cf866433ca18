/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint.h - the tensors of a checkpoint directory: those of model.safetensors, or of the shards that
 * model.safetensors.index.json names. */
#ifndef MOECL_RUNTIME_CHECKPOINT_H
#define MOECL_RUNTIME_CHECKPOINT_H

#include <jansson.h>

#include "safetensors.h"

struct moecl_checkpoint {
    size_t file_count;
    struct moecl_tensor_file *files;
    /* both NULL where there is one file */
    json_t *index;  /* {"weight_map": {tensor: shard, ...}} */
    json_t *shards; /* {shard: its place in `files`, ...} */
};

/* Maps and checks all files. An index is held to its word: every shard must be a file of the directory and have the
 * tensors that are said to be in it. MOECL_FILE_ERROR, MOECL_BAD_FILE. */
moecl_status moecl_checkpoint_open(struct moecl_error *error, const char *directory,
                                   struct moecl_checkpoint *checkpoint);
/* Zeroes it; a zeroed checkpoint is allowed. */
void moecl_checkpoint_close(struct moecl_checkpoint *checkpoint);

/* NULL where there is none. Valid until the checkpoint is closed. */
const struct moecl_tensor *moecl_checkpoint_find(const struct moecl_checkpoint *checkpoint, const char *name);
/* Gives the resident pages of all files back; they come again when they are read. */
void moecl_checkpoint_drop(const struct moecl_checkpoint *checkpoint);

#endif
