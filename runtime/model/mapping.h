/* SPDX-License-Identifier: Apache-2.0 */
/* mapping.h - a file as read-only memory. */
#ifndef MOECL_RUNTIME_MAPPING_H
#define MOECL_RUNTIME_MAPPING_H

#include <stddef.h>

#include "device/error.h"

struct moecl_mapping {
    const char *data; /* never NULL once open, not even for an empty file */
    size_t size;
};

/* Maps a regular file; the descriptor is closed again. MOECL_FILE_ERROR, which names the path. */
moecl_status moecl_mapping_open(struct moecl_error *error, const char *path, struct moecl_mapping *mapping);
/* Zeroes it; a zeroed mapping is allowed. */
void moecl_mapping_close(struct moecl_mapping *mapping);

/* Gives the resident pages back; they come again when they are read. */
void moecl_mapping_drop(const struct moecl_mapping *mapping);
/* Starts reading a part of a mapping from disk, in the background. */
void moecl_mapping_prefetch(const void *data, size_t size);

#endif
