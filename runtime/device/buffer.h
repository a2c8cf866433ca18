/* SPDX-License-Identifier: Apache-2.0 */
/* buffer.h - device memory. */
#ifndef MOECL_RUNTIME_BUFFER_H
#define MOECL_RUNTIME_BUFFER_H

#include "context.h"

/* A buffer of `size` bytes (0 counts as 1). MOECL_DEVICE_TOO_SMALL beyond the device's largest allocation,
 * MOECL_OUT_OF_DEVICE_MEMORY; both name `what` and the bytes. */
moecl_status moecl_buffer_create(struct moecl_context *context, cl_mem_flags flags, size_t size, const char *what,
                                 cl_mem *memory);
/* NULL is allowed. */
void moecl_buffer_release(cl_mem memory);
/* Whether `buffer` holds `size` bytes from its offset on, the offset a multiple of `alignment`: MOECL_INVALID_ARGUMENT
 * with a sentence that names `what` otherwise. */
moecl_status moecl_buffer_check(struct moecl_context *context, moecl_buffer buffer, size_t size, size_t alignment,
                                const char *what);
/* `buffer` moved on by `bytes`. */
moecl_buffer moecl_buffer_at(moecl_buffer buffer, size_t bytes);

/* Maps `size` bytes for writing, all of which the caller will write. Blocks. */
moecl_status moecl_buffer_map(struct moecl_context *context, moecl_buffer buffer, size_t size, void **mapped);
/* Blocks until the device has the bytes. */
moecl_status moecl_buffer_unmap(struct moecl_context *context, moecl_buffer buffer, void *mapped);
/* Blocking copies between host and device. */
moecl_status moecl_buffer_read(struct moecl_context *context, moecl_buffer buffer, size_t size, void *to);
moecl_status moecl_buffer_write(struct moecl_context *context, moecl_buffer buffer, size_t size, const void *from);

#endif
