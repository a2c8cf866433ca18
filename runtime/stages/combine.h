/* SPDX-License-Identifier: Apache-2.0 */
/* combine.h - the combine stage: the weighted sum over a token's experts. */
#ifndef MOECL_RUNTIME_COMBINE_H
#define MOECL_RUNTIME_COMBINE_H

#include <moecl/stages.h>

#include "device/launch.h"

moecl_status moecl_combine_kernel_create(struct moecl_context *context, moecl_type output, cl_kernel *kernel);
moecl_status moecl_combine_enqueue(cl_kernel kernel, struct moecl_chain *chain, const moecl_combine_call *call);

#endif
