/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.h - the GGUF format of llama.cpp, versions 2 and 3. All numbers are little-endian.
 *
 *     "GGUF"       u32 version, u64 tensors, u64 pairs
 *     pairs        string key, u32 kind, value; a string is a u64 length and that many bytes of UTF-8; an array is the
 *                  u32 kind of its values, a u64 count, and the values
 *     tensors      string name, u32 rank, u64 dimensions[rank] (the first one is the fastest), u32 type, u64 offset
 *     padding      to a multiple of the pair "general.alignment", or of 32
 *     the rest     the tensors, row-major; offsets count from here and are multiples of that number too */
#ifndef MOECL_RUNTIME_GGUF_H
#define MOECL_RUNTIME_GGUF_H

#include <jansson.h>
#include <stddef.h>

#include "tensor_file.h"

/* Maps and parses a file. All of its header is checked: lengths and counts, keys and names that are there twice,
 * offsets that overlap, leave the file or are not aligned, shapes that do not fit, ... give MOECL_BAD_FILE, with a
 * sentence that names the file and the key or tensor; MOECL_FILE_ERROR. *pairs is an object of the pairs under their
 * full keys, but for what no layer asks for: the tokenizer's, long strings and arrays, arrays of strings. What JSON
 * cannot say (NaN) is there as a string. Release it with json_decref(). */
moecl_status moecl_gguf_open(struct moecl_error *error, const char *path, struct moecl_tensor_file *file,
                             json_t **pairs);
/* The same of bytes in memory, which must outlive `file`; `path` is for the sentence. */
moecl_status moecl_gguf_parse(struct moecl_error *error, const char *path, const void *data, size_t size,
                              struct moecl_tensor_file *file, json_t **pairs);

#endif
