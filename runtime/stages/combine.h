/* SPDX-License-Identifier: Apache-2.0 */
/* combine.h - the combine stage: the weighted sum over a token's experts. */
#ifndef MOECL_RUNTIME_COMBINE_H
#define MOECL_RUNTIME_COMBINE_H

#include <moecl/stages.h>

#include "device/launch.h"

/* A kernel for y of the type `output` and, of zero experts, x of the type `x`. */
moecl_status moecl_combine_kernel_create(struct moecl_context *context, moecl_type output, moecl_type x,
                                         cl_kernel *kernel);
/* Ids from E to outputs - 1 are zero experts; larger ones give nothing. The types are the kernel's. Without rows, the
 * permutation did not look at the ids: those that are neither -1 nor below `outputs` raise MOECL_FLAG_BAD_EXPERT. */
moecl_status moecl_combine_enqueue(cl_kernel kernel, struct moecl_chain *chain, const moecl_combine_call *call,
                                   size_t outputs, moecl_buffer flag);

#endif
