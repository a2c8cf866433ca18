/* SPDX-License-Identifier: Apache-2.0 */
/* function.c - an expert's function: its check, its build options, and kernels found by it. */
#include "function.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "device/memory.h"

static const char *const activations[] = {
#define NAME(name, text) #name,
    MOECL_ACTIVATION_LIST(NAME)};
static const char *const clamps[] = {MOECL_CLAMP_LIST(NAME)
#undef NAME
};

moecl_status moecl_function_check(struct moecl_context *context, const moecl_expert_function *function,
                                  const char *what)
{
    moecl_status status = MOECL_OK;
    if ((size_t)function->activation >= sizeof(activations) / sizeof(activations[0]))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: unknown activation %d", what, (int)function->activation);
    if ((size_t)function->clamp >= sizeof(clamps) / sizeof(clamps[0]))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: unknown clamp %d", what, (int)function->clamp);
    if (!isfinite(function->alpha) || !isfinite(function->up_offset))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: alpha %g and up_offset %g must be finite", what,
             (double)function->alpha, (double)function->up_offset);
    if (function->clamp != MOECL_CLAMP_NONE && !(function->limit >= 0.0f))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: a clamp to %g", what, (double)function->limit);
out:
    return status;
}

bool moecl_matrices_gated(const moecl_matrices_options *options)
{
    return options->activated && !options->function.ungated;
}

/* Equal functions are equal member by member. */
moecl_expert_function moecl_function_of(const moecl_matrices_options *options)
{
    const moecl_expert_function *given = &options->function;
    moecl_expert_function function = {MOECL_ACTIVATION_SILU, false, false, 1.0f, MOECL_CLAMP_NONE, 0.0f, 0.0f};
    if (!options->activated)
        return function;
    function.activation = given->activation;
    function.ungated = given->ungated;
    if (given->activation == MOECL_ACTIVATION_SILU && given->alpha != 0.0f)
        function.alpha = given->alpha;
    function.clamp = given->clamp;
    if (given->clamp != MOECL_CLAMP_NONE)
        function.limit = given->limit;
    if (!given->ungated)
        function.up_offset = given->up_offset + 0.0f; /* -0 becomes 0 */
    return function;
}

static unsigned bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

void moecl_function_build_options(const moecl_expert_function *function, char text[MOECL_FUNCTION_OPTIONS])
{
    snprintf(text, MOECL_FUNCTION_OPTIONS,
             "-DACTIVATION=%s -DCLAMP=%s -DUNGATED=%d -DALPHA_BITS=0x%08xu -DLIMIT_BITS=0x%08xu "
             "-DUP_OFFSET_BITS=0x%08xu",
             activations[function->activation], clamps[function->clamp], (int)function->ungated,
             bits_of(function->alpha), bits_of(function->limit), bits_of(function->up_offset));
}

static bool same(const moecl_expert_function *a, const moecl_expert_function *b)
{
    return a->activation == b->activation && a->ungated == b->ungated && a->alpha == b->alpha && a->clamp == b->clamp &&
           a->limit == b->limit && a->up_offset == b->up_offset;
}

cl_kernel moecl_function_kernel_find(const struct moecl_function_kernel *list, const moecl_matrices_options *options)
{
    const moecl_expert_function function = moecl_function_of(options);
    for (; list; list = list->next)
        if (list->weights == options->weights && (!options->activated || same(&list->function, &function)))
            return list->kernel;
    return NULL;
}

moecl_status moecl_function_kernel_add(struct moecl_context *context, struct moecl_function_kernel **list,
                                       const moecl_matrices_options *options, cl_kernel kernel)
{
    struct moecl_function_kernel *entry = moecl_allocate(1, sizeof(*entry));
    if (!entry)
        return moecl_error_set(&context->error, MOECL_OUT_OF_HOST_MEMORY, "expert function: out of memory");
    *entry = (struct moecl_function_kernel){*list, options->weights, moecl_function_of(options), kernel};
    *list = entry;
    return MOECL_OK;
}

void moecl_function_kernels_release(struct moecl_function_kernel **list)
{
    while (*list) {
        struct moecl_function_kernel *entry = *list;
        *list = entry->next;
        clReleaseKernel(entry->kernel);
        moecl_free(entry);
    }
}
