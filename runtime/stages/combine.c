/* SPDX-License-Identifier: Apache-2.0 */
/* combine.c - launches cl/combine.cl. */
#include "combine.h"

#include <stdio.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "device/program.h"
#include "flag.h"

enum { VECTOR_COLUMNS = 16 }; /* of cl/combine.cl */

enum { MOST_CHOICES = MOECL_MAX_EXPERTS }; /* of a token, where experts choose */

/* A work-item's vectors. What a CPU has to find out of a token's choices takes it as long as adding up one of them. */
static unsigned item_vectors(const struct moecl_context *context)
{
    return context->info.type & CL_DEVICE_TYPE_CPU ? 4 : 1;
}

moecl_status moecl_combine_kernel_create(struct moecl_context *context, moecl_type output, moecl_type x,
                                         cl_kernel *kernel)
{
    char options[80];
    snprintf(options, sizeof(options), "-DOUTPUT_TYPE=%s -DX_TYPE=%s -DITEM_VECTORS=%u", moecl_type_name(output),
             moecl_type_name(x), item_vectors(context));
    return moecl_kernel_create(context, "combine.cl", options, "combine", kernel);
}

static const moecl_buffer none = {NULL, 0};

/* `buffer`, and whether it is there; where it is not, the kernel gets `other` and does not look at it. */
#define ARGUMENT_OPTIONAL(buffer, other)                                                                               \
    ARGUMENT_U32((buffer).memory != NULL), ARGUMENT_BUFFER((buffer).memory ? (buffer) : (other))

moecl_status moecl_combine_enqueue(cl_kernel kernel, struct moecl_chain *chain, const moecl_combine_call *call,
                                   size_t outputs, moecl_buffer flag)
{
    const bool by_choice = call->ids.memory && !call->rows.memory && flag.memory;
    const bool gated = call->shared_gate != MOECL_SHARED_GATE_NONE;
    const struct moecl_argument arguments[] = {
        ARGUMENT_U32(call->tokens),
        ARGUMENT_U32(call->top_k),
        ARGUMENT_U32(call->hidden),
        ARGUMENT_BUFFER(call->z),
        ARGUMENT_OPTIONAL(call->rows, call->z),
        ARGUMENT_OPTIONAL(call->weights, call->z),
        ARGUMENT_OPTIONAL(call->ids, call->z),
        ARGUMENT_U32(call->experts),
        ARGUMENT_U32(outputs),
        ARGUMENT_BUFFER(call->ids.memory ? call->x : call->z),
        ARGUMENT_OPTIONAL(call->bias, call->z),
        ARGUMENT_OPTIONAL(call->shared, call->z),
        ARGUMENT_F32(call->shared_scale != 0.0f ? call->shared_scale : 1.0f),
        ARGUMENT_U32(call->shared_gate),
        ARGUMENT_BUFFER(gated ? call->shared_logits : call->z),
        ARGUMENT_U32(call->shared_stride),
        ARGUMENT_BUFFER(call->y),
        ARGUMENT_BUFFER(by_choice ? flag : call->z),
        ARGUMENT_U32(by_choice ? MOECL_FLAG_BAD_EXPERT : 0),
    };
    const size_t global[] = {moecl_divide_up(call->hidden, VECTOR_COLUMNS * item_vectors(chain->context)),
                             call->tokens};
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

/* Logits that a token's gate has. */
static size_t gate_logits(moecl_shared_gate gate)
{
    return gate == MOECL_SHARED_GATE_NONE ? 0 : gate == MOECL_SHARED_GATE_SIGMOID ? 1 : 2;
}

/* What is said by numbers, not by buffers. */
static moecl_status check_numbers(moecl_context *context, const moecl_combine_call *call)
{
    struct moecl_error *error = &context->error;
    moecl_status status = MOECL_OK;
    size_t rows;
    if (!moecl_type_size(call->output_type) || call->hidden < 1 || call->hidden > INT32_MAX || call->top_k < 1 ||
        call->top_k > MOST_CHOICES || !moecl_size_multiply(call->tokens, call->top_k, &rows) || rows > INT32_MAX)
        FAIL(error, MOECL_INVALID_ARGUMENT, "combine: %zu tokens of %zu choices and %zu columns", call->tokens,
             call->top_k, call->hidden);
    if (call->ids.memory && (!moecl_type_size(call->x_type) || call->experts > MOECL_MAX_EXPERTS))
        FAIL(error, MOECL_INVALID_ARGUMENT, "combine: zero experts behind %zu, x of the type %s", call->experts,
             moecl_type_name(call->x_type));
    if ((unsigned)call->shared_gate > MOECL_SHARED_GATE_SOFTMAX)
        FAIL(error, MOECL_INVALID_ARGUMENT, "combine: unknown gate %d", (int)call->shared_gate);
    if (call->shared_stride < gate_logits(call->shared_gate) || call->shared_stride > INT32_MAX)
        FAIL(error, MOECL_INVALID_ARGUMENT, "combine: shared logits with a stride of %zu", call->shared_stride);
out:
    return status;
}

static moecl_status check_routed(moecl_context *context, const moecl_combine_call *call)
{
    const size_t tokens = call->tokens, rows = tokens * call->top_k;
    moecl_status status = MOECL_OK;
    /* Which rows there are is the caller's word; one there must be. */
    TRY(check_rows(context, call->z, call->rows.memory ? 1 : rows, call->hidden, sizeof(cl_float), "combine: z"));
    if (call->rows.memory)
        TRY(check_rows(context, call->rows, tokens, call->top_k, sizeof(cl_int), "combine: rows"));
    if (call->weights.memory)
        TRY(check_rows(context, call->weights, tokens, call->top_k, sizeof(cl_float), "combine: weights"));
    if (call->ids.memory) {
        TRY(check_rows(context, call->ids, tokens, call->top_k, sizeof(cl_int), "combine: ids"));
        TRY(check_rows(context, call->x, tokens, call->hidden, moecl_type_size(call->x_type), "combine: x"));
    }
out:
    return status;
}

static moecl_status check_call(moecl_context *context, const moecl_combine_call *call)
{
    const size_t tokens = call->tokens, logits = gate_logits(call->shared_gate);
    moecl_status status = MOECL_OK;
    TRY(moecl_context_require_device(context));
    TRY(check_numbers(context, call));
    if (tokens == 0)
        goto out;
    TRY(check_routed(context, call));
    TRY(check_rows(context, call->y, tokens, call->hidden, moecl_type_size(call->output_type), "combine: y"));
    if (call->bias.memory)
        TRY(check_rows(context, call->bias, 1, call->hidden, sizeof(cl_float), "combine: bias"));
    if (call->shared.memory)
        TRY(check_rows(context, call->shared, tokens, call->hidden, sizeof(cl_float), "combine: shared"));
    if (logits)
        TRY(moecl_buffer_check(context, call->shared_logits,
                               ((tokens - 1) * call->shared_stride + logits) * sizeof(cl_float), sizeof(cl_float),
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
    TRY(moecl_combine_kernel_create(context, call->output_type, call->ids.memory ? call->x_type : MOECL_F32, &kernel));
    TRY(moecl_chain_begin(&chain, context, num_events_in_wait_list, event_wait_list));
    TRY(moecl_chain_end(&chain, moecl_combine_enqueue(kernel, &chain, call, INT32_MAX, none), event));
out:
    if (kernel)
        clReleaseKernel(kernel);
    return status;
}
