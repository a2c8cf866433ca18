/* SPDX-License-Identifier: Apache-2.0 */
/* threads.h - the threads that a CPU device computes with. */
#ifndef MOECL_RUNTIME_THREADS_H
#define MOECL_RUNTIME_THREADS_H

#include <moecl/moecl.h>

#include "error.h"

/* Binds each of the device's threads to a processor of its own: threads that are woken together after a pause may
 * otherwise find themselves on the same one, and stay there for a call or two. Does nothing, which is no error, unless
 * the device is a CPU with as many threads as the calling one may use processors (others may have use for the rest),
 * runs functions of the host in threads of its own (PoCL does), and POCL_AFFINITY, by which PoCL's users choose, is not
 * set; nor where the threads do not come together soon, as on a busy device. All are bound, or none. */
moecl_status moecl_threads_bind(struct moecl_error *error, cl_context cl, cl_device_id device,
                                const moecl_device_info *info);

#endif
