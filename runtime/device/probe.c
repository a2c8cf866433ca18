/* SPDX-License-Identifier: Apache-2.0 */
/* probe.c - what only compiling and running a small kernel can tell about a device. */
#include "probe.h"

moecl_status moecl_probe_device(struct moecl_context *context)
{
    return moecl_context_require_device(context);
}
