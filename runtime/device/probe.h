/* SPDX-License-Identifier: Apache-2.0 */
/* probe.h - what only compiling and running a small kernel can tell about a device. */
#ifndef MOECL_RUNTIME_PROBE_H
#define MOECL_RUNTIME_PROBE_H

#include "context.h"

/* Runs the probes, or finds their results in the cache, and fills in the probed part of context->info. Does nothing
 * where that is done already. Every floor that depends on such a feature calls it first. */
moecl_status moecl_probe_device(struct moecl_context *context);

#endif
