/* SPDX-License-Identifier: Apache-2.0 */
/* projection.h - a product checked by random projection. */
#ifndef MOECL_RUNTIME_REFERENCE_PROJECTION_H
#define MOECL_RUNTIME_REFERENCE_PROJECTION_H

#include "verification.h"

/* A product's rows on the host. */
struct moecl_product_rows {
    const char *what;      /* "gate", ...: for the words of an error */
    const double *input;   /* rows of K */
    const size_t *sources; /* row r of the product reads input row sources[r] / divisor; NULL: row r */
    size_t divisor;
    const float *output; /* row r begins at output + r * stride */
    size_t stride;
};

/* Checks the rows begin to end - 1 of a product, which are those of `matrix` and, where it is not NULL, of `bias`,
 * from column `column` of the output on. */
moecl_status moecl_verify_product(struct moecl_verification *verification, const struct moecl_product_rows *rows,
                                  const moecl_matrix *matrix, const moecl_matrix *bias, moecl_type storage,
                                  size_t begin, size_t end, size_t column);

#endif
