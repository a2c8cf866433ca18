/* SPDX-License-Identifier: Apache-2.0 */
/* memory.h - host memory: every allocation of the library goes through here, so that tests can make the n-th fail. */
#ifndef MOECL_RUNTIME_MEMORY_H
#define MOECL_RUNTIME_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#include "error.h" /* MOECL_PRINTF */

/* Zeroed memory for `count` elements of `size` bytes; NULL when there is none or the product overflows. A zero product
 * gives a pointer that can be freed. */
void *moecl_allocate(size_t count, size_t size);
/* NULL leaves `memory` as it was. Not zeroed. */
void *moecl_reallocate(void *memory, size_t count, size_t size);
void moecl_free(void *memory); /* NULL is allowed */
/* A copy of `text`, NULL when there is no memory. */
char *moecl_duplicate(const char *text);
/* printf into fresh memory; NULL when there is none. */
char *moecl_format(const char *format, ...) MOECL_PRINTF(1, 2);

/* Checked arithmetic: false on overflow, *result untouched. */
bool moecl_size_multiply(size_t a, size_t b, size_t *result);
bool moecl_size_add(size_t a, size_t b, size_t *result);
/* a rounded up to a multiple of b (b > 0), and ceil(a / b). No overflow check: for sizes already bounded. */
size_t moecl_round_up(size_t a, size_t b);
size_t moecl_divide_up(size_t a, size_t b);

#endif
