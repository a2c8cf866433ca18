/* SPDX-License-Identifier: Apache-2.0 */
/* permute.h - the permute stage: assignments sorted by expert, on the device. */
#ifndef MOECL_RUNTIME_PERMUTE_H
#define MOECL_RUNTIME_PERMUTE_H

#include <moecl/stages.h>

#include "device/launch.h"

struct moecl_permute_kernels {
    cl_kernel count, scan, offsets, scatter, few;
};
moecl_status moecl_permute_kernels_create(struct moecl_context *context, struct moecl_permute_kernels *kernels);
void moecl_permute_kernels_release(struct moecl_permute_kernels *kernels);

/* tokens * slots > 0 and below 2^31. An id of -1 has no row; nor have those of E to R-1, the zero experts. */
struct moecl_permute_call {
    size_t tokens, slots; /* T, and the choices that a token has room for */
    size_t experts;       /* E */
    size_t outputs;       /* R, at least E */
    size_t row_capacity;  /* rows there can be at most, and entries of permutation.assignments: rows beyond are left out
                           * (as if their id were -1), so offsets[E] does not pass it */
    moecl_buffer ids;     /* i32 [T,slots] */
    moecl_permutation permutation;
    moecl_buffer workspace; /* moecl_permute_workspace_size(tokens, slots, experts) */
    moecl_buffer flag;      /* u32; memory NULL: none; gets MOECL_FLAG_BAD_EXPERT where an id is outside -1..R-1 */
};
moecl_status moecl_permute_enqueue(const struct moecl_permute_kernels *kernels, struct moecl_chain *chain,
                                   const struct moecl_permute_call *call);

#endif
