/* SPDX-License-Identifier: Apache-2.0 */
#include "strided.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"

static unsigned char *element(const moecl_matrix *matrix, size_t row, size_t column)
{
    const bool plain = matrix->row_stride == 0 && matrix->column_stride == 0;
    const size_t row_stride = plain ? matrix->columns : matrix->row_stride;
    const size_t column_stride = plain ? 1 : matrix->column_stride;
    return (unsigned char *)matrix->data + (row * row_stride + column * column_stride) * moecl_type_size(matrix->type);
}

struct strided strided_make(uint64_t *seed, size_t kind, moecl_type type, size_t rows, size_t columns)
{
    const size_t strides[STRIDED_KINDS][2] = {
        [STRIDED_PLAIN] = {0, 0},
        [STRIDED_SAID] = {columns, 1},
        [STRIDED_GAPS] = {columns + random_between(seed, 1, 9), 1},
        [STRIDED_TRANSPOSED] = {1, rows + random_between(seed, 0, 3)},
        [STRIDED_INTERLEAVED] = {2, 2 * rows},
        [STRIDED_EVERY_OTHER] = {2 * columns, 2},
    };
    const size_t size = moecl_type_size(type), count = rows * columns, shift = random_between(seed, 0, 7);
    const size_t largest = 2 * count + 9 * (rows + columns);
    struct strided made = {.memory = make(largest * size + shift, 1)};
    float *values = make(count, sizeof *values);
    memset(made.memory, 0xff, largest * size + shift); /* NaN in every type, where no element is */
    random_fill(seed, 1 / sqrt((double)columns), values, count);
    made.matrix = (moecl_matrix){made.memory + shift, type, rows, columns, strides[kind][0], strides[kind][1]};
    for (size_t i = 0; i < count; i++)
        moecl_convert(&values[i], MOECL_F32, element(&made.matrix, i / columns, i % columns), type, 1);
    free(values);
    return made;
}

struct strided strided_copy_plain(const struct strided *from)
{
    struct strided copy = *from;
    const moecl_matrix *matrix = &from->matrix;
    const size_t size = moecl_type_size(matrix->type);
    copy.memory = make(matrix->rows * matrix->columns, size);
    copy.matrix = (moecl_matrix){copy.memory, matrix->type, matrix->rows, matrix->columns, 0, 0};
    for (size_t r = 0; r < matrix->rows; r++)
        for (size_t c = 0; c < matrix->columns; c++)
            memcpy(element(&copy.matrix, r, c), element(matrix, r, c), size);
    return copy;
}

double *strided_doubles(const struct strided *from)
{
    struct strided plain = strided_copy_plain(from);
    double *values = to_doubles(plain.memory, plain.matrix.type, plain.matrix.rows * plain.matrix.columns);
    strided_free(&plain);
    return values;
}

void strided_free(struct strided *matrix)
{
    free(matrix->memory);
    *matrix = (struct strided){0};
}
