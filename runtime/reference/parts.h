/* SPDX-License-Identifier: Apache-2.0 */
/* parts.h - the formulas of the layer in double precision, one function each: the reference is made of them, and its
 * checks use them too. */
#ifndef MOECL_RUNTIME_REFERENCE_PARTS_H
#define MOECL_RUNTIME_REFERENCE_PARTS_H

#include <moecl/model.h>

double moecl_reference_sigmoid(double value);
double moecl_reference_silu(double value);
double moecl_reference_inner_product(const double *a, const double *b, size_t count);

/* Reads `count` values, each rounded to `storage` first, as the device holds them. */
void moecl_reference_read(const void *from, moecl_type type, moecl_type storage, size_t count, double *to);
/* The same for a row of a matrix. */
void moecl_reference_read_row(const moecl_matrix *matrix, size_t row, moecl_type storage, double *to);

/* The k experts of the largest logits [E], largest first, ties to the lower index; NaN counts as -inf. The
 * softmax keeps the order of the logits, so this selects by probability, also where probabilities underflow. */
void moecl_reference_select(const double *logits, size_t experts, size_t top_k, int32_t *ids);
/* weights[j] = softmax(logits)[ids[j]], divided by their sum if `normalise`. */
void moecl_reference_weigh(const double *logits, size_t experts, const int32_t *ids, size_t top_k, bool normalise,
                           double *weights);

/* MOECL_INVALID_ARGUMENT unless the options are within bounds and the weights have the shapes that they say. */
moecl_status moecl_reference_check(const moecl_layer_options *options, const moecl_layer_weights *weights);

#endif
