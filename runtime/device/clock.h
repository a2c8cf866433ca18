/* SPDX-License-Identifier: Apache-2.0 */
/* clock.h - time as it passes. */
#ifndef MOECL_RUNTIME_CLOCK_H
#define MOECL_RUNTIME_CLOCK_H

#include <time.h>

/* Seconds since some moment. */
static inline double moecl_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

#endif
