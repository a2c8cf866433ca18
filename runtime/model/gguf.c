/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.c - the GGUF format; the header file draws it. */
#include "gguf.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "device/memory.h"
#include "json.h"

/* Bounds that no model comes near: they keep the memory for a header small. */
static const size_t most_pairs = 16384;
static const size_t longest_name = 1024;
static const size_t longest_string = 1024; /* that is kept */
static const size_t longest_array = 4096;  /* that is kept: an entry a layer */
static const size_t most_entries = 262144; /* of all arrays kept */

static const size_t usual_alignment = 32;

/* Values of a type come in blocks. Numbers that are left out were types once, or are none yet: a tensor of such a type
 * is no error until it is asked for. */
static const struct dtype {
    const char *name;
    uint32_t number;
    unsigned values, bytes; /* of a block */
} dtypes[] = {
    {"F32", 0, 1, 4},         {"F16", 1, 1, 2},         {"Q4_0", 2, 32, 18},      {"Q4_1", 3, 32, 20},
    {"Q5_0", 6, 32, 22},      {"Q5_1", 7, 32, 24},      {"Q8_0", 8, 32, 34},      {"Q8_1", 9, 32, 36},
    {"Q2_K", 10, 256, 84},    {"Q3_K", 11, 256, 110},   {"Q4_K", 12, 256, 144},   {"Q5_K", 13, 256, 176},
    {"Q6_K", 14, 256, 210},   {"Q8_K", 15, 256, 292},   {"IQ2_XXS", 16, 256, 66}, {"IQ2_XS", 17, 256, 74},
    {"IQ3_XXS", 18, 256, 98}, {"IQ1_S", 19, 256, 50},   {"IQ4_NL", 20, 32, 18},   {"IQ3_S", 21, 256, 110},
    {"IQ2_S", 22, 256, 82},   {"IQ4_XS", 23, 256, 136}, {"I8", 24, 1, 1},         {"I16", 25, 1, 2},
    {"I32", 26, 1, 4},        {"I64", 27, 1, 8},        {"F64", 28, 1, 8},        {"IQ1_M", 29, 256, 56},
    {"BF16", 30, 1, 2},       {"TQ1_0", 34, 256, 54},   {"TQ2_0", 35, 256, 66},   {"MXFP4", 39, 32, 17},
};

static const struct dtype *dtype_find(uint32_t number)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (dtypes[i].number == number)
            return &dtypes[i];
    return NULL;
}

/* The kinds of values of pairs, by number. */
enum kind { U8, I8, U16, I16, U32, I32, F32, BOOLEAN, STRING, ARRAY, U64, I64, F64, KINDS };
static const size_t kind_bytes[KINDS] = {
    [U8] = 1,  [I8] = 1,      [U16] = 2, [I16] = 2, [U32] = 4, [I32] = 4,
    [F32] = 4, [BOOLEAN] = 1, [U64] = 8, [I64] = 8, [F64] = 8,
};

struct reader {
    struct moecl_error *error;
    const char *path;
    const unsigned char *data;
    size_t size, at;
    size_t alignment;
    size_t entries; /* of arrays kept */
};

/* -------------------------------------------------------------------------------------------------- numbers -- */

static moecl_status truncated(const struct reader *reader, const char *where)
{
    return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: the file ends within %s (%zu bytes)", reader->path,
                           where, reader->size);
}

/* A little-endian number of `bytes` bytes; `where` is what it is part of. */
static moecl_status read_unsigned(struct reader *reader, const char *where, size_t bytes, uint64_t *number)
{
    *number = 0;
    if (reader->size - reader->at < bytes)
        return truncated(reader, where);
    for (size_t i = 0; i < bytes; i++)
        *number |= (uint64_t)reader->data[reader->at++] << 8 * i;
    return MOECL_OK;
}

/* A string, which is not copied and has no NUL behind it. */
static moecl_status read_string(struct reader *reader, const char *where, const char **text, size_t *length)
{
    moecl_status status = MOECL_OK;
    uint64_t bytes;
    TRY(read_unsigned(reader, where, 8, &bytes));
    if (bytes > reader->size - reader->at)
        TRY(truncated(reader, where));
    *text = (const char *)reader->data + reader->at;
    *length = (size_t)bytes;
    reader->at += *length;
out:
    return status;
}

/* A key or a tensor's name into `name`: text without a NUL in it. */
static moecl_status read_name(struct reader *reader, const char *where, char name[])
{
    moecl_status status = MOECL_OK;
    const char *text;
    size_t length;
    TRY(read_string(reader, where, &text, &length));
    if (length == 0 || length > longest_name || memchr(text, '\0', length))
        FAIL(reader->error, MOECL_BAD_FILE, "%s: a name within %s is of %zu bytes or has a NUL, expected 1 to %zu",
             reader->path, where, length, longest_name);
    memcpy(name, text, length);
    name[length] = '\0';
out:
    return status;
}

/* ---------------------------------------------------------------------------------------------------- pairs -- */

static moecl_status bad_pair(const struct reader *reader, const char *key, const char *what)
{
    return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: the pair \"%s\": %s", reader->path, QUOTE(key), what);
}

static json_t *real(double number)
{
    return isfinite(number) ? json_real(number) : json_string("a number that is not finite");
}

static json_t *number_of(enum kind kind, uint64_t bits)
{
    float single;
    double number;
    uint32_t low = (uint32_t)bits;
    switch (kind) {
    case I8:
        return json_integer((int8_t)bits);
    case I16:
        return json_integer((int16_t)bits);
    case I32:
        return json_integer((int32_t)bits);
    case I64:
        return json_integer((json_int_t)bits);
    case U64:
        return bits > INT64_MAX ? json_real((double)bits) : json_integer((json_int_t)bits);
    case F32:
        memcpy(&single, &low, sizeof single);
        return real((double)single);
    case F64:
        memcpy(&number, &bits, sizeof number);
        return real(number);
    case BOOLEAN:
        return json_boolean(bits != 0);
    default:
        return json_integer((json_int_t)bits);
    }
}

static moecl_status no_memory(const struct reader *reader)
{
    return moecl_error_set(reader->error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for its pairs", reader->path);
}

static moecl_status read_number(struct reader *reader, const char *key, enum kind kind, json_t **value)
{
    moecl_status status = MOECL_OK;
    uint64_t bits;
    TRY(read_unsigned(reader, "a pair's value", kind_bytes[kind], &bits));
    if (kind == BOOLEAN && bits > 1)
        TRY(bad_pair(reader, key, "its boolean is neither 0 nor 1"));
    *value = number_of(kind, bits);
    if (!*value)
        TRY(no_memory(reader));
out:
    return status;
}

static moecl_status skip_strings(struct reader *reader, uint64_t count)
{
    moecl_status status = MOECL_OK;
    const char *text;
    size_t length;
    for (uint64_t i = 0; i < count; i++)
        TRY(read_string(reader, "an array of strings", &text, &length));
out:
    return status;
}

static moecl_status keep_numbers(struct reader *reader, const char *key, enum kind kind, size_t count, json_t **value)
{
    moecl_status status = MOECL_OK;
    json_t *array = json_array(), *entry = NULL;
    if (!array)
        TRY(no_memory(reader));
    for (size_t i = 0; i < count; i++) {
        TRY(read_number(reader, key, kind, &entry));
        if (json_array_append_new(array, entry) != 0)
            TRY(no_memory(reader));
    }
    *value = array;
    array = NULL;
out:
    json_decref(array);
    return status;
}

static moecl_status read_array(struct reader *reader, const char *key, bool keep, json_t **value)
{
    static const char where[] = "an array";
    moecl_status status = MOECL_OK;
    uint64_t kind, count;
    TRY(read_unsigned(reader, where, 4, &kind));
    TRY(read_unsigned(reader, where, 8, &count));
    if (kind >= KINDS || kind == ARRAY)
        TRY(bad_pair(reader, key, "the values of its array are of no known kind"));
    const size_t bytes = kind_bytes[kind];
    if (bytes == 0) /* strings */
        return skip_strings(reader, count);
    if (count > (reader->size - reader->at) / bytes)
        TRY(truncated(reader, where));
    if (!keep || count > longest_array || count > most_entries - reader->entries) {
        reader->at += (size_t)count * bytes;
        goto out;
    }
    reader->entries += (size_t)count;
    TRY(keep_numbers(reader, key, (enum kind)kind, (size_t)count, value));
out:
    return status;
}

static moecl_status read_text(struct reader *reader, const char *key, bool keep, json_t **value)
{
    moecl_status status = MOECL_OK;
    const char *text;
    size_t length;
    TRY(read_string(reader, "a pair's string", &text, &length));
    if (!keep || length > longest_string)
        goto out;
    *value = json_stringn(text, length);
    if (!*value)
        TRY(bad_pair(reader, key, "its string is not UTF-8"));
out:
    return status;
}

/* A value; *value stays NULL where it is not kept. */
static moecl_status read_value(struct reader *reader, const char *key, json_t **value)
{
    const bool keep = strncmp(key, "tokenizer.", strlen("tokenizer.")) != 0;
    moecl_status status = MOECL_OK;
    uint64_t kind;
    *value = NULL;
    TRY(read_unsigned(reader, "a pair", 4, &kind));
    if (kind == STRING)
        TRY(read_text(reader, key, keep, value));
    else if (kind == ARRAY)
        TRY(read_array(reader, key, keep, value));
    else if (kind < KINDS)
        TRY(read_number(reader, key, (enum kind)kind, value));
    else
        TRY(bad_pair(reader, key, "its value is of no known kind"));
out:
    return status;
}

/* Keys without a kept value count as well: a null stands for it until all are read. */
static moecl_status read_pairs(struct reader *reader, uint64_t count, json_t *pairs)
{
    moecl_status status = MOECL_OK;
    char key[1024 + 1];
    _Static_assert(sizeof key > 1024, "holds the longest name");
    json_t *value = NULL;

    if (count > most_pairs)
        FAIL(reader->error, MOECL_BAD_FILE, "%s: %llu pairs, more than the limit of %zu", reader->path,
             (unsigned long long)count, most_pairs);
    for (uint64_t i = 0; i < count; i++) {
        TRY(read_name(reader, "the pairs", key));
        if (json_object_get(pairs, key))
            TRY(bad_pair(reader, key, "it is there twice"));
        TRY(read_value(reader, key, &value));
        if (json_object_set_new(pairs, key, value ? value : json_null()) != 0)
            TRY(bad_pair(reader, key, "its key is not UTF-8"));
    }
out:
    return status;
}

static moecl_status read_alignment(struct reader *reader, const json_t *pairs)
{
    static const char key[] = "general.alignment";
    const json_t *value = json_object_get(pairs, key);
    const json_int_t number = json_integer_value(value), largest = 1 << 30;
    reader->alignment = usual_alignment;
    if (!value)
        return MOECL_OK;
    if (!json_is_integer(value) || number < 1 || number > largest || (number & (number - 1)) != 0)
        return bad_pair(reader, key, "it is no power of two");
    reader->alignment = (size_t)number;
    return MOECL_OK;
}

/* -------------------------------------------------------------------------------------------------- tensors -- */

static moecl_status bad_tensor(const struct reader *reader, const char *name, const char *what)
{
    return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: tensor \"%s\": %s", reader->path, QUOTE(name), what);
}

/* The dimensions, the fastest first in the file and last in `tensor`; their product. */
static moecl_status read_shape(struct reader *reader, struct moecl_tensor *tensor, size_t *elements)
{
    moecl_status status = MOECL_OK;
    uint64_t rank, dimension;

    TRY(read_unsigned(reader, "the tensors", 4, &rank));
    if (rank > MOECL_TENSOR_DIMENSIONS)
        TRY(bad_tensor(reader, tensor->name, "it has more than four dimensions"));
    tensor->rank = (size_t)rank;
    for (size_t i = 0; i < MOECL_TENSOR_DIMENSIONS; i++)
        tensor->shape[i] = 1;
    *elements = 1;
    for (size_t i = tensor->rank; i-- > 0;) {
        TRY(read_unsigned(reader, "the tensors", 8, &dimension));
        if (dimension > INT64_MAX || !moecl_size_multiply(*elements, (size_t)dimension, elements))
            TRY(bad_tensor(reader, tensor->name, "it has more elements than fit any memory"));
        tensor->shape[i] = (size_t)dimension;
    }
out:
    return status;
}

static moecl_status set_dtype(const struct reader *reader, uint32_t number, size_t elements,
                              struct moecl_tensor *tensor)
{
    const struct dtype *dtype = dtype_find(number);
    const size_t row = tensor->rank > 0 ? tensor->shape[tensor->rank - 1] : 1;
    if (!dtype) {
        (void)snprintf(tensor->dtype, sizeof tensor->dtype, "type %u", (unsigned)number);
        return MOECL_OK;
    }
    (void)snprintf(tensor->dtype, sizeof tensor->dtype, "%s", dtype->name);
    tensor->quantised = dtype->values > 1;
    if (row % dtype->values != 0)
        return bad_tensor(reader, tensor->name, "its rows are no whole number of blocks");
    if (!moecl_size_multiply(elements / dtype->values, dtype->bytes, &tensor->size))
        return bad_tensor(reader, tensor->name, "it has more elements than fit any memory");
    return MOECL_OK;
}

/* All but its place in memory: `data` is NULL, the offset goes to *offset. */
static moecl_status read_tensor(struct reader *reader, struct moecl_tensor *tensor, char **names, uint64_t *offset)
{
    moecl_status status = MOECL_OK;
    uint64_t number;
    size_t elements;

    tensor->name = *names;
    TRY(read_name(reader, "the tensors", *names));
    *names += strlen(*names) + 1;
    TRY(read_shape(reader, tensor, &elements));
    TRY(read_unsigned(reader, "the tensors", 4, &number));
    TRY(set_dtype(reader, (uint32_t)number, elements, tensor));
    TRY(read_unsigned(reader, "the tensors", 8, offset));
    if (*offset % reader->alignment != 0)
        TRY(bad_tensor(reader, tensor->name, "its offset is not aligned"));
out:
    return status;
}

/* Where the data begins is known behind the last tensor's entry; until then places are offsets from it. */
static moecl_status place_tensors(const struct reader *reader, const uint64_t *offsets, struct moecl_tensor_file *file)
{
    const size_t padding = (reader->alignment - reader->at % reader->alignment) % reader->alignment;
    const size_t left = reader->size - reader->at, available = left > padding ? left - padding : 0;
    const char *data = (const char *)reader->data + reader->at + (left > padding ? padding : left);

    for (size_t i = 0; i < file->count; i++) {
        struct moecl_tensor *tensor = &file->tensors[i];
        if (offsets[i] > available || tensor->size > available - (size_t)offsets[i])
            return bad_tensor(reader, tensor->name, "its data do not lie in the file");
        tensor->data = data + (size_t)offsets[i];
    }
    return MOECL_OK;
}

static moecl_status check_tensors(const struct reader *reader, struct moecl_tensor_file *file)
{
    moecl_tensor_file_sort_by_place(file);
    for (size_t i = 1; i < file->count; i++)
        if (file->tensors[i].data < file->tensors[i - 1].data + file->tensors[i - 1].size)
            return bad_tensor(reader, file->tensors[i].name, "it overlaps another tensor");
    moecl_tensor_file_sort_by_name(file);
    for (size_t i = 1; i < file->count; i++)
        if (strcmp(file->tensors[i].name, file->tensors[i - 1].name) == 0)
            return bad_tensor(reader, file->tensors[i].name, "it is there twice");
    return MOECL_OK;
}

/* Bytes for all names, from a copy of the reader that runs ahead. */
static moecl_status measure_names(struct reader reader, uint64_t count, size_t *bytes)
{
    moecl_status status = MOECL_OK;
    const char *text;
    size_t length;
    uint64_t rank, skipped;

    *bytes = 0;
    for (uint64_t i = 0; i < count; i++) {
        TRY(read_string(&reader, "the tensors", &text, &length));
        *bytes += length + 1;
        TRY(read_unsigned(&reader, "the tensors", 4, &rank));
        for (uint64_t skips = 0; skips < rank + 1; skips++)
            TRY(read_unsigned(&reader, "the tensors", 8, &skipped));
        TRY(read_unsigned(&reader, "the tensors", 4, &skipped));
    }
out:
    return status;
}

static moecl_status read_tensors(struct reader *reader, uint64_t count, struct moecl_tensor_file *file)
{
    moecl_status status = MOECL_OK;
    uint64_t *offsets = NULL;
    size_t name_bytes;

    TRY(measure_names(*reader, count, &name_bytes));
    file->path = moecl_duplicate(reader->path);
    file->tensors = moecl_allocate((size_t)count + 1, sizeof *file->tensors);
    file->names = moecl_allocate(name_bytes, 1);
    offsets = moecl_allocate((size_t)count + 1, sizeof *offsets);
    if (!file->path || !file->tensors || !file->names || !offsets)
        FAIL(reader->error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for %llu tensors", reader->path,
             (unsigned long long)count);
    char *names = file->names;
    for (; file->count < count; file->count++) {
        file->tensors[file->count].file = file->path;
        TRY(read_tensor(reader, &file->tensors[file->count], &names, &offsets[file->count]));
    }
    TRY(place_tensors(reader, offsets, file));
    TRY(check_tensors(reader, file));
out:
    moecl_free(offsets);
    return status;
}

/* --------------------------------------------------------------------------------------------------- the file -- */

static moecl_status read_start(struct reader *reader, uint64_t *tensors, uint64_t *pairs)
{
    static const char where[] = "the first 24 bytes";
    moecl_status status = MOECL_OK;
    uint64_t version;

    if (reader->size < 4 || memcmp(reader->data, "GGUF", 4) != 0)
        FAIL(reader->error, MOECL_BAD_FILE, "%s: this is no GGUF file: it does not begin with \"GGUF\"", reader->path);
    reader->at = 4;
    TRY(read_unsigned(reader, where, 4, &version));
    if (version != 2 && version != 3)
        FAIL(reader->error, MOECL_UNSUPPORTED, "%s: version %llu of GGUF%s is not supported, but 2 and 3 are",
             reader->path, (unsigned long long)version, version > UINT16_MAX ? " (big-endian)" : "");
    TRY(read_unsigned(reader, where, 8, tensors));
    TRY(read_unsigned(reader, where, 8, pairs));
out:
    return status;
}

moecl_status moecl_gguf_parse(struct moecl_error *error, const char *path, const void *data, size_t size,
                              struct moecl_tensor_file *file, json_t **pairs)
{
    struct reader reader = {.error = error, .path = path, .data = data, .size = size};
    moecl_status status = MOECL_OK;
    uint64_t tensor_count, pair_count;

    *file = (struct moecl_tensor_file){0};
    *pairs = NULL;
    TRY(read_start(&reader, &tensor_count, &pair_count));
    *pairs = json_object();
    if (!*pairs)
        TRY(no_memory(&reader));
    TRY(read_pairs(&reader, pair_count, *pairs));
    TRY(read_alignment(&reader, *pairs));
    TRY(read_tensors(&reader, tensor_count, file));
out:
    if (status != MOECL_OK) {
        moecl_tensor_file_close(file);
        json_decref(*pairs);
        *pairs = NULL;
    }
    return status;
}

moecl_status moecl_gguf_open(struct moecl_error *error, const char *path, struct moecl_tensor_file *file,
                             json_t **pairs)
{
    moecl_status status = MOECL_OK;
    struct moecl_mapping mapping = {0};

    *file = (struct moecl_tensor_file){0};
    *pairs = NULL;
    TRY(moecl_mapping_open(error, path, &mapping));
    TRY(moecl_gguf_parse(error, path, mapping.data, mapping.size, file, pairs));
    file->mapping = mapping;
    moecl_mapping_drop(&mapping); /* the header's pages */
out:
    if (status != MOECL_OK)
        moecl_mapping_close(&mapping);
    return status;
}
