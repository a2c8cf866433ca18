/* SPDX-License-Identifier: Apache-2.0 */
/* npy.h - NumPy's .npy files, format versions 1, 2 and 3: little-endian, C order.
 *
 * The file: "\x93NUMPY", version (2 bytes), header length (u16; u32 from version 2 on), the header - a Python
 * dictionary such as {'descr': '<f4', 'fortran_order': False, 'shape': (1024, 128), } - and the elements.
 * Files are not trusted: every length is checked before it is used. */
#ifndef TOOLS_NPY_H
#define TOOLS_NPY_H

#include <stddef.h>
#include <stdint.h>

#include "fault.h"
#include "file.h"

/* Element types; sets of them are made with |. */
enum npy_type { NPY_F4 = 1, NPY_F2 = 2, NPY_I4 = 4, NPY_I8 = 8 };

enum { NPY_MAX_RANK = 8, NPY_MAX_HEADER = 65536 /* bytes, the file's first ones included */ };

struct npy_header {
    enum npy_type type;
    size_t rank;
    size_t shape[NPY_MAX_RANK];
    size_t count;       /* elements: the product of the shape */
    size_t data_offset; /* bytes */
    size_t data_bytes;
};

struct npy_array {
    enum npy_type type;
    size_t rank;
    size_t shape[NPY_MAX_RANK];
    size_t count;
    void *data; /* (shape), owned */
};

/* Reads the header out of the file's first `available` bytes: all of them, or NPY_MAX_HEADER of `file_size`. On success
 * the data ends exactly where the file does. `name` is for sentences. */
enum outcome npy_parse(const uint8_t *bytes, size_t available, uint64_t file_size, const char *name,
                       struct npy_header *header, struct fault *fault);

/* Reads a file of that rank whose type is one of the set `types`. */
enum outcome npy_read(const char *path, size_t rank, int types, struct npy_array *array, struct fault *fault);
/* Turns f2 into f4, leaves f4 as it is. */
enum outcome npy_widen(struct npy_array *array, struct fault *fault);
void npy_free(struct npy_array *array); /* zeroes it */

/* Writes a whole file (version 1) and flushes it; committing is the caller's. */
enum outcome npy_write(struct output_file *file, enum npy_type type, size_t rank, const size_t *shape, const void *data,
                       struct fault *fault);

#endif
