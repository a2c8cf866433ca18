/* SPDX-License-Identifier: Apache-2.0 */
/* verification.h - what the parts of moecl_verify() share.
 *
 *     verify.c      runs the forward pass and picks the check
 *     full.c        every output against the reference
 *     staged.c      runs the stages one by one and brings what each gave to the host
 *     projection.c  checks what each stage gave
 */
#ifndef MOECL_RUNTIME_REFERENCE_VERIFICATION_H
#define MOECL_RUNTIME_REFERENCE_VERIFICATION_H

#include <moecl/reference.h>
#include <moecl/stages.h>

#include "device/context.h"
#include "router.h"

struct moecl_verification {
    struct moecl_context *context;
    moecl_layer *layer;
    const moecl_layer_options *options;
    const moecl_layer_weights *weights;
    struct moecl_reference_router router; /* in double precision; noisy where the pass is */
    moecl_type h_type, shared_h_type;     /* what the experts' and the shared expert's down product round h to */
    uint64_t random;                      /* state of the random numbers */
    moecl_verify_report *report;
    double worst; /* error / allowed of the worst so far; negative at first */
};

/* A chunk of the tokens, and what the layer's forward pass made of it. */
struct moecl_verify_chunk {
    size_t first, tokens;     /* of all the tokens */
    const float *x;           /* [T,H] as given */
    moecl_buffer device_x;    /* activations [T,H] */
    const int32_t *token_ids; /* [T]; NULL: the layer has no table */
    moecl_buffer device_token_ids;
    void *y;        /* activations [T,H] */
    int32_t *ids;   /* [T,slots] */
    float *weights; /* [T,slots] */
};

/* Holds an error against what is allowed, and fails the report when it is more, or NaN. Of the error that is worst in
 * proportion the report keeps both, relative to `scale` (where that is not 0), and the words for it. */
void moecl_verify_judge(struct moecl_verification *verification, double error, double allowed, double scale,
                        const char *format, ...) MOECL_PRINTF(5, 6);
/* Fails the report for what must be exact and is not. */
#define MOECL_VERIFY_WRONG(verification, ...) moecl_verify_judge((verification), 1, 0, 1, __VA_ARGS__)
/* The largest relative error of rounding a value to a type. */
double moecl_verify_roundoff(moecl_type type);
/* What rounding `value` to a type may change it by. */
double moecl_verify_rounding_of(double value, moecl_type type);
/* What rounding may do to an inner product of `terms` products in fp32, relative to the norms of its two vectors.
 *
 * Each of its terms + 1 roundings is off by at most u = 2^-24 of a partial sum, and no partial sum exceeds |a||b|
 * (Cauchy and Schwarz). Rounding errors behave like independent ones of mean zero, so they add up like a random walk,
 * to sqrt(terms) u |a||b| and not to terms u |a||b| (Higham and Mary 2019, A new approach to probabilistic rounding
 * error analysis), in whatever order the sum is taken; the factor 4 is more than six standard deviations. */
double moecl_verify_rounding(size_t terms);

moecl_status moecl_verify_full(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk);
moecl_status moecl_verify_project(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk);

#endif
