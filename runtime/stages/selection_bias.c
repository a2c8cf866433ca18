/* SPDX-License-Identifier: Apache-2.0 */
/* selection_bias.c - launches cl/selection_bias.cl. */
#include "selection_bias.h"

#include "device/program.h"

enum { GROUP = 64 };

moecl_status moecl_selection_bias_kernel_create(struct moecl_context *context, cl_kernel *kernel)
{
    return moecl_kernel_create(context, "selection_bias.cl", NULL, "selection_bias_update", kernel);
}

moecl_status moecl_selection_bias_enqueue(cl_kernel kernel, struct moecl_chain *chain, size_t outputs, float rate,
                                          moecl_buffer load, moecl_buffer bias)
{
    const size_t local[] = {GROUP};
    const struct moecl_argument arguments[] = {ARGUMENT_U32(outputs), ARGUMENT_F32(rate), ARGUMENT_BUFFER(load),
                                               ARGUMENT_BUFFER(bias)};
    return moecl_launch(chain, kernel, 1, &outputs, local, arguments, 4);
}
