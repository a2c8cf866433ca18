/* SPDX-License-Identifier: Apache-2.0 */
/* permute.h - the permute stage: assignments sorted by expert, on the device. */
#ifndef MOECL_RUNTIME_PERMUTE_H
#define MOECL_RUNTIME_PERMUTE_H

#include <moecl/stages.h>

#include "device/launch.h"

struct moecl_permute_kernels {
    cl_kernel count, scan, offsets, scatter;
};
moecl_status moecl_permute_kernels_create(struct moecl_context *context, struct moecl_permute_kernels *kernels);
void moecl_permute_kernels_release(struct moecl_permute_kernels *kernels);

/* Queues the stage. `flag` (u32; memory NULL: none) gets MOECL_FLAG_BAD_EXPERT where an id is out of range. */
moecl_status moecl_permute_enqueue(const struct moecl_permute_kernels *kernels, struct moecl_chain *chain,
                                   size_t tokens, size_t top_k, size_t experts, moecl_buffer ids,
                                   const moecl_permutation *permutation, moecl_buffer workspace, moecl_buffer flag);

#endif
