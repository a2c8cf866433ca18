/* SPDX-License-Identifier: Apache-2.0 */
/* capacity.h - experts of limited room: takes back the choices of a pass that their experts have no room for. */
#ifndef MOECL_RUNTIME_CAPACITY_H
#define MOECL_RUNTIME_CAPACITY_H

#include <moecl/moecl.h>

#include "device/launch.h"
#include "permute.h"

struct moecl_capacity_kernels {
    cl_kernel transpose, positions, probabilities;
    struct moecl_permute_kernels permute;
};
moecl_status moecl_capacity_kernels_create(struct moecl_context *context, struct moecl_capacity_kernels *kernels);
void moecl_capacity_kernels_release(struct moecl_capacity_kernels *kernels);

/* C, the rows an expert has room for in a pass of `tokens` tokens; tokens * top_k where there is no limit. The formula
 * is evaluated in double precision with the shortest decimal number that `value` is the float of, so that 1.2f counts
 * as 1.2, as it does where factors are Python's numbers. */
size_t moecl_capacity_rows(const moecl_capacity *capacity, size_t tokens, size_t top_k, size_t experts);

struct moecl_capacity_call {
    size_t tokens, slots; /* T of the whole pass; choices a token, k */
    size_t experts;       /* E: ids of E and more have no limit */
    size_t rows;          /* C */
    moecl_capacity_order order;
    moecl_routing routing; /* in and out: [tokens,slots]; a choice taken back gets the id -1 and the weight 0 */
    moecl_buffer workspace;
};

/* Bytes of workspace. 0 on overflow. */
size_t moecl_capacity_workspace_size(size_t tokens, size_t slots, size_t experts);
/* Queues the stage. Where the weights are normalised afterwards, moecl_route_finish_enqueue() does that. */
moecl_status moecl_capacity_enqueue(const struct moecl_capacity_kernels *kernels, struct moecl_chain *chain,
                                    const struct moecl_capacity_call *call);

#endif
