/* SPDX-License-Identifier: Apache-2.0 */
/* bounds.h - what fp32 may make of a routing: the steps of router.h once more, each with how far the device's result
 * may be from the exact one. Bounds are absolute and of first order; u = 2^-24. */
#ifndef MOECL_RUNTIME_REFERENCE_BOUNDS_H
#define MOECL_RUNTIME_REFERENCE_BOUNDS_H

#include "router.h"

/* What rounding may do to an inner product of `terms` products in fp32, whose exact value is `product` and whose terms'
 * squares add up to `squares`.
 *
 * A sum of n terms is rounded n times, each time by at most u of a partial sum. These errors behave like independent
 * ones of mean zero and add up to sqrt(n) u times the size of a partial sum, not to n times it (Higham and Mary 2019, A
 * new approach to probabilistic rounding error analysis), in whatever order the sum is taken. A partial sum is on its
 * way to the product, and off that way by what a random walk of these steps is, the root of their squares; three times
 * that, and the factor 4 of moecl_verify_rounding(), leave terms of like sign room to stand together. */
double moecl_bound_product(size_t terms, double product, double squares);
/* sum a_i b_i and what bounds need of it: *squares = sum a_i^2 b_i^2, *spread = sqrt(sum a_i^2 e_i^2), which errors e
 * of b do to it (e NULL: 0), independent as they are. */
double moecl_bound_inner_product(const double *a, const double *b, const double *e, size_t count, double *squares,
                                 double *spread);
/* The relative error of x' or of what an expert reads in its place. */
double moecl_bound_input(const moecl_input *input, size_t hidden);

/* z of x [T,H], and what the device's may be off by: logits and errors [T,columns]. */
moecl_status moecl_bound_logits(const struct moecl_reference_router *router, const double *x, size_t tokens,
                                double *logits, double *errors);

/* What a token's scores and keys are, and what they may be off by. */
struct moecl_token_bounds {
    double scores[MOECL_MAX_EXPERTS], score_errors[MOECL_MAX_EXPERTS];
    double group_scores[MOECL_MAX_EXPERTS], group_errors[MOECL_MAX_EXPERTS]; /* of HIERARCHICAL */
    double keys[MOECL_MAX_EXPERTS], key_errors[MOECL_MAX_EXPERTS];
};
/* Of logits [columns] that may be off by `errors`. */
void moecl_bound_scores(const struct moecl_reference_router *router, const double *logits, const double *errors,
                        struct moecl_token_bounds *bounds);
void moecl_bound_keys(const struct moecl_reference_router *router, const double *logits, const double *errors,
                      struct moecl_token_bounds *bounds);
/* The relative error of Sinkhorn keys of all tokens. */
double moecl_bound_sinkhorn(const struct moecl_reference_router *router, const double *logits, const double *errors,
                            size_t tokens);

/* The steps from choices to weights; arrays are [slots]. */
void moecl_bound_choice_scores(const struct moecl_reference_router *router, const double *logits, const double *errors,
                               const struct moecl_token_bounds *bounds, const int32_t *ids, double *choice_scores,
                               double *choice_errors);
void moecl_bound_weights(const struct moecl_reference_router *router, const double *logits, const double *errors,
                         const double *choice_scores, const double *choice_errors, const int32_t *ids, double *weights,
                         double *weight_errors);
void moecl_bound_normalise(const struct moecl_reference_router *router, double *weights, double *weight_errors);
void moecl_bound_scale(const struct moecl_reference_router *router, const int32_t *ids, double *weights,
                       double *weight_errors);

#endif
