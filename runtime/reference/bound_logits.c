/* SPDX-License-Identifier: Apache-2.0 */
/* bound_logits.c - the logits, and what fp32 may make of them. */
#include <math.h>

#include "bounds.h"
#include "device/error.h"
#include "device/memory.h"
#include "parts.h"
#include "philox.h"
#include "verification.h"

static const double u = 0x1p-24;

struct work {
    double *x;             /* [T,H]: x' */
    double *row;           /* [H] */
    double *noise, *error; /* [T,R]: W_noise x' */
    double relative;       /* error of x' */
};

/* The product of a matrix with all x', and its errors, both [T,columns]. */
static void multiply(const struct work *work, const moecl_matrix *matrix, size_t tokens, size_t columns, double *to,
                     double *errors)
{
    const size_t hidden = matrix->columns;
    for (size_t r = 0; r < matrix->rows; r++) {
        moecl_reference_read_row(matrix, r, MOECL_F32, work->row);
        for (size_t t = 0; t < tokens; t++) {
            double squares, spread;
            double product =
                moecl_bound_inner_product(work->row, &work->x[t * hidden], NULL, hidden, &squares, &spread);
            to[t * columns + r] = product;
            errors[t * columns + r] =
                moecl_bound_product(hidden, product, squares) + work->relative * (fabs(product) + 3 * sqrt(squares));
        }
    }
}

/* Bias, softcap and noise add their own: tanh is off by a few units in the last place; normal numbers are
 * exact, what they multiply is not. None of them makes an error of z larger. */
static void finish(const struct moecl_reference_router *router, const struct work *work, size_t token, double *logits,
                   double *errors)
{
    const moecl_router *options = &router->options->router;
    const bool noisy = router->noisy && options->noise;
    const double *noise = &work->noise[token * router->outputs], *noise_errors = &work->error[token * router->outputs];
    moecl_reference_finish_logits(router, token, noisy ? noise : NULL, logits);
    for (size_t e = 0; e < router->columns; e++) {
        const bool output = e < router->outputs;
        double rounding = 0;
        if (output && options->biased)
            rounding += 2 * u * (fabs(logits[e]) + fabs(router->vectors[MOECL_VECTOR_ROUTER_BIAS][e]));
        if (output && options->softcap > 0)
            rounding += 32 * u * fmin(fabs(logits[e]), (double)options->softcap);
        if (output && noisy) {
            const double normal = moecl_philox_normal(options->seed, router->step, token, e, MOECL_PHILOX_NOISE);
            const double deviation = moecl_reference_softplus(noise[e]);
            rounding += fabs(normal) * (noise_errors[e] + 32 * u * deviation) + 2 * u * fabs(logits[e]);
        }
        errors[e] = moecl_reference_is_masked(logits[e]) ? 0 : errors[e] + rounding;
    }
}

moecl_status moecl_bound_logits(const struct moecl_reference_router *router, const double *x, size_t tokens,
                                double *logits, double *errors)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = router->options;
    const size_t hidden = options->hidden;
    const bool noisy = router->noisy && options->router.noise;
    struct work work = {.x = moecl_reference_doubles(tokens, hidden),
                        .row = moecl_reference_doubles(1, hidden),
                        .noise = moecl_reference_doubles(noisy ? tokens : 0, router->outputs),
                        .error = moecl_reference_doubles(noisy ? tokens : 0, router->outputs)};
    if (work.x == NULL || work.row == NULL || work.noise == NULL || work.error == NULL)
        TRY(MOECL_OUT_OF_HOST_MEMORY);
    work.relative = moecl_bound_input(&options->router_input, hidden) +
                    (router->noisy && options->router.input_jitter > 0 ? 4 * u : 0);
    for (size_t t = 0; t < tokens; t++)
        moecl_reference_router_input(router, t, &x[t * hidden], &work.x[t * hidden]);
    multiply(&work, &router->weights->router, tokens, router->columns, logits, errors);
    if (noisy)
        multiply(&work, &router->weights->noise, tokens, router->outputs, work.noise, work.error);
    for (size_t t = 0; t < tokens; t++)
        finish(router, &work, t, &logits[t * router->columns], &errors[t * router->columns]);
out:
    moecl_free(work.x);
    moecl_free(work.row);
    moecl_free(work.noise);
    moecl_free(work.error);
    return status;
}
