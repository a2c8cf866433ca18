/* SPDX-License-Identifier: Apache-2.0 */
/* scratch.h - files for a test. Every failure fails the test. */
#ifndef MOECL_TEST_SCRATCH_H
#define MOECL_TEST_SCRATCH_H

#include <stddef.h>

/* A fresh directory, and its removal with all that is in it (it frees the name). */
char *scratch_make(void);
void scratch_remove(char *directory);

/* "directory/name" in fresh memory. */
char *scratch_path(const char *directory, const char *name);
void scratch_write(const char *directory, const char *name, const void *data, size_t size);
/* A whole file in fresh memory, with a NUL behind it. */
char *scratch_read(const char *directory, const char *name, size_t *size);

#endif
