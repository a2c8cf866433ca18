/* SPDX-License-Identifier: Apache-2.0 */
/* experts.h - the experts and the sum over them, in double precision. */
#ifndef MOECL_RUNTIME_REFERENCE_EXPERTS_H
#define MOECL_RUNTIME_REFERENCE_EXPERTS_H

#include <moecl/model.h>

/* y [T,H] of x [T,H] and a routing [T,slots]. An id of -1 gives nothing, nor does one outside 0..R-1. */
struct moecl_reference_experts_call {
    const moecl_layer_options *options;
    const moecl_layer_weights *weights;
    double *const *vectors; /* as of struct moecl_reference_router */
    size_t tokens;
    const double *x;
    const int32_t *ids;
    const double *routing_weights;
    double *y;
    /* What the device's y may be off by, where it is wanted (else NULL): [T,H], all but the rounding of y itself. */
    double *y_errors;
    const double *weight_errors; /* [T,slots]: of the routing weights */
    moecl_type h_type;           /* that the experts' down products take h in */
    moecl_type shared_h_type;    /* and the shared expert's */
};
moecl_status moecl_reference_experts(const struct moecl_reference_experts_call *call);

/* c_0 and c_1 of the routed and the shared sum, of the shared gate's logits; shared_scale included. */
void moecl_reference_coefficients(const moecl_layer_options *options, const double *gate_logits, double *routed,
                                  double *shared);

#endif
