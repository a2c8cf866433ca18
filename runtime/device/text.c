/* SPDX-License-Identifier: Apache-2.0 */
/* text.c - strings in fresh memory. Apart from memory.c, so that the linker can replace the allocator under them. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "memory.h"

char *moecl_duplicate(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = moecl_allocate(size, 1);
    if (copy != NULL)
        memcpy(copy, text, size);
    return copy;
}

char *moecl_format(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0)
        return NULL;

    char *text = moecl_allocate((size_t)length + 1, 1);
    if (text == NULL)
        return NULL;
    va_start(arguments, format);
    vsnprintf(text, (size_t)length + 1, format, arguments);
    va_end(arguments);
    return text;
}
