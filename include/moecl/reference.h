/* SPDX-License-Identifier: Apache-2.0 */
/* reference.h - the layer in double precision on the host, and checks of a device layer against it. */
#ifndef MOECL_REFERENCE_H
#define MOECL_REFERENCE_H

#include <moecl/model.h>
#include <moecl/moecl.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Computes the layer that `options` describes, in double precision, in plain C. x [T,H] is rounded to
 * options->activations and the expert, shared and latent weights to options->weights first, as the device sees them;
 * nothing else is rounded. Any of y [T,H], ids [T,slots], routing_weights [T,slots] (moecl_layer_slots() choices a
 * token) and logits [T,R] may be NULL. With `ids_given` the routing is read from ids and routing_weights instead of
 * computed. MOECL_OUT_OF_HOST_MEMORY, MOECL_INVALID_ARGUMENT. */
typedef struct moecl_reference_call {
    const moecl_layer_options *options;
    const moecl_layer_weights *weights;
    size_t tokens;
    const float *x;
    const int32_t *token_ids; /* [T], of MOECL_SELECTION_TABLE; NULL otherwise */
    bool noisy;               /* as of moecl_forward */
    uint64_t step;
    bool ids_given;
    int32_t *ids;
    double *routing_weights;
    double *logits;
    double *y;
} moecl_reference_call;
MOECL_API moecl_status moecl_reference_forward(const moecl_reference_call *call);

/* How a check is done. */
typedef enum moecl_verify_method {
    MOECL_VERIFY_AUTO,   /* full while it is cheap, else by projection */
    MOECL_VERIFY_FULL,   /* every output against moecl_reference_forward() */
    MOECL_VERIFY_PROJECT /* each stage by random projection (Freivalds 1977), O(n^2) instead of O(n^3); and the
                          * forward pass must give the bits of its stages */
} moecl_verify_method;

typedef struct moecl_verify_report {
    moecl_verify_method method; /* the one used */
    bool passed;
    size_t id_mismatches; /* tokens whose expert ids differ from the reference's, near-ties apart */
    size_t near_ties;     /* tokens whose ids differ where what decides is closer than fp32 can tell */
    double max_error;     /* |y - reference| / max |reference| (projection: a stage's) where it is worst in proportion
                           * to its tolerance; DBL_MAX for NaN and infinity */
    double tolerance;     /* what max_error may be; the rounding of y to f16 or bf16 is part of it */
    bool deterministic;   /* a second forward pass gave the same bits */
    char worst[160];      /* where the largest error is, in words */
} moecl_verify_report;

/* Runs the layer on x (f32 [T,H] in host memory) and compares it with the reference. `weights` must be what the layer
 * was given. Token ids of a layer with an id table are drawn from `seed`; a layer whose noisy passes are other than its
 * quiet ones is checked in both, the step drawn from `seed` too. By projection, many tokens are checked in several
 * passes. A check that fails is a report with passed = false, not a failing status. */
MOECL_API moecl_status moecl_verify(moecl_context *context, moecl_layer *layer, const moecl_layer_weights *weights,
                                    size_t tokens, const float *x, moecl_verify_method method, uint64_t seed,
                                    moecl_verify_report *report);

#ifdef __cplusplus
}
#endif

#endif
