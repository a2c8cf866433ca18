/* SPDX-License-Identifier: Apache-2.0 */
/* parts.c - numbers as the device stores them, and small formulas. */
#include "parts.h"

#include <math.h>

#include "device/matrix.h"
#include "device/memory.h"

double moecl_reference_sigmoid(double value)
{
    return 1.0 / (1.0 + exp(-value));
}

double moecl_reference_softplus(double value)
{
    return fmax(value, 0) + log1p(exp(-fabs(value)));
}

/* The partial sums let a compiler use vector instructions without changing the order of any sum. */
double moecl_reference_inner_product(const double *a, const double *b, size_t count)
{
    enum { PARTS = 8 };
    double sums[PARTS] = {0};
    size_t whole = count - count % PARTS;
    for (size_t i = 0; i < whole; i += PARTS)
        for (size_t p = 0; p < PARTS; p++)
            sums[p] += a[i + p] * b[i + p];
    for (size_t i = whole; i < count; i++)
        sums[0] += a[i] * b[i];
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

double moecl_reference_norm(const double *values, size_t count)
{
    return sqrt(moecl_reference_inner_product(values, values, count));
}

double *moecl_reference_doubles(size_t rows, size_t columns)
{
    size_t count;
    return moecl_size_multiply(rows, columns, &count) ? moecl_allocate(count, sizeof(double)) : NULL;
}

enum { BLOCK = 512 };

/* The values of a block, read already, rounded to `storage` and made doubles. */
static void round_block(const void *from, moecl_type type, moecl_type storage, size_t count, double *to)
{
    uint32_t stored[BLOCK]; /* room for any type */
    float values[BLOCK];
    moecl_convert(from, type, stored, storage, count);
    moecl_convert(stored, storage, values, MOECL_F32, count);
    for (size_t i = 0; i < count; i++)
        to[i] = values[i];
}

void moecl_reference_read(const void *from, moecl_type type, moecl_type storage, size_t count, double *to)
{
    for (size_t done = 0; done < count; done += BLOCK) {
        size_t block = count - done < BLOCK ? count - done : BLOCK;
        round_block((const char *)from + done * moecl_type_size(type), type, storage, block, to + done);
    }
}

void moecl_reference_read_row(const moecl_matrix *matrix, size_t row, moecl_type storage, double *to)
{
    uint32_t stored[BLOCK]; /* room for any type */
    for (size_t done = 0; done < matrix->columns; done += BLOCK) {
        size_t block = matrix->columns - done < BLOCK ? matrix->columns - done : BLOCK;
        moecl_matrix_read_row(matrix, row, done, block, matrix->type, stored);
        round_block(stored, matrix->type, storage, block, to + done);
    }
}

void moecl_reference_input(const moecl_input *input, const double *norm, const double *x, size_t hidden, double *to)
{
    double factor = 1;
    if (input->normalised) {
        double mean = moecl_reference_inner_product(x, x, hidden) / (double)hidden;
        factor = (input->scale != 0 ? (double)input->scale : 1) / sqrt(mean + (double)input->epsilon);
    }
    for (size_t c = 0; c < hidden; c++)
        to[c] = x[c] * factor * (norm != NULL ? norm[c] : 1);
}
