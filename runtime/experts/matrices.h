/* SPDX-License-Identifier: Apache-2.0 */
/* matrices.h - the packed weight matrices of G groups (experts) on the device. */
#ifndef MOECL_RUNTIME_MATRICES_H
#define MOECL_RUNTIME_MATRICES_H

#include <moecl/stages.h>

#include "device/matrix.h"
#include "layout.h"
#include "variant.h"

/* Groups lie one after the other in as few buffers as the device's largest allocation allows; none is cut in two. */
struct moecl_matrices {
    struct moecl_context *context;
    moecl_matrices_options options;
    struct moecl_gemm *gemm;
    bool owns_gemm; /* false: the layer's */
    struct moecl_group_shape shape;
    struct moecl_layout layout;
    size_t pair_rows; /* of their products: moecl_gemm_pair_rows() */
    size_t group_bytes;
    size_t groups_a_part; /* of all parts but the last, which may hold fewer */
    size_t part_count;
    cl_mem *parts;
    cl_mem biases; /* f32 [G][N], gated [G][2N]: gate's, then up's; NULL where not biased */
};

/* As moecl_matrices_create(), for a gemm that the caller keeps. options->variant and ->parameters are not looked at.
 * `pair_rows`: moecl_gemm_pair_rows(), or MOECL_NEVER_IN_PAIRS. */
moecl_status moecl_matrices_create_for(struct moecl_gemm *gemm, const moecl_matrices_options *options, size_t pair_rows,
                                       moecl_matrices **matrices);
/* Whether a product of up to `rows` rows, of all groups together, is made in pairs of steps. */
bool moecl_matrices_in_pairs(const moecl_matrices *matrices, size_t rows);
/* As moecl_matrices_set(), for the rows `first_row` on of the group, as many as weights->matrix has; other rows stay as
 * they are, and so do biases that are not given. Nothing is checked. Blocks. */
moecl_status moecl_matrices_set_rows(moecl_matrices *matrices, size_t group, size_t first_row,
                                     const moecl_group_weights *weights);
/* The biases alone of these rows, [1,n]; up_bias NULL where not gated. Until they are set, biases are zero. */
moecl_status moecl_matrices_set_bias(moecl_matrices *matrices, size_t group, size_t first_row, const moecl_matrix *bias,
                                     const moecl_matrix *up_bias);
/* Where a group's biases lie; memory NULL where there are none. */
moecl_buffer moecl_matrices_bias(const moecl_matrices *matrices, size_t group);

/* The groups first to end-1 in one buffer. */
struct moecl_part {
    size_t first, end;
    moecl_buffer buffer;
};
struct moecl_part moecl_matrices_part(const moecl_matrices *matrices, size_t index);
size_t moecl_matrices_bytes(const moecl_matrices *matrices); /* NULL: 0 */

#endif
