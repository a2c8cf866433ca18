/* SPDX-License-Identifier: Apache-2.0 */
/* selection_bias.h - loss-free balancing: the selection bias moves against the load. */
#ifndef MOECL_RUNTIME_SELECTION_BIAS_H
#define MOECL_RUNTIME_SELECTION_BIAS_H

#include <moecl/moecl.h>

#include "device/launch.h"

moecl_status moecl_selection_bias_kernel_create(struct moecl_context *context, cl_kernel *kernel);
/* bias f32 [R] += rate * sign(mean load - load), of load u32 [R]. */
moecl_status moecl_selection_bias_enqueue(cl_kernel kernel, struct moecl_chain *chain, size_t outputs, float rate,
                                          moecl_buffer load, moecl_buffer bias);

#endif
