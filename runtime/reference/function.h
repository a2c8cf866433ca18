/* SPDX-License-Identifier: Apache-2.0 */
/* function.h - what an expert computes between its products, in double precision. */
#ifndef MOECL_RUNTIME_REFERENCE_FUNCTION_H
#define MOECL_RUNTIME_REFERENCE_FUNCTION_H

#include <moecl/moecl.h>

/* h of g and u, both with their biases; an ungated function is given its only product as `gate`. */
double moecl_reference_function(const moecl_expert_function *function, double gate, double up);
/* What the device's h may be off by, where its g and u are off by no more than these errors. */
double moecl_bound_function(const moecl_expert_function *function, double gate, double gate_error, double up,
                            double up_error);

#endif
