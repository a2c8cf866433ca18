/* SPDX-License-Identifier: Apache-2.0 */
/* amx.h - x86's tile registers (AMX), which a process has to ask Linux for. */
#ifndef MOECL_RUNTIME_AMX_H
#define MOECL_RUNTIME_AMX_H

#include <stdbool.h>

/* Asks for the registers, for all threads that the process has and will have; whether it may use them. Asked before
 * OpenCL starts its threads: Linux refuses where a thread's stack for signals is too small for 8 KiB more. Any thread
 * may call it, any number of times. */
bool moecl_amx_permit(void);

#endif
