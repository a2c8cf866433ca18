/* SPDX-License-Identifier: Apache-2.0 */
/* threads.h - the threads that a CPU device computes with. */
#ifndef MOECL_RUNTIME_THREADS_H
#define MOECL_RUNTIME_THREADS_H

#include <moecl/moecl.h>

#include "error.h"

/* Binds each of the device's threads to a processor of its own: threads that are woken together after a pause may
 * otherwise find themselves on the same one, and stay there for a call or two. Does nothing, which is no error, unless
 * the device is a CPU with as many threads as the process may use processors (others may have use for the rest), runs
 * functions of the host in threads of its own, and POCL_AFFINITY, by which PoCL's users choose, is not set. */
moecl_status moecl_threads_bind(struct moecl_error *error, cl_context cl, cl_device_id device,
                                const moecl_device_info *info);

#endif
