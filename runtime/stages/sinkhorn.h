/* SPDX-License-Identifier: Apache-2.0 */
/* sinkhorn.h - selection keys balanced over the tokens of a pass; the route stage then picks by them. */
#ifndef MOECL_RUNTIME_SINKHORN_H
#define MOECL_RUNTIME_SINKHORN_H

#include <moecl/stages.h>

#include "device/launch.h"

struct moecl_sinkhorn_kernels {
    cl_kernel exponentials, rows, partial_sums, columns, keys;
};
moecl_status moecl_sinkhorn_kernels_create(struct moecl_context *context, struct moecl_sinkhorn_kernels *kernels);
void moecl_sinkhorn_kernels_release(struct moecl_sinkhorn_kernels *kernels);

moecl_status moecl_sinkhorn_enqueue(const struct moecl_sinkhorn_kernels *kernels, struct moecl_chain *chain,
                                    const moecl_sinkhorn_call *call);

#endif
