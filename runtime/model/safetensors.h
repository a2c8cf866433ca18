/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.h - the safetensors format.
 *
 *     8 bytes     n, the length of the header, little-endian
 *     n bytes     JSON: { "name": {"dtype": "BF16", "shape": [2048, 768], "data_offsets": [begin, end]}, ...,
 *                         "__metadata__": {...} }
 *     the rest    the tensors, row-major and without gaps; offsets count from here
 *
 * Tensors need not be aligned in the file, nor are they in memory. */
#ifndef MOECL_RUNTIME_SAFETENSORS_H
#define MOECL_RUNTIME_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>

#include "mapping.h"

enum { MOECL_TENSOR_DIMENSIONS = 4 };

struct moecl_tensor {
    const char *file;                      /* its path */
    const char *name;                      /* in UTF-8 */
    char dtype[16];                        /* as the file spells it, cut */
    size_t rank;                           /* may be more than MOECL_TENSOR_DIMENSIONS */
    size_t shape[MOECL_TENSOR_DIMENSIONS]; /* the first ones; 1 past the rank */
    const char *data;
    size_t size; /* bytes: the shape's elements, where the dtype is known; what the file says where not */
};

struct moecl_safetensors {
    char *path;
    size_t count;
    struct moecl_tensor *tensors; /* by name */
    char *names;
    struct moecl_mapping mapping;
};

/* Maps and parses a file. Its whole header is checked: offsets that overlap, leave gaps or the file, shapes that do not
 * fit them, ... give MOECL_BAD_FILE, with a sentence that names the file and the tensor; MOECL_FILE_ERROR. */
moecl_status moecl_safetensors_open(struct moecl_error *error, const char *path, struct moecl_safetensors *file);
/* The same of bytes in memory, which must outlive `file`; `path` is for the sentence. */
moecl_status moecl_safetensors_parse(struct moecl_error *error, const char *path, const void *data, size_t size,
                                     struct moecl_safetensors *file);
/* Zeroes it; a zeroed file is allowed. */
void moecl_safetensors_close(struct moecl_safetensors *file);

/* NULL where there is none. */
const struct moecl_tensor *moecl_safetensors_find(const struct moecl_safetensors *file, const char *name);
/* The type of a tensor that can serve as weights; false: it has another, *type untouched. */
bool moecl_tensor_type(const struct moecl_tensor *tensor, moecl_type *type);

#endif
