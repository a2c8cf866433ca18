/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint.c - the tensors of a checkpoint directory. */
#include "checkpoint.h"

#include <string.h>
#include <unistd.h>

#include "device/memory.h"
#include "json.h"

static moecl_status join_path(struct moecl_error *error, const char *directory, const char *name, char **path)
{
    *path = moecl_format("%s/%s", directory, name);
    return *path ? MOECL_OK : moecl_error_set(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for a path", directory);
}

/* Opens a file as the next of `files`. */
static moecl_status add_file(struct moecl_error *error, const char *path, struct moecl_checkpoint *checkpoint)
{
    moecl_status status = MOECL_OK;
    size_t count = checkpoint->file_count;
    struct moecl_tensor_file *files = moecl_reallocate(checkpoint->files, count + 1, sizeof *files);

    if (!files)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for %zu files", path, count + 1);
    checkpoint->files = files;
    TRY(moecl_safetensors_open(error, path, &files[count]));
    checkpoint->file_count++;
out:
    return status;
}

static const struct moecl_tensor_file *find_shard(const struct moecl_checkpoint *checkpoint, const char *shard)
{
    const json_t *place = json_object_get(checkpoint->shards, shard);
    return place ? &checkpoint->files[json_integer_value(place)] : NULL;
}

static moecl_status add_shard(struct moecl_error *error, const char *directory, const char *shard,
                              struct moecl_checkpoint *checkpoint)
{
    moecl_status status = MOECL_OK;
    char *path = NULL;

    if (strchr(shard, '/') || strcmp(shard, "") == 0 || strcmp(shard, ".") == 0 || strcmp(shard, "..") == 0)
        FAIL(error, MOECL_BAD_FILE, "%s: the index names the shard \"%s\", which is not the plain name of a file",
             directory, QUOTE(shard));
    TRY(join_path(error, directory, shard, &path));
    TRY(add_file(error, path, checkpoint));
    if (json_object_set_new(checkpoint->shards, shard, json_integer((json_int_t)checkpoint->file_count - 1)) != 0)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for its name", path);
out:
    moecl_free(path);
    return status;
}

static moecl_status read_index(struct moecl_error *error, const char *path, struct moecl_checkpoint *checkpoint)
{
    moecl_status status = MOECL_OK;
    struct moecl_mapping mapping = {0};

    TRY(moecl_mapping_open(error, path, &mapping));
    TRY(moecl_json_parse(error, path, mapping.data, mapping.size, &checkpoint->index));
    const json_t *weight_map = json_object_get(checkpoint->index, "weight_map");
    if (!json_is_object(weight_map))
        FAIL(error, MOECL_BAD_FILE, "%s: \"weight_map\" is %s, expected an object", path, moecl_json_kind(weight_map));
    checkpoint->shards = json_object();
    if (!checkpoint->shards)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for its shards", path);
out:
    moecl_mapping_close(&mapping);
    return status;
}

static moecl_status open_shards(struct moecl_error *error, const char *directory, const char *index_path,
                                struct moecl_checkpoint *checkpoint)
{
    moecl_status status = MOECL_OK;
    const char *tensor;
    json_t *entry;

    TRY(read_index(error, index_path, checkpoint));
    json_object_foreach(json_object_get(checkpoint->index, "weight_map"), tensor, entry)
    {
        const char *shard = json_string_value(entry);
        if (!shard)
            FAIL(error, MOECL_BAD_FILE, "%s: the shard of \"%s\" is %s, expected a string", index_path, QUOTE(tensor),
                 moecl_json_kind(entry));
        if (!find_shard(checkpoint, shard))
            TRY(add_shard(error, directory, shard, checkpoint));
        if (!moecl_tensor_file_find(find_shard(checkpoint, shard), tensor))
            FAIL(error, MOECL_BAD_FILE, "%s: tensor \"%s\" is not in its shard, \"%s\"", index_path, QUOTE(tensor),
                 QUOTE(shard));
    }
out:
    return status;
}

moecl_status moecl_checkpoint_open(struct moecl_error *error, const char *directory,
                                   struct moecl_checkpoint *checkpoint)
{
    moecl_status status = MOECL_OK;
    char *single = NULL, *index = NULL;

    *checkpoint = (struct moecl_checkpoint){0};
    TRY(join_path(error, directory, "model.safetensors", &single));
    TRY(join_path(error, directory, "model.safetensors.index.json", &index));
    if (access(single, F_OK) == 0)
        TRY(add_file(error, single, checkpoint));
    else if (access(index, F_OK) == 0)
        TRY(open_shards(error, directory, index, checkpoint));
    else
        FAIL(error, MOECL_FILE_ERROR, "%s holds neither model.safetensors nor model.safetensors.index.json", directory);
out:
    moecl_free(single);
    moecl_free(index);
    if (status != MOECL_OK)
        moecl_checkpoint_close(checkpoint);
    return status;
}

void moecl_checkpoint_close(struct moecl_checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint->file_count; i++)
        moecl_tensor_file_close(&checkpoint->files[i]);
    moecl_free(checkpoint->files);
    json_decref(checkpoint->index);
    json_decref(checkpoint->shards);
    *checkpoint = (struct moecl_checkpoint){0};
}

const struct moecl_tensor *moecl_checkpoint_find(const struct moecl_checkpoint *checkpoint, const char *name)
{
    const struct moecl_tensor_file *file = checkpoint->files;
    if (checkpoint->index) {
        const json_t *weight_map = json_object_get(checkpoint->index, "weight_map");
        const char *shard = json_string_value(json_object_get(weight_map, name));
        file = shard ? find_shard(checkpoint, shard) : NULL;
    }
    return file ? moecl_tensor_file_find(file, name) : NULL;
}

void moecl_checkpoint_drop(const struct moecl_checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint->file_count; i++)
        moecl_mapping_drop(&checkpoint->files[i].mapping);
}
