/* SPDX-License-Identifier: Apache-2.0 */
/* describe.h - what the driver says about a device. */
#ifndef MOECL_RUNTIME_DESCRIBE_H
#define MOECL_RUNTIME_DESCRIBE_H

#include "error.h"

/* Fills in all of `info` that the driver knows; leaves the indices and what probes find alone. */
moecl_status moecl_describe_device(struct moecl_error *error, cl_device_id device, moecl_device_info *info);
/* A text about the device (CL_DEVICE_...) or its platform (CL_PLATFORM_...) of any length, without the blanks that
 * some drivers put around it, in fresh memory for moecl_free(). */
moecl_status moecl_device_text(struct moecl_error *error, cl_device_id device, cl_device_info name, char **text);
moecl_status moecl_platform_text(struct moecl_error *error, cl_device_id device, cl_platform_info name, char **text);

#endif
