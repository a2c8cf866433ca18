/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint.c - the tensors of a checkpoint. */
#include "checkpoint.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "device/memory.h"
#include "gguf.h"
#include "json.h"
#include "safetensors.h"

static moecl_status join_path(struct moecl_error *error, const char *directory, const char *name, char **path)
{
    *path = moecl_format("%s/%s", directory, name);
    return *path ? MOECL_OK : moecl_error_set(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for a path", directory);
}

/* Opens a file as the next of `files`; a GGUF file's pairs go to *pairs, of others that is NULL. */
static moecl_status add_file(struct moecl_error *error, const char *path, struct moecl_checkpoint *checkpoint,
                             json_t **pairs)
{
    moecl_status status = MOECL_OK;
    size_t count = checkpoint->file_count;
    struct moecl_tensor_file *files = moecl_reallocate(checkpoint->files, count + 1, sizeof *files);

    if (!files)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for %zu files", path, count + 1);
    checkpoint->files = files;
    if (pairs)
        TRY(moecl_gguf_open(error, path, &files[count], pairs));
    else
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
    TRY(add_file(error, path, checkpoint, NULL));
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
        TRY(add_file(error, single, checkpoint, NULL));
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

/* --------------------------------------------------------------------------------------------------- GGUF files -- */

/* A number that a shard's pairs say of it; `otherwise` where they say nothing. */
static size_t shard_number(const json_t *pairs, const char *key, size_t otherwise)
{
    const json_t *value = json_object_get(pairs, key);
    return json_is_integer(value) && json_integer_value(value) >= 0 ? (size_t)json_integer_value(value) : otherwise;
}

/* The path of shard `number`, counted from 0, of those whose first one is `first`. */
static moecl_status find_shard_path(struct moecl_error *error, const char *first, size_t number, size_t shards,
                                    char **path)
{
    char ending[64];
    const int ending_length = snprintf(ending, sizeof ending, "-00001-of-%05zu.gguf", shards);
    const size_t length = strlen(first), common = length - (size_t)ending_length;

    *path = NULL;
    if (length <= (size_t)ending_length || strcmp(first + common, ending) != 0)
        return moecl_error_set(error, MOECL_BAD_FILE,
                               "%s: it is one of %zu shards, but not named as the first of them, NAME%s", first, shards,
                               ending);
    *path = moecl_format("%.*s-%05zu-of-%05zu.gguf", (int)common, first, number + 1, shards);
    return *path ? MOECL_OK : moecl_error_set(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for a path", first);
}

/* No tensor of the last file is in one before. */
static moecl_status check_names(struct moecl_error *error, const struct moecl_checkpoint *checkpoint)
{
    const struct moecl_tensor_file *last = &checkpoint->files[checkpoint->file_count - 1];
    for (size_t i = 0; i + 1 < checkpoint->file_count; i++)
        for (size_t j = 0; j < last->count; j++)
            if (moecl_tensor_file_find(&checkpoint->files[i], last->tensors[j].name))
                return moecl_error_set(error, MOECL_BAD_FILE, "%s: tensor \"%s\" is in %s too", last->path,
                                       QUOTE(last->tensors[j].name), checkpoint->files[i].path);
    return MOECL_OK;
}

static moecl_status add_gguf_shard(struct moecl_error *error, const char *first, size_t number, size_t shards,
                                   struct moecl_checkpoint *checkpoint)
{
    moecl_status status = MOECL_OK;
    json_t *pairs = NULL;
    char *path = NULL;

    TRY(find_shard_path(error, first, number, shards, &path));
    TRY(add_file(error, path, checkpoint, &pairs));
    if (shard_number(pairs, "split.no", number) != number || shard_number(pairs, "split.count", shards) != shards)
        FAIL(error, MOECL_BAD_FILE, "%s: by its \"split.no\" and \"split.count\" it is not shard %zu of %zu", path,
             number, shards);
    TRY(check_names(error, checkpoint));
out:
    json_decref(pairs);
    moecl_free(path);
    return status;
}

moecl_status moecl_checkpoint_open_gguf(struct moecl_error *error, const char *path,
                                        struct moecl_checkpoint *checkpoint, json_t **pairs)
{
    moecl_status status = MOECL_OK;
    size_t shards, tensors = 0;

    *checkpoint = (struct moecl_checkpoint){0};
    *pairs = NULL;
    TRY(add_file(error, path, checkpoint, pairs));
    shards = shard_number(*pairs, "split.count", 1);
    if (shards > 1 && shard_number(*pairs, "split.no", 0) != 0)
        FAIL(error, MOECL_BAD_FILE, "%s: it is not the first of its %zu shards, which is the one to open", path,
             shards);
    for (size_t i = 1; i < shards; i++)
        TRY(add_gguf_shard(error, path, i, shards, checkpoint));
    for (size_t i = 0; i < checkpoint->file_count; i++)
        tensors += checkpoint->files[i].count;
    if (shard_number(*pairs, "split.tensors.count", tensors) != tensors)
        FAIL(error, MOECL_BAD_FILE, "%s: the files have %zu tensors, not as many as \"split.tensors.count\" says", path,
             tensors);
out:
    if (status != MOECL_OK) {
        moecl_checkpoint_close(checkpoint);
        json_decref(*pairs);
        *pairs = NULL;
    }
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
    const struct moecl_tensor *tensor = NULL;
    if (checkpoint->index) {
        const json_t *weight_map = json_object_get(checkpoint->index, "weight_map");
        const char *shard = json_string_value(json_object_get(weight_map, name));
        return shard ? moecl_tensor_file_find(find_shard(checkpoint, shard), name) : NULL;
    }
    for (size_t i = 0; !tensor && i < checkpoint->file_count; i++)
        tensor = moecl_tensor_file_find(&checkpoint->files[i], name);
    return tensor;
}

void moecl_checkpoint_drop(const struct moecl_checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint->file_count; i++)
        moecl_mapping_drop(&checkpoint->files[i].mapping);
}
