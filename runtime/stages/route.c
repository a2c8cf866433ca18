/* SPDX-License-Identifier: Apache-2.0 */
/* route.c - launches cl/route.cl. */
#include "route.h"

#include "device/program.h"

moecl_status moecl_route_kernels_create(struct moecl_context *context, struct moecl_route_kernels *kernels)
{
    kernels->top_k = NULL;
    return moecl_kernel_create(context, "route.cl", NULL, "route_top_k", &kernels->top_k);
}

void moecl_route_kernels_release(struct moecl_route_kernels *kernels)
{
    if (kernels->top_k)
        clReleaseKernel(kernels->top_k);
    kernels->top_k = NULL;
}

moecl_status moecl_route_enqueue(const struct moecl_route_kernels *kernels, struct moecl_chain *chain,
                                 const struct moecl_route_call *call)
{
    const struct moecl_argument arguments[] = {
        ARGUMENT_BUFFER(call->logits),      ARGUMENT_U32(call->stride),
        ARGUMENT_U32(call->tokens),         ARGUMENT_U32(call->experts),
        ARGUMENT_U32(call->top_k),          ARGUMENT_U32(call->normalise),
        ARGUMENT_BUFFER(call->routing.ids), ARGUMENT_BUFFER(call->routing.weights),
        ARGUMENT_BUFFER(call->flag),
    };
    return moecl_launch(chain, kernels->top_k, 1, &call->tokens, NULL, arguments,
                        sizeof(arguments) / sizeof(arguments[0]));
}
