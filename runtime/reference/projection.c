/* SPDX-License-Identifier: Apache-2.0 */
/* projection.c - products checked in O(n^2), so that real sizes are verified in seconds.
 *
 * A product Y = X W^T (X [rows,K], W [N,K]) is checked by projection (Freivalds 1977): for a random vector r [N], both
 * Y r and X (W^T r) are made in double precision, which takes rows*N + N*K + rows*K steps instead of rows*N*K, and
 * compared row by row. The numbers of r have random signs and sizes from 1 to 2, and four such vectors are tried.
 *
 * What that detects, with R = |W| |x| (Frobenius norm; a typical element of y has the size R / sqrt(N K)) and the
 * tolerance c(K) R of moecl_verify_rounding():
 *   - one wrong element of y, off by more than 2 c(K) R: always, since no |r_o| is below 1
 *   - several wrong elements in a row: unless their errors cancel, in all four projections. Two elements exchanged, or
 *     one error of opposite signs, come within the tolerance of cancelling with a chance of about 2 c(K) R / error each
 *   - a wrong row, a wrong expert, an error in W: they are wrong elements in many rows, and one row suffices
 * What it cannot detect: errors below the tolerance, which is that of fp32 rounding. The projected rounding errors of
 * the N elements have random signs, so their sum grows with the square root of N as R does, and c(K) R is more than
 * four of its standard deviations even if every partial sum were as large as it can be, about eight if they grow
 * steadily, and far more for terms of random sign. */
#include "projection.h"

#include <math.h>
#include <string.h>

#include "device/memory.h"
#include "parts.h"
#include "random.h"

enum { PROJECTIONS = 4 };

/* Memory for the projections of one matrix. */
struct projection {
    double *directions; /* [PROJECTIONS,N]: r */
    double *images;     /* [PROJECTIONS,K]: W^T r */
    double *row;        /* a row of W, or of the output */
};

static void projection_free(struct projection *projection)
{
    moecl_free(projection->directions);
    moecl_free(projection->images);
    moecl_free(projection->row);
}

static moecl_status projection_allocate(struct projection *projection, size_t rows, size_t columns)
{
    projection->directions = moecl_allocate(PROJECTIONS * rows, sizeof(double));
    projection->images = moecl_allocate(PROJECTIONS * columns, sizeof(double));
    projection->row = moecl_allocate(rows > columns ? rows : columns, sizeof(double));
    return projection->directions && projection->images && projection->row ? MOECL_OK : MOECL_OUT_OF_HOST_MEMORY;
}

/* Draws the directions and makes W^T r; *norm is |W|. */
static void project_matrix(uint64_t *random, const moecl_matrix *matrix, moecl_type storage,
                           struct projection *projection, double *norm)
{
    size_t rows = matrix->rows, columns = matrix->columns;
    double squares = 0;
    memset(projection->images, 0, PROJECTIONS * columns * sizeof(double));
    for (size_t o = 0; o < rows; o++) {
        moecl_reference_read_row(matrix, o, storage, projection->row);
        squares += moecl_reference_inner_product(projection->row, projection->row, columns);
        for (size_t p = 0; p < PROJECTIONS; p++) {
            double size = 1 + moecl_random_uniform(random);
            double r = moecl_random_next(random) & 1 ? size : -size;
            double *image = &projection->images[p * columns];
            projection->directions[p * rows + o] = r;
            for (size_t k = 0; k < columns; k++)
                image[k] += r * projection->row[k];
        }
    }
    *norm = sqrt(squares);
}

/* r . bias of every direction; *norm is |bias|, 0 where there is none. */
static void project_bias(const moecl_matrix *bias, struct projection *projection, size_t count,
                         double shares[PROJECTIONS], double *norm)
{
    *norm = 0;
    for (size_t p = 0; p < PROJECTIONS; p++)
        shares[p] = 0;
    if (bias == NULL)
        return;
    moecl_reference_read_row(bias, 0, MOECL_F32, projection->row);
    *norm = moecl_reference_norm(projection->row, count);
    for (size_t p = 0; p < PROJECTIONS; p++)
        shares[p] = moecl_reference_inner_product(&projection->directions[p * count], projection->row, count);
}

moecl_status moecl_verify_product(struct moecl_verification *verification, const struct moecl_product_rows *rows,
                                  const moecl_matrix *matrix, const moecl_matrix *bias, moecl_type storage,
                                  size_t begin, size_t end, size_t column)
{
    moecl_status status = MOECL_OK;
    struct projection projection = {0};
    size_t width = matrix->rows, depth = matrix->columns;
    double matrix_norm, bias_norm, shares[PROJECTIONS], tolerance = moecl_verify_rounding(depth);
    if (begin == end)
        return MOECL_OK;
    TRY(projection_allocate(&projection, width, depth));
    project_matrix(&verification->random, matrix, storage, &projection, &matrix_norm);
    project_bias(bias, &projection, width, shares, &bias_norm);
    for (size_t r = begin; r < end; r++) {
        size_t source = rows->sources != NULL ? rows->sources[r] / rows->divisor : r;
        const double *input = &rows->input[source * depth];
        const float *output = &rows->output[r * rows->stride + column];
        double scale = matrix_norm * moecl_reference_norm(input, depth) + bias_norm;
        for (size_t o = 0; o < width; o++)
            projection.row[o] = (double)output[o];
        for (size_t p = 0; p < PROJECTIONS; p++) {
            double expected = moecl_reference_inner_product(&projection.images[p * depth], input, depth) + shares[p];
            double got = moecl_reference_inner_product(&projection.directions[p * width], projection.row, width);
            moecl_verify_judge(verification, fabs(got - expected), tolerance * scale, scale,
                               "%s: row %zu projects to %.9g instead of %.9g", rows->what, r, got, expected);
        }
    }
out:
    projection_free(&projection);
    return status;
}
