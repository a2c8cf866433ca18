/* SPDX-License-Identifier: Apache-2.0 */
/* tensor_file.c - the tensors of a file by name. */
#include "tensor_file.h"

#include <stdlib.h>
#include <string.h>

#include "device/memory.h"

void moecl_tensor_file_close(struct moecl_tensor_file *file)
{
    moecl_free(file->path);
    moecl_free(file->tensors);
    moecl_free(file->names);
    moecl_mapping_close(&file->mapping);
    *file = (struct moecl_tensor_file){0};
}

static int compare_places(const void *a, const void *b)
{
    const struct moecl_tensor *left = a, *right = b;
    if (left->data != right->data)
        return left->data < right->data ? -1 : 1;
    return (left->size > right->size) - (left->size < right->size);
}

static int compare_names(const void *a, const void *b)
{
    const struct moecl_tensor *left = a, *right = b;
    return strcmp(left->name, right->name);
}

void moecl_tensor_file_sort_by_place(struct moecl_tensor_file *file)
{
    if (file->count > 0)
        qsort(file->tensors, file->count, sizeof *file->tensors, compare_places);
}

void moecl_tensor_file_sort_by_name(struct moecl_tensor_file *file)
{
    if (file->count > 0)
        qsort(file->tensors, file->count, sizeof *file->tensors, compare_names);
}

static int compare_name(const void *name, const void *tensor)
{
    return strcmp(name, ((const struct moecl_tensor *)tensor)->name);
}

const struct moecl_tensor *moecl_tensor_file_find(const struct moecl_tensor_file *file, const char *name)
{
    if (file->count == 0)
        return NULL;
    return bsearch(name, file->tensors, file->count, sizeof *file->tensors, compare_name);
}

bool moecl_tensor_type(const struct moecl_tensor *tensor, moecl_type *type)
{
    static const struct {
        const char *name;
        moecl_type type;
    } types[] = {{"F32", MOECL_F32}, {"F16", MOECL_F16}, {"BF16", MOECL_BF16}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(tensor->dtype, types[i].name) == 0) {
            *type = types[i].type;
            return true;
        }
    return false;
}
