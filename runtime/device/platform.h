/* SPDX-License-Identifier: Apache-2.0 */
/* platform.h - the OpenCL devices there are, and the choice of one by the words of moecl_context_open(). */
#ifndef MOECL_RUNTIME_PLATFORM_H
#define MOECL_RUNTIME_PLATFORM_H

#include "error.h"

struct moecl_device {
    cl_platform_id platform;
    cl_device_id id;
    moecl_device_info info; /* not probed */
};

/* All devices of all platforms, at least one, in fresh memory for moecl_free(). A platform whose devices cannot be
 * asked for counts as one without devices. MOECL_NO_PLATFORM, MOECL_NO_DEVICE. */
moecl_status moecl_platform_devices(struct moecl_error *error, struct moecl_device **devices, size_t *count);
/* The device that `specification` means, as moecl_context_open() documents. */
moecl_status moecl_platform_choose(struct moecl_error *error, const char *specification, struct moecl_device *chosen);

#endif
