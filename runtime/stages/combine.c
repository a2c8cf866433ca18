/* SPDX-License-Identifier: Apache-2.0 */
/* combine.c - launches cl/combine.cl. */
#include "combine.h"

#include <stdio.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "device/program.h"

enum { COLUMNS = 16 }; /* a work-item's, of cl/combine.cl */

moecl_status moecl_combine_kernel_create(struct moecl_context *context, moecl_type output, cl_kernel *kernel)
{
    char options[64];
    snprintf(options, sizeof(options), "-DOUTPUT_TYPE=%s", moecl_type_name(output));
    return moecl_kernel_create(context, "combine.cl", options, "combine", kernel);
}

moecl_status moecl_combine_enqueue(cl_kernel kernel, struct moecl_chain *chain, const moecl_combine_call *call)
{
    const bool scaled = call->shared.memory && call->shared_logits.memory;
    const struct moecl_argument arguments[] = {
        ARGUMENT_U32(call->tokens),
        ARGUMENT_U32(call->top_k),
        ARGUMENT_U32(call->hidden),
        ARGUMENT_BUFFER(call->z),
        ARGUMENT_BUFFER(call->rows),
        ARGUMENT_BUFFER(call->weights),
        ARGUMENT_U32(call->shared.memory != NULL),
        ARGUMENT_BUFFER(call->shared.memory ? call->shared : call->z),
        ARGUMENT_BUFFER(scaled ? call->shared_logits : call->z),
        ARGUMENT_U32(scaled ? call->shared_stride : 0),
        ARGUMENT_BUFFER(call->y),
    };
    const size_t global[] = {moecl_divide_up(call->hidden, COLUMNS), call->tokens};
    return moecl_launch(chain, kernel, 2, global, NULL, arguments, sizeof(arguments) / sizeof(arguments[0]));
}

/* tokens * width elements of `size` bytes at `buffer`. */
static moecl_status check_rows(moecl_context *context, moecl_buffer buffer, size_t tokens, size_t width, size_t size,
                               const char *what)
{
    size_t bytes;
    if (!moecl_size_multiply(tokens, width, &bytes) || !moecl_size_multiply(bytes, size, &bytes))
        return moecl_error_set(&context->error, MOECL_INVALID_ARGUMENT, "%s: %zu rows of %zu overflow", what, tokens,
                               width);
    return moecl_buffer_check(context, buffer, bytes, size, what);
}

static moecl_status check_call(moecl_context *context, const moecl_combine_call *call)
{
    moecl_status status = MOECL_OK;
    const size_t tokens = call->tokens;
    size_t rows;
    TRY(moecl_context_require_device(context));
    if (!moecl_type_size(call->output_type) || call->hidden < 1 || call->hidden > INT32_MAX || call->top_k < 1 ||
        !moecl_size_multiply(tokens, call->top_k, &rows) || rows > INT32_MAX)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "combine: %zu tokens of %zu choices and %zu columns", tokens,
             call->top_k, call->hidden);
    if (call->shared_logits.memory && call->shared_stride < 1)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "combine: shared logits without a stride");
    if (tokens == 0)
        goto out;
    TRY(check_rows(context, call->rows, tokens, call->top_k, sizeof(cl_int), "combine: rows"));
    TRY(check_rows(context, call->weights, tokens, call->top_k, sizeof(cl_float), "combine: weights"));
    TRY(check_rows(context, call->z, rows, call->hidden, sizeof(cl_float), "combine: z"));
    TRY(check_rows(context, call->y, tokens, call->hidden, moecl_type_size(call->output_type), "combine: y"));
    if (call->shared.memory)
        TRY(check_rows(context, call->shared, tokens, call->hidden, sizeof(cl_float), "combine: shared"));
    if (call->shared.memory && call->shared_logits.memory)
        TRY(moecl_buffer_check(context, call->shared_logits,
                               ((tokens - 1) * call->shared_stride + 1) * sizeof(cl_float), sizeof(cl_float),
                               "combine: shared logits"));
out:
    return status;
}

moecl_status moecl_combine(moecl_context *context, const moecl_combine_call *call, cl_uint num_events_in_wait_list,
                           const cl_event *event_wait_list, cl_event *event)
{
    moecl_status status = MOECL_OK;
    cl_kernel kernel = NULL;
    struct moecl_chain chain;
    if (!context || !call)
        return MOECL_INVALID_ARGUMENT;
    TRY(check_call(context, call));
    TRY(moecl_combine_kernel_create(context, call->output_type, &kernel));
    TRY(moecl_chain_begin(&chain, context, num_events_in_wait_list, event_wait_list));
    TRY(moecl_chain_end(&chain, moecl_combine_enqueue(kernel, &chain, call), event));
out:
    if (kernel)
        clReleaseKernel(kernel);
    return status;
}
