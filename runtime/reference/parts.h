/* SPDX-License-Identifier: Apache-2.0 */
/* parts.h - what the layer in double precision is made of: numbers as the device stores them, and small formulas. */
#ifndef MOECL_RUNTIME_REFERENCE_PARTS_H
#define MOECL_RUNTIME_REFERENCE_PARTS_H

#include <moecl/model.h>

double moecl_reference_sigmoid(double value);
double moecl_reference_softplus(double value); /* log(1 + exp(value)) */
double moecl_reference_inner_product(const double *a, const double *b, size_t count);
double moecl_reference_norm(const double *values, size_t count); /* sqrt(sum v^2) */

/* Zeroed memory for rows * columns values; NULL when there is none or the product overflows. */
double *moecl_reference_doubles(size_t rows, size_t columns);

/* Reads `count` values, each rounded to `storage` first, as the device holds them. */
void moecl_reference_read(const void *from, moecl_type type, moecl_type storage, size_t count, double *to);
/* The same for a row of a matrix, whatever its strides. */
void moecl_reference_read_row(const moecl_matrix *matrix, size_t row, moecl_type storage, double *to);

/* What `input` makes of the row x [hidden]; `norm` [hidden] is the vector that belongs to it, NULL: none. */
void moecl_reference_input(const moecl_input *input, const double *norm, const double *x, size_t hidden, double *to);

/* MOECL_INVALID_ARGUMENT unless the options are within bounds and the weights have the shapes that they say. */
moecl_status moecl_reference_check(const moecl_layer_options *options, const moecl_layer_weights *weights);

#endif
