/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.c - the safetensors format; the header file draws it. */
#include "safetensors.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "device/memory.h"
#include "json.h"

/* Types narrower than a byte are left out: their tensors count as of an unknown dtype, which is no error until one is
 * asked for. */
static const struct dtype {
    const char *name;
    size_t bytes;
} dtypes[] = {
    {"F32", 4}, {"F16", 2},  {"BF16", 2},    {"F64", 8},     {"C64", 8},     {"I64", 8},
    {"U64", 8}, {"I32", 4},  {"U32", 4},     {"I16", 2},     {"U16", 2},     {"I8", 1},
    {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1},
};

static const struct dtype *dtype_find(const char *name)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    return NULL;
}

/* ---------------------------------------------------------------------------------------------------- parsing -- */

struct reader {
    struct moecl_error *error;
    const char *path;
    const char *data; /* behind the header */
    size_t size;
};

static const char metadata_name[] = "__metadata__";

static moecl_status bad_tensor(const struct reader *reader, const char *name, const char *what)
{
    return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: tensor \"%s\": %s", reader->path, QUOTE(name), what);
}

static bool read_size(const json_t *value, size_t *size)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *size = (size_t)json_integer_value(value);
    return (json_int_t)*size == json_integer_value(value);
}

static moecl_status read_shape(const struct reader *reader, const json_t *shape, struct moecl_tensor *tensor,
                               size_t *elements)
{
    const json_t *entry;
    size_t i, dimension = 0;

    if (!json_is_array(shape))
        return bad_tensor(reader, tensor->name, "it has no \"shape\" that is an array");
    tensor->rank = json_array_size(shape);
    for (i = 0; i < MOECL_TENSOR_DIMENSIONS; i++)
        tensor->shape[i] = 1;
    *elements = 1;
    json_array_foreach(shape, i, entry)
    {
        if (!read_size(entry, &dimension))
            return bad_tensor(reader, tensor->name, "a dimension of its \"shape\" is no size");
        if (!moecl_size_multiply(*elements, dimension, elements))
            return bad_tensor(reader, tensor->name, "its \"shape\" has more elements than fit any memory");
        if (i < MOECL_TENSOR_DIMENSIONS)
            tensor->shape[i] = dimension;
    }
    return MOECL_OK;
}

static moecl_status read_offsets(const struct reader *reader, const json_t *offsets, struct moecl_tensor *tensor)
{
    size_t begin = 0, end = 0;

    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !read_size(json_array_get(offsets, 0), &begin) ||
        !read_size(json_array_get(offsets, 1), &end))
        return bad_tensor(reader, tensor->name, "it has no \"data_offsets\" that are two sizes");
    if (begin > end || end > reader->size)
        return moecl_error_set(
            reader->error, MOECL_BAD_FILE,
            "%s: tensor \"%s\": its data_offsets %zu to %zu do not lie in the file's %zu bytes of data", reader->path,
            QUOTE(tensor->name), begin, end, reader->size);
    tensor->data = reader->data + begin;
    tensor->size = end - begin;
    return MOECL_OK;
}

static moecl_status read_tensor(const struct reader *reader, const json_t *entry, struct moecl_tensor *tensor)
{
    moecl_status status = MOECL_OK;
    size_t elements = 0, bytes = 0;

    if (!json_is_object(entry))
        return bad_tensor(reader, tensor->name, "its entry is not an object");
    const char *dtype_name = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype_name)
        return bad_tensor(reader, tensor->name, "it has no \"dtype\" that is a string");
    TRY(read_shape(reader, json_object_get(entry, "shape"), tensor, &elements));
    TRY(read_offsets(reader, json_object_get(entry, "data_offsets"), tensor));
    strncpy(tensor->dtype, dtype_name, sizeof tensor->dtype - 1);

    const struct dtype *dtype = dtype_find(dtype_name);
    if (dtype && (!moecl_size_multiply(elements, dtype->bytes, &bytes) || bytes != tensor->size))
        FAIL(reader->error, MOECL_BAD_FILE, "%s: tensor \"%s\": %zu elements of %s do not fit its %zu bytes of data",
             reader->path, QUOTE(tensor->name), elements, dtype->name, tensor->size);
out:
    return status;
}

/* The tensors must cover the data exactly, each byte once. */
static moecl_status check_places(const struct reader *reader, struct moecl_tensor_file *file)
{
    const char *end = reader->data;

    moecl_tensor_file_sort_by_place(file);
    for (size_t i = 0; i < file->count; i++) {
        const struct moecl_tensor *tensor = &file->tensors[i];
        if (tensor->data < end)
            return bad_tensor(reader, tensor->name, "it overlaps another tensor");
        if (tensor->data > end)
            return bad_tensor(reader, tensor->name, "there is a gap in the data before it");
        end += tensor->size;
    }
    if (end != reader->data + reader->size)
        return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: %zu bytes behind the last tensor", reader->path,
                               (size_t)(reader->data + reader->size - end));
    return MOECL_OK;
}

static moecl_status read_header(const struct reader *reader, json_t *header, struct moecl_tensor_file *file)
{
    moecl_status status = MOECL_OK;
    const char *name;
    json_t *entry;
    size_t name_bytes = 0;

    json_object_foreach(header, name, entry) name_bytes += strlen(name) + 1;
    file->path = moecl_duplicate(reader->path);
    file->names = moecl_allocate(name_bytes, 1);
    file->tensors = moecl_allocate(json_object_size(header), sizeof *file->tensors);
    if (!file->path || !file->names || !file->tensors)
        FAIL(reader->error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for %zu tensors", reader->path,
             json_object_size(header));

    char *end = file->names;
    json_object_foreach(header, name, entry)
    {
        if (strcmp(name, metadata_name) == 0)
            continue;
        struct moecl_tensor *tensor = &file->tensors[file->count++];
        tensor->file = file->path;
        tensor->name = strcpy(end, name);
        end += strlen(name) + 1;
        TRY(read_tensor(reader, entry, tensor));
    }
    TRY(check_places(reader, file));
    moecl_tensor_file_sort_by_name(file);
out:
    return status;
}

moecl_status moecl_safetensors_parse(struct moecl_error *error, const char *path, const void *data, size_t size,
                                     struct moecl_tensor_file *file)
{
    moecl_status status = MOECL_OK;
    const unsigned char *bytes = data;
    enum { LENGTH_BYTES = 8 };
    json_t *header = NULL;
    uint64_t length = 0;

    *file = (struct moecl_tensor_file){0};
    if (size < LENGTH_BYTES)
        FAIL(error, MOECL_BAD_FILE, "%s: %zu bytes are too few for a safetensors file", path, size);
    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)bytes[i] << 8 * i;
    if (length > size - LENGTH_BYTES)
        FAIL(error, MOECL_BAD_FILE, "%s: the header's length, %llu bytes, is beyond the end of the file (%zu bytes)",
             path, (unsigned long long)length, size);
    const char *text = (const char *)bytes + LENGTH_BYTES;
    TRY(moecl_json_parse(error, path, text, (size_t)length, &header));

    struct reader reader = {error, path, text + length, size - LENGTH_BYTES - (size_t)length};
    TRY(read_header(&reader, header, file));
out:
    json_decref(header);
    if (status != MOECL_OK)
        moecl_tensor_file_close(file);
    return status;
}

/* -------------------------------------------------------------------------------------------------- the file -- */

moecl_status moecl_safetensors_open(struct moecl_error *error, const char *path, struct moecl_tensor_file *file)
{
    moecl_status status = MOECL_OK;
    struct moecl_mapping mapping = {0};

    *file = (struct moecl_tensor_file){0};
    TRY(moecl_mapping_open(error, path, &mapping));
    TRY(moecl_safetensors_parse(error, path, mapping.data, mapping.size, file));
    file->mapping = mapping;
    moecl_mapping_drop(&mapping); /* the header's pages */
out:
    if (status != MOECL_OK)
        moecl_mapping_close(&mapping);
    return status;
}
