/* SPDX-License-Identifier: Apache-2.0 */
/* statistics.h - the load of the experts and its figures, on the device. */
#ifndef MOECL_RUNTIME_STATISTICS_H
#define MOECL_RUNTIME_STATISTICS_H

#include <moecl/stages.h>

#include "device/launch.h"

struct moecl_statistics_kernels {
    cl_kernel count, figures;
};
moecl_status moecl_statistics_kernels_create(struct moecl_context *context, struct moecl_statistics_kernels *kernels);
void moecl_statistics_kernels_release(struct moecl_statistics_kernels *kernels);

moecl_status moecl_statistics_enqueue(const struct moecl_statistics_kernels *kernels, struct moecl_chain *chain,
                                      const moecl_statistics_call *call);

#endif
