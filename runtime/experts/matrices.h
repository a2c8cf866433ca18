/* SPDX-License-Identifier: Apache-2.0 */
/* matrices.h - the packed weight matrices of G groups (experts) on the device. */
#ifndef MOECL_RUNTIME_MATRICES_H
#define MOECL_RUNTIME_MATRICES_H

#include <moecl/stages.h>

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
    size_t group_bytes;
    size_t groups_a_part; /* of all parts but the last, which may hold fewer */
    size_t part_count;
    cl_mem *parts;
};

/* As moecl_matrices_create(), for a gemm that the caller keeps. options->variant and ->parameters are not looked at. */
moecl_status moecl_matrices_create_for(struct moecl_gemm *gemm, const moecl_matrices_options *options,
                                       moecl_matrices **matrices);
/* As moecl_matrices_set(), for the rows `first_row` on of the group; other rows stay as they are. */
moecl_status moecl_matrices_set_rows(moecl_matrices *matrices, size_t group, size_t first_row,
                                     const moecl_matrix *matrix, const moecl_matrix *up);
/* Checks that `matrix` has data and is [rows, columns]; the sentence names `what`. */
moecl_status moecl_matrix_check(struct moecl_context *context, const moecl_matrix *matrix, size_t rows, size_t columns,
                                const char *what);

/* The groups first to end-1 in one buffer. */
struct moecl_part {
    size_t first, end;
    moecl_buffer buffer;
};
struct moecl_part moecl_matrices_part(const moecl_matrices *matrices, size_t index);
size_t moecl_matrices_bytes(const moecl_matrices *matrices); /* NULL: 0 */

#endif
