/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint.c - checkpoint directories to read with nothing of the library, to split, and to spoil. */
#include "checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "scratch.h"

static const char single[] = "model.safetensors";
static const char metadata[] = "__metadata__";

struct tensors tensors_read(const char *directory, const char *name)
{
    struct tensors tensors;
    size_t size;
    uint64_t length; /* little-endian, as every machine that runs this */
    tensors.bytes = scratch_read(directory, name, &size);
    memcpy(&length, tensors.bytes, sizeof length);
    tensors.header = json_loadb(tensors.bytes + sizeof length, (size_t)length, 0, NULL);
    assert_non_null(tensors.header);
    tensors.data = tensors.bytes + sizeof length + length;
    return tensors;
}

void tensors_free(struct tensors *tensors)
{
    json_decref(tensors->header);
    free(tensors->bytes);
}

char *checkpoint_copy(const char *from)
{
    static const char *const names[] = {"config.json", single};
    char *directory = scratch_make();
    for (size_t i = 0; i < 2; i++) {
        size_t size;
        char *bytes = scratch_read(from, names[i], &size);
        scratch_write(directory, names[i], bytes, size);
        free(bytes);
    }
    return directory;
}

static void write_shard(const char *directory, const char *shard, const struct tensors *tensors, json_t *weight_map)
{
    json_t *header = json_object();
    size_t size = 0;
    char *data = make(1, 1);
    const char *name;
    json_t *value;

    json_object_foreach(weight_map, name, value)
    {
        json_int_t begin, end;
        if (strcmp(json_string_value(value), shard) != 0)
            continue;
        json_t *entry = json_deep_copy(json_object_get(tensors->header, name));
        assert_int_equal(json_unpack(entry, "{s:[I,I]}", "data_offsets", &begin, &end), 0);
        size_t bytes = (size_t)(end - begin);
        data = realloc(data, size + bytes);
        assert_non_null(data);
        memcpy(data + size, tensors->data + begin, bytes);
        json_t *offsets = json_pack("[I,I]", (json_int_t)size, (json_int_t)size + (end - begin));
        assert_int_equal(json_object_set_new(entry, "data_offsets", offsets), 0);
        assert_int_equal(json_object_set_new(header, name, entry), 0);
        size += bytes;
    }
    char *text = json_dumps(header, 0);
    uint64_t length = strlen(text);
    char *file = malloc(sizeof length + length + size);
    assert_non_null(file);
    memcpy(file, &length, sizeof length);
    memcpy(file + sizeof length, text, length);
    memcpy(file + sizeof length + length, data, size);
    scratch_write(directory, shard, file, sizeof length + length + size);
    free(file);
    free(text);
    free(data);
    json_decref(header);
}

void checkpoint_split(const char *directory, size_t shards)
{
    struct tensors tensors = tensors_read(directory, single);
    json_t *weight_map = json_object();
    char shard[64];
    const char *name;
    json_t *value;
    size_t i = 0;

    json_object_foreach(tensors.header, name, value)
    {
        if (strcmp(name, metadata) == 0)
            continue;
        (void)snprintf(shard, sizeof shard, "model-%05zu-of-%05zu.safetensors", i++ % shards + 1, shards);
        assert_int_equal(json_object_set_new(weight_map, name, json_string(shard)), 0);
    }
    for (i = 1; i <= shards; i++) {
        (void)snprintf(shard, sizeof shard, "model-%05zu-of-%05zu.safetensors", i, shards);
        write_shard(directory, shard, &tensors, weight_map);
    }
    json_t *index = json_pack("{s:{}, s:o}", "metadata", "weight_map", weight_map);
    char *text = json_dumps(index, JSON_INDENT(2));
    scratch_write(directory, "model.safetensors.index.json", text, strlen(text));
    free(text);
    json_decref(index);
    tensors_free(&tensors);

    char *path = scratch_path(directory, single);
    assert_int_equal(remove(path), 0);
    free(path);
}

/* memmem() for a text in bytes. */
static const char *find(const char *bytes, size_t size, const char *text)
{
    size_t length = strlen(text);
    for (size_t at = 0; at + length <= size; at++)
        if (memcmp(bytes + at, text, length) == 0)
            return bytes + at;
    return NULL;
}

void checkpoint_edit(const char *directory, const char *name, const char *from, const char *to, bool everywhere)
{
    size_t size, written = 0, from_length = strlen(from), to_length = strlen(to);
    char *bytes = scratch_read(directory, name, &size);
    char *edited = malloc(size * (to_length / from_length + 1) + to_length);
    const char *rest = bytes, *end = bytes + size, *found = find(rest, size, from);
    assert_non_null(edited);
    assert_non_null(found);
    do {
        size_t before = (size_t)(found - rest);
        memcpy(edited + written, rest, before);
        memcpy(edited + written + before, to, to_length);
        written += before + to_length;
        rest = found + from_length;
        found = find(rest, (size_t)(end - rest), from);
    } while (everywhere && found);
    memcpy(edited + written, rest, (size_t)(end - rest));
    written += (size_t)(end - rest);
    scratch_write(directory, name, edited, written);
    free(edited);
    free(bytes);
}
