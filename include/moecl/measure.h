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
    double bf16_flops; /* the same for bf16 by bf16, summed in fp32, by AMX, or else AVX512-BF16, where the device has
                        * it; fp32_flops where that is more */
} moecl_limits;

/* The kernels and the device memory that measuring takes: at most MOECL_METER_BYTES, less on small devices. A machine
 * that is shared does not have the same limits from one minute to the next: who times something beside them keeps a
 * meter and reads it in turns with what is timed. A meter lives no longer than its context, and is used by one thread
 * at a time. */
typedef struct moecl_meter moecl_meter;
#define MOECL_METER_BYTES ((size_t)512 << 20)

/* On success *meter is the caller's to destroy; else it is NULL. */
MOECL_API moecl_status moecl_meter_create(moecl_context *context, moecl_meter **meter);
MOECL_API void moecl_meter_destroy(moecl_meter *meter); /* NULL: nothing */

/* Measures for about `seconds` (0: 0.3) in all, but at least three rounds of each limit, some 100 milliseconds; what
 * was done in all rounds counts. The first reading takes longer: it finds out how much work a round needs. Blocks. */
MOECL_API moecl_status moecl_meter_read(moecl_meter *meter, double seconds, moecl_limits *limits);

/* One reading of a meter that is made for it, of which the best round counts: what the device can do when left alone.
 */
MOECL_API moecl_status moecl_measure_limits(moecl_context *context, double seconds, moecl_limits *limits);

#ifdef __cplusplus
}
#endif

#endif
