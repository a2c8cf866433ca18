/* SPDX-License-Identifier: Apache-2.0 */
/* measure.h - what the open device can do at all, measured: the yardstick for a layer's speed. */
#ifndef MOECL_MEASURE_H
#define MOECL_MEASURE_H

#include <moecl/moecl.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moecl_limits {
    double read_bytes_per_second; /* a kernel that reads a buffer too large for any cache */
    double copy_bytes_per_second; /* a copy kernel: bytes read plus bytes written */
    double fp32_flops;            /* a kernel of independent fp32 fused multiply-adds, two operations each */
    double bf16_flops; /* the same for bf16 by bf16, summed in fp32, by the instruction for it that moecl uses;
                        * fp32_flops where there is none */
} moecl_limits;

/* Measures for about `seconds` (0: 0.3) in all; the best of several rounds. Blocks. */
MOECL_API moecl_status moecl_measure_limits(moecl_context *context, double seconds, moecl_limits *limits);

#ifdef __cplusplus
}
#endif

#endif
