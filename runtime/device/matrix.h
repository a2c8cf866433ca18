/* SPDX-License-Identifier: Apache-2.0 */
/* matrix.h - matrices in host memory, with whatever strides: checked, then read in the order that the memory likes. */
#ifndef MOECL_RUNTIME_MATRIX_H
#define MOECL_RUNTIME_MATRIX_H

#include "context.h"

/* Checks that `matrix` has data, is [rows, columns], and that its strides overflow nothing; the sentence names `what`.
 */
moecl_status moecl_matrix_check(struct moecl_context *context, const moecl_matrix *matrix, size_t rows, size_t columns,
                                const char *what);
/* Whether the elements from the first to the last have offsets that fit a size. */
bool moecl_matrix_fits(const moecl_matrix *matrix);

/* Elements from one row, or one column, to the next, also where both strides are 0. */
size_t moecl_matrix_row_stride(const moecl_matrix *matrix);
size_t moecl_matrix_column_stride(const moecl_matrix *matrix);
/* Whether columns lie closer together in memory than rows do: then read columns. */
bool moecl_matrix_is_transposed(const moecl_matrix *matrix);
/* The rows first to first + rows - 1 as a matrix. */
moecl_matrix moecl_matrix_rows(const moecl_matrix *matrix, size_t first, size_t rows);

/* What follows converts to `type` and writes without gaps to `to`, which may not overlap the matrix. */

/* Elements (row, first) to (row, first + count - 1). */
void moecl_matrix_read_row(const moecl_matrix *matrix, size_t row, size_t first, size_t count, moecl_type type,
                           void *to);
/* A block of the matrix: [rows][columns]. */
void moecl_matrix_read_rows(const moecl_matrix *matrix, size_t first_row, size_t rows, size_t first_column,
                            size_t columns, moecl_type type, void *to);
/* A block turned: [columns][rows]. */
void moecl_matrix_read_columns(const moecl_matrix *matrix, size_t first_row, size_t rows, size_t first_column,
                               size_t columns, moecl_type type, void *to);
/* The whole matrix [rows][columns], at the memory's speed whatever its strides. */
void moecl_matrix_read(const moecl_matrix *matrix, moecl_type type, void *to);

#endif
