/* SPDX-License-Identifier: Apache-2.0 */
/* parts.c - the formulas of the layer in double precision. */
#include "parts.h"

#include <math.h>

double moecl_reference_sigmoid(double value)
{
    return 1.0 / (1.0 + exp(-value));
}

double moecl_reference_silu(double value)
{
    return value * moecl_reference_sigmoid(value);
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

void moecl_reference_read(const void *from, moecl_type type, moecl_type storage, size_t count, double *to)
{
    enum { BLOCK = 512 };
    uint32_t stored[BLOCK]; /* room for any type */
    float values[BLOCK];
    for (size_t done = 0; done < count; done += BLOCK) {
        size_t block = count - done < BLOCK ? count - done : BLOCK;
        moecl_convert((const char *)from + done * moecl_type_size(type), type, stored, storage, block);
        moecl_convert(stored, storage, values, MOECL_F32, block);
        for (size_t i = 0; i < block; i++)
            to[done + i] = values[i];
    }
}

void moecl_reference_read_row(const moecl_matrix *matrix, size_t row, moecl_type storage, double *to)
{
    const char *from = (const char *)matrix->data + row * matrix->columns * moecl_type_size(matrix->type);
    moecl_reference_read(from, matrix->type, storage, matrix->columns, to);
}

static bool higher(double a, double b)
{
    return (isnan(a) ? -INFINITY : a) > (isnan(b) ? -INFINITY : b);
}

void moecl_reference_select(const double *logits, size_t experts, size_t top_k, int32_t *ids)
{
    for (size_t e = 0; e < experts; e++) {
        size_t place = e < top_k ? e : top_k;
        while (place > 0 && higher(logits[e], logits[ids[place - 1]])) {
            place--;
            if (place + 1 < top_k)
                ids[place + 1] = ids[place];
        }
        if (place < top_k)
            ids[place] = (int32_t)e;
    }
}

void moecl_reference_weigh(const double *logits, size_t experts, const int32_t *ids, size_t top_k, bool normalise,
                           double *weights)
{
    double largest = logits[0];
    for (size_t e = 1; e < experts; e++)
        largest = fmax(largest, logits[e]);
    double sum = 0;
    for (size_t e = 0; e < experts; e++)
        sum += exp(logits[e] - largest);

    double chosen = 0;
    for (size_t j = 0; j < top_k; j++) {
        weights[j] = exp(logits[ids[j]] - largest) / sum;
        chosen += weights[j];
    }
    for (size_t j = 0; normalise && j < top_k; j++)
        weights[j] /= chosen;
}

static bool has_shape(const moecl_matrix *matrix, size_t rows, size_t columns)
{
    return matrix->data != NULL && moecl_type_size(matrix->type) > 0 && matrix->rows == rows &&
           matrix->columns == columns;
}

static bool expert_has_shape(const moecl_expert_weights *expert, size_t hidden, size_t intermediate)
{
    return has_shape(&expert->gate, intermediate, hidden) && has_shape(&expert->up, intermediate, hidden) &&
           has_shape(&expert->down, hidden, intermediate);
}

moecl_status moecl_reference_check(const moecl_layer_options *options, const moecl_layer_weights *weights)
{
    if (options == NULL || weights == NULL || weights->experts == NULL)
        return MOECL_INVALID_ARGUMENT;
    size_t most = options->experts < MOECL_MAX_TOP_K ? options->experts : MOECL_MAX_TOP_K;
    if (options->experts > MOECL_MAX_EXPERTS || options->top_k < 1 || options->top_k > most || options->hidden < 1 ||
        options->intermediate < 1 || moecl_type_size(options->weights) == 0 ||
        moecl_type_size(options->activations) == 0)
        return MOECL_INVALID_ARGUMENT;

    bool fits = has_shape(&weights->router, options->experts, options->hidden);
    for (size_t e = 0; fits && e < options->experts; e++)
        fits = expert_has_shape(&weights->experts[e], options->hidden, options->intermediate);
    if (options->shared_intermediate > 0)
        fits = fits && expert_has_shape(&weights->shared, options->hidden, options->shared_intermediate) &&
               (!options->shared_gate || has_shape(&weights->shared_gate, 1, options->hidden));
    return fits ? MOECL_OK : MOECL_INVALID_ARGUMENT;
}
