/* SPDX-License-Identifier: Apache-2.0 */
/* function.h - an expert's function as the variants need it: checked, and as build options of cl/activation.cl. */
#ifndef MOECL_RUNTIME_FUNCTION_H
#define MOECL_RUNTIME_FUNCTION_H

#include <moecl/stages.h>

#include "device/context.h"

/* MOECL_INVALID_ARGUMENT where a member is unknown or not finite; the sentence begins with `what`. */
moecl_status moecl_function_check(struct moecl_context *context, const moecl_expert_function *function,
                                  const char *what);
/* Whether the product of these options is of two matrices a group. */
bool moecl_matrices_gated(const moecl_matrices_options *options);

/* A kernel for products of one storage type and one function, in a list. */
struct moecl_function_kernel {
    struct moecl_function_kernel *next;
    moecl_type weights;
    moecl_expert_function function; /* as moecl_function_of() gives it */
    cl_kernel kernel;
};
enum { MOECL_FUNCTION_OPTIONS = 160 }; /* characters that build options take, the end included */
/* What activation.cl is specialised by, as build options. */
void moecl_function_build_options(const moecl_expert_function *function, char text[MOECL_FUNCTION_OPTIONS]);
/* The function of a product, its defaults filled in and what has no effect left at them; a plain product has the
 * default one. */
moecl_expert_function moecl_function_of(const moecl_matrices_options *options);
/* The list's kernel that serves a product; NULL: none. Any function's serves a plain product. */
cl_kernel moecl_function_kernel_find(const struct moecl_function_kernel *list, const moecl_matrices_options *options);
/* Puts a kernel, which it owns from then on, in front of the list. On failure it stays the caller's. */
moecl_status moecl_function_kernel_add(struct moecl_context *context, struct moecl_function_kernel **list,
                                       const moecl_matrices_options *options, cl_kernel kernel);
void moecl_function_kernels_release(struct moecl_function_kernel **list);

#endif
