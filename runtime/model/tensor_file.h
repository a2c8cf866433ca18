/* SPDX-License-Identifier: Apache-2.0 */
/* tensor_file.h - the tensors of a file by name, whatever its format. Tensors need not be aligned in memory. */
#ifndef MOECL_RUNTIME_TENSOR_FILE_H
#define MOECL_RUNTIME_TENSOR_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "mapping.h"

enum { MOECL_TENSOR_DIMENSIONS = 4 };

struct moecl_tensor {
    const char *file;                      /* its path */
    const char *name;                      /* in UTF-8 */
    char dtype[16];                        /* as the file or its format spells it, cut */
    bool quantised;                        /* its values are packed in blocks */
    size_t rank;                           /* may be more than MOECL_TENSOR_DIMENSIONS */
    size_t shape[MOECL_TENSOR_DIMENSIONS]; /* the first ones, row-major; 1 past the rank */
    const char *data;
    size_t size; /* bytes: the shape's elements, where the dtype is known; what the file says, or 0, where not */
};

struct moecl_tensor_file {
    char *path;
    size_t count;
    struct moecl_tensor *tensors; /* by name */
    char *names;
    struct moecl_mapping mapping;
};

/* Zeroes it; a zeroed file is allowed. */
void moecl_tensor_file_close(struct moecl_tensor_file *file);

/* Into the order of places in memory, for checks; into that of names, which finding needs. */
void moecl_tensor_file_sort_by_place(struct moecl_tensor_file *file);
void moecl_tensor_file_sort_by_name(struct moecl_tensor_file *file);

/* NULL where there is none. */
const struct moecl_tensor *moecl_tensor_file_find(const struct moecl_tensor_file *file, const char *name);
/* The type of a tensor that can serve as weights; false: it has another, *type untouched. */
bool moecl_tensor_type(const struct moecl_tensor *tensor, moecl_type *type);

#endif
