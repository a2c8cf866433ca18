/* SPDX-License-Identifier: Apache-2.0 */
/* route.h - the route stage: logits to expert ids and routing weights. The logits are a grouped GEMM of one group. */
#ifndef MOECL_RUNTIME_ROUTE_H
#define MOECL_RUNTIME_ROUTE_H

#include <moecl/moecl.h>

#include "device/launch.h"

struct moecl_route_kernels {
    cl_kernel top_k;
};
moecl_status moecl_route_kernels_create(struct moecl_context *context, struct moecl_route_kernels *kernels);
void moecl_route_kernels_release(struct moecl_route_kernels *kernels);

struct moecl_route_call {
    size_t tokens, experts, top_k;
    bool normalise;
    moecl_buffer logits; /* f32 [tokens, stride], the first `experts` columns count */
    size_t stride;
    moecl_routing routing; /* out */
    moecl_buffer flag;     /* u32: MOECL_FLAG_NOT_FINITE where a logit is NaN or infinite */
};
moecl_status moecl_route_enqueue(const struct moecl_route_kernels *kernels, struct moecl_chain *chain,
                                 const struct moecl_route_call *call);

#endif
