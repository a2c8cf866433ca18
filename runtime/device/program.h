/* SPDX-License-Identifier: Apache-2.0 */
/* program.h - OpenCL programs: embedded sources, built once for a (source, options, device, driver), cached on disk. */
#ifndef MOECL_RUNTIME_PROGRAM_H
#define MOECL_RUNTIME_PROGRAM_H

#include "context.h"

/* A source of cl/, embedded by CMake (cl/ is read at run time instead when the build sets MOECL_KERNEL_DIR). */
struct moecl_kernel_source {
    const char *name; /* "route.cl" */
    const char *text;
};
/* The table that CMake makes; ends with a NULL name. */
extern const struct moecl_kernel_source moecl_kernel_sources[];

/* A kernel of the program made of cl/common.cl followed by cl/`file`, or by several files ("philox.cl route.cl": what a
 * file needs of another stands before it), built with `options` (NULL: none). The program is
 * kept in the context and shared; the kernel object is the caller's own, to release with clReleaseKernel().
 * MOECL_BUILD_FAILED carries the compiler's log (its beginning). */
moecl_status moecl_kernel_create(struct moecl_context *context, const char *file, const char *options,
                                 const char *kernel, cl_kernel *created);
/* Builds `source` as it is, uncached and unshared: for probes. */
moecl_status moecl_program_build_source(struct moecl_context *context, const char *source, const char *options,
                                        cl_program *program);
/* What identifies the device and driver in cache keys: fresh memory, NULL when there is none. */
char *moecl_device_key(const struct moecl_context *context);
void moecl_programs_release(struct moecl_context *context);

#endif
