/* SPDX-License-Identifier: Apache-2.0 */
/* input.c - launches cl/input.cl. */
#include "input.h"

#include <stdio.h>

#include "device/program.h"

moecl_status moecl_input_kernel_create(struct moecl_context *context, const moecl_input *options,
                                       moecl_type activations, cl_kernel *kernel)
{
    char text[128];
    snprintf(text, sizeof(text), "-DACTIVATION_TYPE=%s -DNORMALISED=%d -DSCALED=%d", moecl_type_name(activations),
             (int)options->normalised, options->normalised && options->scaled);
    return moecl_kernel_create(context, "normal_table.cl philox.cl input.cl", text, "make_input", kernel);
}

moecl_status moecl_input_enqueue(cl_kernel kernel, struct moecl_chain *chain, const struct moecl_input_call *call)
{
    const float scale = call->options->normalised && call->options->scale != 0 ? call->options->scale : 1.0f;
    const struct moecl_argument arguments[] = {
        ARGUMENT_U32(call->tokens),
        ARGUMENT_U32(call->hidden),
        ARGUMENT_BUFFER(call->x),
        ARGUMENT_BUFFER(call->vector.memory ? call->vector : call->x),
        ARGUMENT_F32(call->options->epsilon),
        ARGUMENT_F32(scale),
        ARGUMENT_F32(call->jitter),
        ARGUMENT_U64(call->seed),
        ARGUMENT_U64(call->step),
        ARGUMENT_U32(call->first_token),
        ARGUMENT_BUFFER(call->input),
    };
    return moecl_launch(chain, kernel, 1, &call->tokens, NULL, arguments, sizeof(arguments) / sizeof(arguments[0]));
}
