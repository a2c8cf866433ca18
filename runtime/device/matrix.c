/* SPDX-License-Identifier: Apache-2.0 */
/* matrix.c - reading strided matrices.
 *
 * Elements are gathered as they are, block by block in the first-level cache, then converted by moecl_convert(), whose
 * loops want long runs. */
#include "matrix.h"

#include <string.h>

#include "memory.h"

size_t moecl_matrix_row_stride(const moecl_matrix *matrix)
{
    return matrix->row_stride || matrix->column_stride ? matrix->row_stride : matrix->columns;
}

size_t moecl_matrix_column_stride(const moecl_matrix *matrix)
{
    return matrix->row_stride || matrix->column_stride ? matrix->column_stride : 1;
}

bool moecl_matrix_is_transposed(const moecl_matrix *matrix)
{
    return moecl_matrix_row_stride(matrix) < moecl_matrix_column_stride(matrix);
}

bool moecl_matrix_fits(const moecl_matrix *matrix)
{
    size_t down, across, last;
    if (!matrix->rows || !matrix->columns)
        return true;
    return moecl_size_multiply(matrix->rows - 1, moecl_matrix_row_stride(matrix), &down) &&
           moecl_size_multiply(matrix->columns - 1, moecl_matrix_column_stride(matrix), &across) &&
           moecl_size_add(down, across, &last) && moecl_size_add(last, 1, &last) &&
           moecl_size_multiply(last, moecl_type_size(matrix->type), &last);
}

moecl_status moecl_matrix_check(struct moecl_context *context, const moecl_matrix *matrix, size_t rows, size_t columns,
                                const char *what)
{
    moecl_status status = MOECL_OK;
    if (!matrix || !matrix->data)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: no data", what);
    if (!moecl_type_size(matrix->type))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: unknown type %d", what, (int)matrix->type);
    if (matrix->rows != rows || matrix->columns != columns)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: is [%zu,%zu], must be [%zu,%zu]", what, matrix->rows,
             matrix->columns, rows, columns);
    if (!moecl_matrix_fits(matrix))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: [%zu,%zu] with the strides %zu and %zu overflows", what,
             matrix->rows, matrix->columns, matrix->row_stride, matrix->column_stride);
out:
    return status;
}

static const char *element_at(const moecl_matrix *matrix, size_t row, size_t column)
{
    return (const char *)matrix->data +
           (row * moecl_matrix_row_stride(matrix) + column * moecl_matrix_column_stride(matrix)) *
               moecl_type_size(matrix->type);
}

moecl_matrix moecl_matrix_rows(const moecl_matrix *matrix, size_t first, size_t rows)
{
    moecl_matrix part = *matrix;
    part.data = element_at(matrix, first, 0);
    part.rows = rows;
    part.row_stride = moecl_matrix_row_stride(matrix);
    part.column_stride = moecl_matrix_column_stride(matrix);
    return part;
}

/* memcpy: of any alignment; each copy is one instruction. */
#define DEFINE_GATHER(type)                                                                                            \
    static void gather_##type(const char *from, size_t stride, size_t count, char *to)                                 \
    {                                                                                                                  \
        for (size_t i = 0; i < count; i++)                                                                             \
            memcpy(to + i * sizeof(type), from + i * stride * sizeof(type), sizeof(type));                             \
    }
DEFINE_GATHER(uint16_t)
DEFINE_GATHER(uint32_t)

/* `count` elements of `size` bytes, `stride` elements apart. */
static void gather(const char *from, size_t size, size_t stride, size_t count, char *to)
{
    if (stride == 1)
        memcpy(to, from, count * size);
    else if (size == sizeof(uint16_t))
        gather_uint16_t(from, stride, count, to);
    else
        gather_uint32_t(from, stride, count, to);
}

enum { BLOCK = 1024 }; /* elements gathered at a time */

/* `lines` lines, `line_stride` elements apart, of `count` elements, `stride` apart -> to [lines][count]. */
static void read_lines(const char *from, moecl_type from_type, size_t line_stride, size_t lines, size_t stride,
                       size_t count, moecl_type type, char *to)
{
    const size_t from_size = moecl_type_size(from_type), size = moecl_type_size(type);
    if (from_type == type || (stride == 1 && count >= BLOCK)) {
        for (size_t line = 0; line < lines; line++, from += line_stride * from_size, to += count * size) {
            if (stride == 1)
                moecl_convert(from, from_type, to, type, count);
            else
                gather(from, size, stride, count, to);
        }
        return;
    }
    uint32_t raw[BLOCK];
    const size_t run = count < BLOCK ? count : BLOCK, lines_a_block = BLOCK / run;
    for (size_t line = 0; line < lines; line += lines_a_block) {
        const size_t some = lines - line < lines_a_block ? lines - line : lines_a_block;
        for (size_t first = 0; first < count; first += run) { /* once, or `some` is 1 */
            const size_t length = count - first < run ? count - first : run;
            for (size_t l = 0; l < some; l++)
                gather(from + ((line + l) * line_stride + first * stride) * from_size, from_size, stride, length,
                       (char *)raw + l * length * from_size);
            moecl_convert(raw, from_type, to + (line * count + first) * size, type, some * length);
        }
    }
}

void moecl_matrix_read_row(const moecl_matrix *matrix, size_t row, size_t first, size_t count, moecl_type type,
                           void *to)
{
    moecl_matrix_read_rows(matrix, row, 1, first, count, type, to);
}

void moecl_matrix_read_rows(const moecl_matrix *matrix, size_t first_row, size_t rows, size_t first_column,
                            size_t columns, moecl_type type, void *to)
{
    if (rows > 0 && columns > 0)
        read_lines(element_at(matrix, first_row, first_column), matrix->type, moecl_matrix_row_stride(matrix), rows,
                   moecl_matrix_column_stride(matrix), columns, type, to);
}

void moecl_matrix_read_columns(const moecl_matrix *matrix, size_t first_row, size_t rows, size_t first_column,
                               size_t columns, moecl_type type, void *to)
{
    if (rows > 0 && columns > 0)
        read_lines(element_at(matrix, first_row, first_column), matrix->type, moecl_matrix_column_stride(matrix),
                   columns, moecl_matrix_row_stride(matrix), rows, type, to);
}

enum { TURN = 32 }; /* rows and columns turned at a time */

/* block [columns][rows] -> to [rows][columns], whose rows lie `pitch` elements apart. */
static void turn(const char *block, size_t rows, size_t columns, size_t size, char *to, size_t pitch)
{
    for (size_t r = 0; r < rows; r++)
        gather(block + r * size, size, rows, columns, to + r * pitch * size);
}

void moecl_matrix_read(const moecl_matrix *matrix, moecl_type type, void *to)
{
    const size_t rows = matrix->rows, columns = matrix->columns, size = moecl_type_size(type);
    if (rows == 0 || columns == 0)
        return;
    if (!moecl_matrix_is_transposed(matrix)) {
        const bool contiguous = moecl_matrix_column_stride(matrix) == 1 && moecl_matrix_row_stride(matrix) == columns;
        read_lines(matrix->data, matrix->type, moecl_matrix_row_stride(matrix), contiguous ? 1 : rows,
                   moecl_matrix_column_stride(matrix), contiguous ? rows * columns : columns, type, to);
        return;
    }
    uint32_t block[TURN * TURN];
    for (size_t c = 0; c < columns; c += TURN) {
        const size_t some = columns - c < TURN ? columns - c : TURN;
        for (size_t r = 0; r < rows; r += TURN) {
            const size_t count = rows - r < TURN ? rows - r : TURN;
            moecl_matrix_read_columns(matrix, r, count, c, some, type, block);
            turn((const char *)block, count, some, size, (char *)to + (r * columns + c) * size, columns);
        }
    }
}
