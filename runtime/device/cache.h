/* SPDX-License-Identifier: Apache-2.0 */
/* cache.h - a directory of files, each a full key and a value. Writes are atomic (temporary file, then rename), the
 * stored key is compared byte for byte and the value by its hash; every failure is a miss, and nothing is an error. */
#ifndef MOECL_RUNTIME_CACHE_H
#define MOECL_RUNTIME_CACHE_H

#include <stdbool.h>
#include <stddef.h>

#include "context.h"

/* Finds `key` in the cache; on a hit *value is fresh memory for moecl_free(). `kind` is the file name's ending, one of
 * a few words ("program", "probe"). */
bool moecl_cache_load(const struct moecl_context *context, const char *kind, const void *key, size_t key_size,
                      void **value, size_t *value_size);
void moecl_cache_store(const struct moecl_context *context, const char *kind, const void *key, size_t key_size,
                       const void *value, size_t value_size);

#endif
