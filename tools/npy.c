/* SPDX-License-Identifier: Apache-2.0 */
/* npy.c - reading and writing .npy files. */
#include "npy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char magic[] = "\x93NUMPY";
enum { MAGIC_BYTES = 6, ALIGNMENT = 64 /* of the data, as NumPy aligns it */ };

static const struct {
    enum npy_type type;
    const char *descr; /* as NumPy spells it */
    const char *name;
    size_t bytes;
} types_table[] = {
    {NPY_F4, "<f4", "f4", 4},
    {NPY_F2, "<f2", "f2", 2},
    {NPY_I4, "<i4", "i4", 4},
    {NPY_I8, "<i8", "i8", 8},
};
enum { TYPE_COUNT = sizeof(types_table) / sizeof(types_table[0]) };

static size_t type_bytes(enum npy_type type)
{
    size_t i = 0;
    while (types_table[i].type != type)
        i++;
    return types_table[i].bytes;
}

/* -------------------------------------------------------------------------------------------- the dictionary -- */

/* What is left to read of the header's text. */
struct cursor {
    const char *at, *end;
};

static void skip_space(struct cursor *cursor)
{
    while (cursor->at < cursor->end && strchr(" \t\n", *cursor->at) && *cursor->at != '\0')
        cursor->at++;
}

/* Takes `character`, and space before it. */
static bool take(struct cursor *cursor, char character)
{
    skip_space(cursor);
    if (cursor->at == cursor->end || *cursor->at != character)
        return false;
    cursor->at++;
    return true;
}

static bool take_word(struct cursor *cursor, const char *word)
{
    size_t length = strlen(word);
    skip_space(cursor);
    if ((size_t)(cursor->end - cursor->at) < length || memcmp(cursor->at, word, length) != 0)
        return false;
    cursor->at += length;
    return true;
}

/* Takes a quoted string without escapes, at most capacity-1 characters. */
static bool take_string(struct cursor *cursor, char *string, size_t capacity)
{
    char quote = take(cursor, '\'') ? '\'' : '"';
    if (quote == '"' && !take(cursor, '"'))
        return false;
    size_t length = 0;
    for (; cursor->at < cursor->end && *cursor->at != quote; cursor->at++) {
        if (length + 1 >= capacity || *cursor->at == '\\' || *cursor->at == '\0')
            return false;
        string[length++] = *cursor->at;
    }
    string[length] = '\0';
    return take(cursor, quote);
}

static bool take_size(struct cursor *cursor, size_t *size)
{
    skip_space(cursor);
    const char *start = cursor->at;
    size_t value = 0;
    for (; cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9'; cursor->at++) {
        size_t digit = (size_t)(*cursor->at - '0');
        if (value > (SIZE_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *size = value;
    return cursor->at > start;
}

/* A tuple: "()", "(3,)", "(3, 4)", "(3, 4,)". */
static bool take_shape(struct cursor *cursor, struct npy_header *header)
{
    if (!take(cursor, '('))
        return false;
    bool comma = true;
    for (header->rank = 0; !take(cursor, ')'); header->rank++) {
        if (!comma || header->rank == NPY_MAX_RANK || !take_size(cursor, &header->shape[header->rank]))
            return false;
        comma = take(cursor, ',');
    }
    return header->rank != 1 || comma; /* "(3)" is a number to Python */
}

/* The three keys, each once, in any order; `descr` takes the type's name. Returns what is wrong, NULL if nothing. */
static const char *take_dictionary(struct cursor *cursor, char *descr, size_t descr_capacity, bool *fortran_order,
                                   struct npy_header *header)
{
    enum { DESCR = 1, FORTRAN_ORDER = 2, SHAPE = 4, ALL = 7 };
    int seen = 0;
    bool comma = true;
    if (!take(cursor, '{'))
        return "its header is no dictionary";
    while (!take(cursor, '}')) {
        char key[16];
        if (!comma || !take_string(cursor, key, sizeof(key)) || !take(cursor, ':'))
            return "its header is malformed";
        int which = strcmp(key, "descr") == 0           ? DESCR
                    : strcmp(key, "fortran_order") == 0 ? FORTRAN_ORDER
                    : strcmp(key, "shape") == 0         ? SHAPE
                                                        : 0;
        if (which == 0 || (seen & which))
            return "its header has an unknown or a repeated key";
        seen |= which;
        if (which == DESCR && !take_string(cursor, descr, descr_capacity))
            return "its element type is none that can be read here";
        if (which == FORTRAN_ORDER) {
            *fortran_order = take_word(cursor, "True");
            if (!*fortran_order && !take_word(cursor, "False"))
                return "its header's fortran_order is neither True nor False";
        }
        if (which == SHAPE && !take_shape(cursor, header))
            return "its header's shape is malformed or too large";
        comma = take(cursor, ',');
    }
    skip_space(cursor);
    if (cursor->at != cursor->end)
        return "its header goes on after the dictionary";
    return seen == ALL ? NULL : "its header lacks descr, fortran_order or shape";
}

/* ------------------------------------------------------------------------------------------------- the header -- */

/* Where the header's text begins and how long it is. */
static enum outcome find_header(const uint8_t *bytes, size_t available, const char *name, size_t *start, size_t *length,
                                struct fault *fault)
{
    if (available < MAGIC_BYTES + 4 || memcmp(bytes, magic, MAGIC_BYTES) != 0)
        return fault_set(fault, OUTCOME_ERROR, "%s is no NumPy file: it does not begin as .npy files do", name);
    unsigned major = bytes[MAGIC_BYTES], minor = bytes[MAGIC_BYTES + 1];
    if (major < 1 || major > 3 || minor != 0)
        return fault_set(fault, OUTCOME_ERROR, "%s has the .npy format version %u.%u; 1.0, 2.0 and 3.0 can be read",
                         name, major, minor);
    *start = major == 1 ? MAGIC_BYTES + 4 : MAGIC_BYTES + 6;
    *length = (size_t)bytes[8] | (size_t)bytes[9] << 8;
    if (available >= *start && major > 1)
        *length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (*length > NPY_MAX_HEADER - *start)
        return fault_set(fault, OUTCOME_ERROR, "%s has a header of %zu bytes, more than the %d that can be read", name,
                         *length, NPY_MAX_HEADER);
    if (available < *start || *length > available - *start)
        return fault_set(fault, OUTCOME_ERROR, "%s is truncated: its header of %zu bytes goes beyond the file's end",
                         name, *length);
    return OUTCOME_SUCCESS;
}

/* Sets header->count and ->data_bytes from the shape; false on overflow. */
static bool count_elements(struct npy_header *header)
{
    header->count = 1;
    bool empty = false;
    for (size_t i = 0; i < header->rank; i++)
        empty = empty || header->shape[i] == 0;
    for (size_t i = 0; i < header->rank && !empty; i++) {
        if (header->shape[i] > SIZE_MAX / header->count)
            return false;
        header->count *= header->shape[i];
    }
    if (empty)
        header->count = 0;
    if (header->count > SIZE_MAX / type_bytes(header->type))
        return false;
    header->data_bytes = header->count * type_bytes(header->type);
    return true;
}

enum outcome npy_parse(const uint8_t *bytes, size_t available, uint64_t file_size, const char *name,
                       struct npy_header *header, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    size_t start = 0, length = 0;
    char descr[32] = "";
    bool fortran_order = false;
    *header = (struct npy_header){0};
    TRY(find_header(bytes, available, name, &start, &length, fault));

    struct cursor cursor = {(const char *)bytes + start, (const char *)bytes + start + length};
    const char *wrong = take_dictionary(&cursor, descr, sizeof(descr), &fortran_order, header);
    if (wrong)
        FAIL(OUTCOME_ERROR, "%s cannot be read: %s", name, wrong);
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        if (strcmp(descr, types_table[i].descr) == 0)
            header->type = types_table[i].type;
    }
    if (header->type == 0)
        FAIL(OUTCOME_ERROR, "%s holds elements of type '%s'; little-endian f4, f2, i4 and i8 can be read", name, descr);
    if (fortran_order)
        FAIL(OUTCOME_ERROR, "%s is in Fortran order; C order is needed (numpy.ascontiguousarray makes it)", name);

    header->data_offset = start + length;
    uint64_t present = file_size - header->data_offset;
    if (!count_elements(header))
        FAIL(OUTCOME_ERROR, "%s claims a shape too large to exist", name);
    if (header->data_bytes != present)
        FAIL(OUTCOME_ERROR, "%s is %s: its shape needs %zu bytes of data, it holds %llu", name,
             present < header->data_bytes ? "truncated" : "too long", header->data_bytes, (unsigned long long)present);
out:
    return outcome;
}

/* ----------------------------------------------------------------------------------------------------- files -- */

/* Checks that the type is one of the set `types`. */
static enum outcome check_type(enum npy_type type, int types, const char *path, struct fault *fault)
{
    char wanted[64] = "";
    const char *name = "";
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        if (types_table[i].type == type)
            name = types_table[i].name;
        if (!((int)types_table[i].type & types))
            continue;
        size_t length = strlen(wanted);
        snprintf(wanted + length, sizeof(wanted) - length, "%s%s", length ? " or " : "", types_table[i].name);
    }
    if ((int)type & types)
        return OUTCOME_SUCCESS;
    return fault_set(fault, OUTCOME_ERROR, "%s holds %s; %s is needed", path, name, wanted);
}

enum outcome npy_read(const char *path, size_t rank, int types, struct npy_array *array, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    struct npy_header header;
    struct stat about;
    uint8_t *first = malloc(NPY_MAX_HEADER);
    FILE *file = fopen(path, "rb");
    *array = (struct npy_array){0};
    if (!first) {
        outcome = fault_memory(fault, path);
        goto out;
    }
    if (!file || fstat(fileno(file), &about) != 0)
        FAIL(OUTCOME_ERROR, "cannot read %s: %s", path, strerror(errno));
    if (!S_ISREG(about.st_mode))
        FAIL(OUTCOME_ERROR, "cannot read %s: it is not a regular file", path);
    size_t available = fread(first, 1, NPY_MAX_HEADER, file);
    if (ferror(file))
        FAIL(OUTCOME_ERROR, "cannot read %s: %s", path, strerror(errno));
    uint64_t size = available < NPY_MAX_HEADER ? available : (uint64_t)about.st_size;
    TRY(npy_parse(first, available, size, path, &header, fault));
    if (header.rank != rank)
        FAIL(OUTCOME_ERROR, "%s has rank %zu; rank %zu is needed", path, header.rank, rank);
    TRY(check_type(header.type, types, path, fault));

    array->data = malloc(header.data_bytes + 1);
    if (!array->data) {
        outcome = fault_memory(fault, path);
        goto out;
    }
    if (fseek(file, (long)header.data_offset, SEEK_SET) != 0 ||
        fread(array->data, 1, header.data_bytes, file) != header.data_bytes)
        FAIL(OUTCOME_ERROR, "cannot read %s: %s", path, ferror(file) ? strerror(errno) : "it became shorter");
    array->type = header.type;
    array->rank = header.rank;
    array->count = header.count;
    memcpy(array->shape, header.shape, sizeof(array->shape));
out:
    if (outcome != OUTCOME_SUCCESS)
        npy_free(array);
    if (file)
        fclose(file);
    free(first);
    return outcome;
}

enum outcome npy_widen(struct npy_array *array, struct fault *fault)
{
    if (array->type != NPY_F2)
        return OUTCOME_SUCCESS;
    float *wide = malloc(array->count * sizeof(float) + 1);
    if (!wide)
        return fault_memory(fault, "an array");
    moecl_convert(array->data, MOECL_F16, wide, MOECL_F32, array->count);
    free(array->data);
    array->data = wide;
    array->type = NPY_F4;
    return OUTCOME_SUCCESS;
}

void npy_free(struct npy_array *array)
{
    free(array->data);
    *array = (struct npy_array){0};
}

enum outcome npy_write(struct output_file *file, enum npy_type type, size_t rank, const size_t *shape, const void *data,
                       struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    char header[512];
    size_t length = MAGIC_BYTES + 4, bytes = type_bytes(type), start = length;
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        if (types_table[i].type == type)
            length += (size_t)snprintf(header + length, sizeof(header) - length,
                                       "{'descr': '%s', 'fortran_order': False, 'shape': (", types_table[i].descr);
    }
    for (size_t i = 0; i < rank; i++) {
        length += (size_t)snprintf(header + length, sizeof(header) - length, "%zu%s", shape[i],
                                   i + 1 < rank ? ", "
                                   : rank == 1  ? ","
                                                : "");
        bytes *= shape[i];
    }
    length += (size_t)snprintf(header + length, sizeof(header) - length, "), }");
    while ((length + 1) % ALIGNMENT != 0)
        header[length++] = ' ';
    header[length++] = '\n';

    memcpy(header, magic, MAGIC_BYTES);
    header[6] = 1;
    header[7] = 0;
    header[8] = (char)((length - start) & 0xff);
    header[9] = (char)((length - start) >> 8);
    TRY(output_file_write(file, header, length, fault));
    TRY(output_file_write(file, data, bytes, fault));
    TRY(output_file_flush(file, fault));
out:
    return outcome;
}
