/* SPDX-License-Identifier: Apache-2.0 */
/* memory.c - host memory and arithmetic on sizes. */
#include "memory.h"

#include <stdint.h>
#include <stdlib.h>

void *moecl_allocate(size_t count, size_t size)
{
    return count == 0 || size == 0 ? calloc(1, 1) : calloc(count, size);
}

void *moecl_reallocate(void *memory, size_t count, size_t size)
{
    size_t bytes;
    if (!moecl_size_multiply(count, size, &bytes))
        return NULL;
    return realloc(memory, bytes == 0 ? 1 : bytes);
}

void moecl_free(void *memory)
{
    free(memory);
}

bool moecl_size_multiply(size_t a, size_t b, size_t *result)
{
    if (b != 0 && a > SIZE_MAX / b)
        return false;
    *result = a * b;
    return true;
}

bool moecl_size_add(size_t a, size_t b, size_t *result)
{
    if (a > SIZE_MAX - b)
        return false;
    *result = a + b;
    return true;
}

size_t moecl_round_up(size_t a, size_t b)
{
    return moecl_divide_up(a, b) * b;
}

size_t moecl_divide_up(size_t a, size_t b)
{
    return a / b + (a % b != 0);
}
