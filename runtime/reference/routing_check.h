/* SPDX-License-Identifier: Apache-2.0 */
/* routing_check.h - a device's routing held against the reference's. */
#ifndef MOECL_RUNTIME_REFERENCE_ROUTING_CHECK_H
#define MOECL_RUNTIME_REFERENCE_ROUTING_CHECK_H

#include "router.h"
#include "verification.h"

struct moecl_routing_check {
    const struct moecl_reference_router *router;
    size_t first, tokens;  /* of all the tokens: for the words of an error */
    const double *logits;  /* [T,columns] */
    const double *errors;  /* [T,columns]: what the device's logits may be off from these by */
    const int32_t *ids;    /* [T,slots]: the device's */
    const float *weights;  /* [T,slots] */
    int32_t *expected_ids; /* out [T,slots]: the device's where they are right or in a near-tie, else the reference's */
    double *expected;      /* out [T,slots]: the weights of those */
    double *weight_errors; /* out [T,slots]: what the device's may be off by */
};
/* Judges ids and weights, and counts mismatches and near-ties. MOECL_OUT_OF_HOST_MEMORY. */
moecl_status moecl_verify_routing(struct moecl_verification *verification, const struct moecl_routing_check *check);

#endif
