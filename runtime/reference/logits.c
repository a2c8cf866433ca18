/* SPDX-License-Identifier: Apache-2.0 */
/* logits.c - z = W_router x' with its bias, softcap and noise. */
#include <math.h>

#include "device/error.h"
#include "device/memory.h"
#include "layer/options.h"
#include "parts.h"
#include "philox.h"
#include "router.h"

moecl_status moecl_reference_router_open(struct moecl_reference_router *router, const moecl_layer_options *options,
                                         const moecl_layer_weights *weights)
{
    moecl_status status = MOECL_OK;
    *router = (struct moecl_reference_router){.options = options, .weights = weights};
    router->outputs = moecl_router_outputs(options);
    router->groups = options->router.groups > 1 ? options->router.groups : 1;
    router->columns = moecl_router_rows(options);
    router->slots = moecl_layer_slots(options);
    for (int v = 0; v < MOECL_VECTOR_COUNT; v++) {
        size_t length = moecl_vector_length(options, (moecl_vector)v);
        if (length == 0)
            continue;
        router->vectors[v] = moecl_reference_doubles(1, length);
        if (router->vectors[v] == NULL)
            TRY(MOECL_OUT_OF_HOST_MEMORY);
        moecl_reference_read_row(&weights->vectors[v], 0, MOECL_F32, router->vectors[v]);
    }
out:
    return status;
}

void moecl_reference_router_close(struct moecl_reference_router *router)
{
    for (int v = 0; v < MOECL_VECTOR_COUNT; v++)
        moecl_free(router->vectors[v]);
}

void moecl_reference_router_input(const struct moecl_reference_router *router, size_t token, const double *x,
                                  double *to)
{
    const moecl_layer_options *options = router->options;
    const double jitter = router->noisy ? (double)options->router.input_jitter : 0;
    moecl_reference_input(&options->router_input, router->vectors[MOECL_VECTOR_ROUTER_NORM], x, options->hidden, to);
    for (size_t c = 0; jitter > 0 && c < options->hidden; c++)
        to[c] *= 1 - jitter +
                 2 * jitter * moecl_philox_uniform(options->router.seed, router->step, token, c, MOECL_PHILOX_JITTER);
}

void moecl_reference_finish_logits(const struct moecl_reference_router *router, size_t token, const double *noise,
                                   double *logits)
{
    const double *bias = router->vectors[MOECL_VECTOR_ROUTER_BIAS];
    const double softcap = (double)router->options->router.softcap;
    for (size_t e = 0; bias != NULL && e < router->outputs; e++)
        logits[e] += bias[e];
    for (size_t e = 0; softcap > 0 && e < router->outputs; e++)
        logits[e] = softcap * tanh(logits[e] / softcap);
    for (size_t e = 0; noise != NULL && e < router->outputs; e++)
        logits[e] += moecl_reference_softplus(noise[e]) *
                     moecl_philox_normal(router->options->router.seed, router->step, token, e, MOECL_PHILOX_NOISE);
}

/* to[t * columns + r] = (W x_t)_r */
static void multiply(const moecl_matrix *matrix, const double *x, size_t tokens, size_t columns, double *row,
                     double *to)
{
    for (size_t r = 0; r < matrix->rows; r++) {
        moecl_reference_read_row(matrix, r, MOECL_F32, row);
        for (size_t t = 0; t < tokens; t++)
            to[t * columns + r] = moecl_reference_inner_product(row, &x[t * matrix->columns], matrix->columns);
    }
}

moecl_status moecl_reference_logits(const struct moecl_reference_router *router, const double *x, size_t tokens,
                                    double *logits)
{
    moecl_status status = MOECL_OK;
    const size_t hidden = router->options->hidden;
    const bool noisy = router->noisy && router->options->router.noise;
    double *input = moecl_reference_doubles(tokens, hidden), *row = moecl_reference_doubles(1, hidden);
    double *noise = moecl_reference_doubles(noisy ? tokens : 0, router->outputs);
    if (input == NULL || row == NULL || noise == NULL)
        TRY(MOECL_OUT_OF_HOST_MEMORY);
    for (size_t t = 0; t < tokens; t++)
        moecl_reference_router_input(router, t, &x[t * hidden], &input[t * hidden]);
    multiply(&router->weights->router, input, tokens, router->columns, row, logits);
    if (noisy)
        multiply(&router->weights->noise, input, tokens, router->outputs, row, noise);
    for (size_t t = 0; t < tokens; t++)
        moecl_reference_finish_logits(router, t, noisy ? &noise[t * router->outputs] : NULL,
                                      &logits[t * router->columns]);
out:
    moecl_free(input);
    moecl_free(row);
    moecl_free(noise);
    return status;
}
