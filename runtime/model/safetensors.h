/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.h - the safetensors format.
 *
 *     8 bytes     n, the length of the header, little-endian
 *     n bytes     JSON: { "name": {"dtype": "BF16", "shape": [2048, 768], "data_offsets": [begin, end]}, ...,
 *                         "__metadata__": {...} }
 *     the rest    the tensors, row-major and without gaps; offsets count from here */
#ifndef MOECL_RUNTIME_SAFETENSORS_H
#define MOECL_RUNTIME_SAFETENSORS_H

#include <stddef.h>

#include "tensor_file.h"

/* Maps and parses a file. Its whole header is checked: offsets that overlap, leave gaps or the file, shapes that do not
 * fit them, ... give MOECL_BAD_FILE, with a sentence that names the file and the tensor; MOECL_FILE_ERROR. */
moecl_status moecl_safetensors_open(struct moecl_error *error, const char *path, struct moecl_tensor_file *file);
/* The same of bytes in memory, which must outlive `file`; `path` is for the sentence. */
moecl_status moecl_safetensors_parse(struct moecl_error *error, const char *path, const void *data, size_t size,
                                     struct moecl_tensor_file *file);

#endif
