/* SPDX-License-Identifier: Apache-2.0 */
/* full.c - every output of a forward pass against the reference.
 *
 * The routing is held against the reference's by what fp32 may make of the logits (routing_check.c). y is held against
 * the reference with the device's ids, near-ties included, and with the weights that these should have. What each
 * element of y may be off by is computed beside it (experts.c); the rounding to the type of y comes on top. */
#include "verification.h"

#include <math.h>

#include "bounds.h"
#include "device/memory.h"
#include "experts.h"
#include "parts.h"
#include "routing_check.h"

/* The reference's results for the chunk. */
struct reference {
    double *x;                       /* [T,H] */
    double *logits, *logit_errors;   /* [T,columns] */
    int32_t *ids;                    /* [T,slots] */
    double *weights, *weight_errors; /* [T,slots] */
    double *y, *y_errors;            /* [T,H] */
    double *row;                     /* [H] */
};

static moecl_status reference_allocate(struct reference *reference, const struct moecl_reference_router *router,
                                       size_t tokens)
{
    const size_t hidden = router->options->hidden;
    reference->x = moecl_reference_doubles(tokens, hidden);
    reference->logits = moecl_reference_doubles(tokens, router->columns);
    reference->logit_errors = moecl_reference_doubles(tokens, router->columns);
    reference->ids = moecl_allocate(tokens * router->slots, sizeof(int32_t));
    reference->weights = moecl_reference_doubles(tokens, router->slots);
    reference->weight_errors = moecl_reference_doubles(tokens, router->slots);
    reference->y = moecl_reference_doubles(tokens, hidden);
    reference->y_errors = moecl_reference_doubles(tokens, hidden);
    reference->row = moecl_reference_doubles(1, hidden);
    bool complete = reference->x && reference->logits && reference->logit_errors && reference->ids &&
                    reference->weights && reference->weight_errors && reference->y && reference->y_errors &&
                    reference->row;
    return complete ? MOECL_OK : MOECL_OUT_OF_HOST_MEMORY;
}

static void reference_free(struct reference *reference)
{
    moecl_free(reference->x);
    moecl_free(reference->logits);
    moecl_free(reference->logit_errors);
    moecl_free(reference->ids);
    moecl_free(reference->weights);
    moecl_free(reference->weight_errors);
    moecl_free(reference->y);
    moecl_free(reference->y_errors);
    moecl_free(reference->row);
}

static void check_output(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                         const struct reference *reference)
{
    const moecl_layer_options *options = verification->options;
    size_t hidden = options->hidden, size = moecl_type_size(options->activations);
    double largest = 0;
    for (size_t i = 0; i < chunk->tokens * hidden; i++)
        largest = fmax(largest, fabs(reference->y[i]));
    for (size_t t = 0; t < chunk->tokens; t++) {
        const char *y = (const char *)chunk->y + t * hidden * size;
        moecl_reference_read(y, options->activations, options->activations, hidden, reference->row);
        for (size_t c = 0; c < hidden; c++) {
            double expected = reference->y[t * hidden + c], error = fabs(reference->row[c] - expected);
            double rounding = moecl_verify_rounding_of(expected, options->activations);
            moecl_verify_judge(verification, error, reference->y_errors[t * hidden + c] + rounding, largest,
                               "y of token %zu, column %zu, is %.9g instead of %.9g", chunk->first + t, c,
                               reference->row[c], expected);
        }
    }
}

moecl_status moecl_verify_full(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk)
{
    moecl_status status = MOECL_OK;
    struct reference reference = {0};
    const moecl_layer_options *options = verification->options;
    struct moecl_reference_router router = verification->router;
    router.token_ids = chunk->token_ids;
    TRY(reference_allocate(&reference, &router, chunk->tokens));
    moecl_reference_read(chunk->x, MOECL_F32, options->activations, chunk->tokens * options->hidden, reference.x);
    TRY(moecl_bound_logits(&router, reference.x, chunk->tokens, reference.logits, reference.logit_errors));
    TRY(moecl_verify_routing(verification, &(struct moecl_routing_check){.router = &router,
                                                                         .first = chunk->first,
                                                                         .tokens = chunk->tokens,
                                                                         .logits = reference.logits,
                                                                         .errors = reference.logit_errors,
                                                                         .ids = chunk->ids,
                                                                         .weights = chunk->weights,
                                                                         .expected_ids = reference.ids,
                                                                         .expected = reference.weights,
                                                                         .weight_errors = reference.weight_errors}));
    TRY(moecl_reference_experts(&(struct moecl_reference_experts_call){.options = options,
                                                                       .weights = verification->weights,
                                                                       .vectors = router.vectors,
                                                                       .tokens = chunk->tokens,
                                                                       .x = reference.x,
                                                                       .ids = reference.ids,
                                                                       .routing_weights = reference.weights,
                                                                       .y = reference.y,
                                                                       .y_errors = reference.y_errors,
                                                                       .weight_errors = reference.weight_errors,
                                                                       .h_type = verification->h_type,
                                                                       .shared_h_type = verification->shared_h_type}));
    check_output(verification, chunk, &reference);
out:
    reference_free(&reference);
    if (status == MOECL_OUT_OF_HOST_MEMORY)
        moecl_error_set(&verification->context->error, status,
                        "moecl_verify: no host memory for a reference of %zu tokens", chunk->tokens);
    return status;
}
