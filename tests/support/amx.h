/* SPDX-License-Identifier: Apache-2.0 */
/* amx.h - x86's tile registers on processors that lack them. */
#ifndef MOECL_TESTS_AMX_H
#define MOECL_TESTS_AMX_H

#include <stdbool.h>

#include <moecl/moecl.h>

/* From now on each thread has tile registers, and the instructions that cl/amx.cl has do what processors with AMX would
 * do: they are carried out when the processor refuses them. What such a processor would refuse ends the process. False
 * where that cannot be had: kernels must be the host's code, which PoCL's are. */
bool amx_emulate(moecl_context *context);
/* How many products of tiles there have been. */
unsigned long amx_products(void);

#endif
