/* SPDX-License-Identifier: Apache-2.0 */
/* limits.c - what the device can do at all: the kernels of cl/limits.cl, timed by wall clock on a drained queue. */
#include <time.h>

#include <moecl/measure.h>

#include "device/buffer.h"
#include "device/launch.h"
#include "device/memory.h"
#include "device/probe.h"
#include "device/program.h"

enum {
    CHAINS = 12, /* as cl/limits.cl */
    ROUNDS_AT_LEAST = 3,
    MEBIBYTE = 1 << 20
};
/* Seconds that a launch should take. For memory it is long enough to reach past the caches. */
static const double long_memory = 8e-3, long_arithmetic = 3e-3;

/* How the kernels are laid over the device. */
struct shape {
    const char *options; /* names the VECTOR */
    size_t vector_bytes;
    size_t local;
    size_t count; /* vectors that a work-item reads or copies */
    bool blocks;  /* and these are side by side */
    size_t items; /* work-items that multiply and add */
};

struct bench {
    struct moecl_context *context;
    struct shape shape;
    cl_kernel read, copy, multiply_add;
    cl_kernel multiply_pairs; /* NULL: the device has no instruction for it */
    size_t pair_operations;   /* of a work-item in a round of it */
    cl_mem from, to, results;
    size_t capacity; /* bytes of `from` and of `to` */
    size_t written;  /* so many of `from` hold data: memory never written to may be one page over and over */
};

/* Where work-items do not run side by side in vector lanes, each gets vectors as wide as the registers and a group of
 * its own. */
static struct shape choose_shape(const moecl_device_info *info)
{
    if ((info->type & CL_DEVICE_TYPE_CPU) && info->native_floats > 1) {
        const bool wide = info->native_floats >= 16;
        const size_t vector_bytes = wide ? 64 : 32;
        return (struct shape){.options = wide ? "-DVECTOR=float16 -cl-mad-enable" : "-DVECTOR=float8 -cl-mad-enable",
                              .vector_bytes = vector_bytes,
                              .local = 1,
                              .count = MEBIBYTE / 4 / vector_bytes,
                              .blocks = true,
                              .items = (size_t)info->compute_units * 16};
    }
    const size_t local = info->max_work_group < 256 ? info->max_work_group : 256;
    return (struct shape){.options = "-DVECTOR=float4 -cl-mad-enable",
                          .vector_bytes = 16,
                          .local = local,
                          .count = 128,
                          .items = (size_t)info->compute_units * 8 * local};
}

/* ------------------------------------------------------------------------------------------------- three kernels -- */

/* One launch over `amount`: bytes to read or to copy, rounds of multiply-adds. */
typedef moecl_status launch_function(struct bench *bench, struct moecl_chain *chain, size_t amount);

static moecl_status launch_memory(struct bench *bench, struct moecl_chain *chain, size_t bytes, cl_kernel kernel,
                                  cl_mem to)
{
    moecl_status status = MOECL_OK;
    const struct shape *shape = &bench->shape;
    const size_t items = bytes / (shape->count * shape->vector_bytes);
    const cl_float one = 1;
    const struct moecl_argument arguments[] = {
        ARGUMENT_U64(shape->count),
        ARGUMENT_U64(shape->blocks ? shape->count : 1),
        ARGUMENT_U64(shape->blocks ? 1 : items),
        ARGUMENT_BUFFER(((moecl_buffer){bench->from, 0})),
        ARGUMENT_BUFFER(((moecl_buffer){to, 0})),
    };
    if (bench->written < bytes) {
        TRY(moecl_launch_fill(chain, (moecl_buffer){bench->from, bench->written}, &one, sizeof(one),
                              bytes - bench->written));
        bench->written = bytes;
    }
    TRY(moecl_launch(chain, kernel, 1, &items, &shape->local, arguments, 5));
out:
    return status;
}

static moecl_status launch_read(struct bench *bench, struct moecl_chain *chain, size_t bytes)
{
    return launch_memory(bench, chain, bytes, bench->read, bench->results);
}

static moecl_status launch_copy(struct bench *bench, struct moecl_chain *chain, size_t bytes)
{
    return launch_memory(bench, chain, bytes, bench->copy, bench->to);
}

static moecl_status launch_rounds(struct bench *bench, struct moecl_chain *chain, size_t rounds, cl_kernel kernel)
{
    const struct moecl_argument arguments[] = {
        ARGUMENT_U64(rounds),
        ARGUMENT_F32(0.75f), /* the chains tend to 1: no infinity, no subnormals */
        ARGUMENT_F32(0.25f),
        ARGUMENT_BUFFER(((moecl_buffer){bench->results, 0})),
    };
    return moecl_launch(chain, kernel, 1, &bench->shape.items, &bench->shape.local, arguments, 4);
}

static moecl_status launch_multiply_add(struct bench *bench, struct moecl_chain *chain, size_t rounds)
{
    return launch_rounds(bench, chain, rounds, bench->multiply_add);
}

static moecl_status launch_multiply_pairs(struct bench *bench, struct moecl_chain *chain, size_t rounds)
{
    return launch_rounds(bench, chain, rounds, bench->multiply_pairs);
}

/* ------------------------------------------------------------------------------------------------------- timing -- */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* One launch and the wait for it. */
static moecl_status time_launch(struct bench *bench, launch_function *launch, size_t amount, double *seconds)
{
    moecl_status status = MOECL_OK;
    struct moecl_chain chain;
    const double start = now();
    TRY(moecl_chain_begin(&chain, bench->context, 0, NULL));
    status = launch(bench, &chain, amount);
    TRY(moecl_chain_end(&chain, status, NULL));
    CL_TRY(&bench->context->error, clFinish(bench->context->queue));
    *seconds = now() - start;
out:
    return status;
}

/* The most of what `amount` counts that was done in a second, over about `budget` seconds. The amount starts at `least`
 * and doubles, up to `most`, until a launch takes `enough` seconds, twice: long beside what queueing costs, yet short
 * enough to be left alone by a busy machine's scheduler now and then. The first launch of each amount is not counted:
 * memory is touched, and a driver may still compile. */
static moecl_status best_rate(struct bench *bench, launch_function *launch, size_t least, size_t most, double enough,
                              double budget, double *rate)
{
    moecl_status status = MOECL_OK;
    size_t amount = least / 2;
    double seconds = 0, again = 0, spent = 0, shortest = 0;
    while (amount < most && seconds < enough) {
        amount = amount < most / 2 ? 2 * amount : most;
        TRY(time_launch(bench, launch, amount, &seconds));
        TRY(time_launch(bench, launch, amount, &seconds));
        if (seconds >= enough) {
            TRY(time_launch(bench, launch, amount, &again));
            seconds = again < seconds ? again : seconds;
        }
    }
    for (int round = 0; round < ROUNDS_AT_LEAST || spent < budget; round++) {
        TRY(time_launch(bench, launch, amount, &seconds));
        spent += seconds;
        if (round == 0 || seconds < shortest)
            shortest = seconds;
    }
    *rate = (double)amount / (shortest > 1e-9 ? shortest : 1e-9);
out:
    return status;
}

/* ------------------------------------------------------------------------------------------------------- setting up --
 */

static void release(struct bench *bench)
{
    const cl_kernel kernels[] = {bench->read, bench->copy, bench->multiply_add, bench->multiply_pairs};
    for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++)
        if (kernels[i] != NULL)
            clReleaseKernel(kernels[i]);
    moecl_buffer_release(bench->from);
    moecl_buffer_release(bench->to);
    moecl_buffer_release(bench->results);
}

/* What the work-items of one group read. */
static size_t group_bytes(const struct shape *shape)
{
    return shape->local * shape->count * shape->vector_bytes;
}

/* The buffers hold whole groups; up to 512 MiB each, which no cache does. */
static moecl_status prepare(struct bench *bench, struct moecl_context *context)
{
    moecl_status status = MOECL_OK;
    const moecl_device_info *info = &context->info;
    const uint64_t share = info->global_memory / 4, most = 512 * (uint64_t)MEBIBYTE;
    uint64_t capacity = info->max_allocation < share ? info->max_allocation : share;
    capacity = capacity < most ? capacity : most;

    bench->context = context;
    bench->shape = choose_shape(info);
    const struct shape *shape = &bench->shape;
    const size_t group = group_bytes(shape);
    bench->capacity = (size_t)capacity / group * group;
    if (bench->capacity == 0)
        FAIL(&context->error, MOECL_DEVICE_TOO_SMALL, "measuring the device needs two buffers of %zu bytes", group);
    const size_t reading_items = bench->capacity / (shape->count * shape->vector_bytes);
    const size_t items = reading_items > shape->items ? reading_items : shape->items;

    TRY(moecl_kernel_create(context, "limits.cl", shape->options, "read_memory", &bench->read));
    TRY(moecl_kernel_create(context, "limits.cl", shape->options, "copy_memory", &bench->copy));
    TRY(moecl_kernel_create(context, "limits.cl", shape->options, "multiply_add", &bench->multiply_add));
    if ((info->type & CL_DEVICE_TYPE_CPU) && info->native_floats >= 16)
        TRY(moecl_probe_device(context));
    const bool amx = info->amx_bf16, avx512 = info->avx512_bf16;
    if ((amx || avx512) && shape->vector_bytes == sizeof(cl_float16))
        TRY(moecl_kernel_create(context, "amx.cl limits.cl",
                                amx ? "-DVECTOR=float16 -DPAIRS_AMX=1" : "-DVECTOR=float16 -DPAIRS_AVX512=1",
                                "multiply_pairs", &bench->multiply_pairs));
    bench->pair_operations = amx ? 4 * 16 * 16 * 16 * 4 : 4 * 16 * CHAINS;
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, bench->capacity, "measuring bandwidth", &bench->from));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, bench->capacity, "measuring bandwidth", &bench->to));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, items * shape->vector_bytes, "results", &bench->results));
    CL_TRY(&context->error, clFinish(context->queue));
out:
    return status;
}

moecl_status moecl_measure_limits(moecl_context *context, double seconds, moecl_limits *limits)
{
    moecl_status status = MOECL_OK;
    struct bench bench = {0};
    double bytes_read = 0, bytes_copied = 0, rounds = 0, pair_rounds = 0;
    TRY(moecl_context_require_device(context));
    if (limits == NULL || !(seconds >= 0))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "moecl_measure_limits: limits is NULL, or seconds is negative");
    TRY(prepare(&bench, context));

    const double budget = (seconds == 0 ? 0.3 : seconds) / 3;
    const size_t least = group_bytes(&bench.shape);
    const size_t floats = bench.shape.vector_bytes / sizeof(float);
    TRY(best_rate(&bench, launch_read, least, bench.capacity, long_memory, budget, &bytes_read));
    TRY(best_rate(&bench, launch_copy, least, bench.capacity, long_memory, budget, &bytes_copied));
    TRY(best_rate(&bench, launch_multiply_add, 16, (size_t)1 << 30, long_arithmetic, budget, &rounds));
    if (bench.multiply_pairs)
        TRY(best_rate(&bench, launch_multiply_pairs, 16, (size_t)1 << 30, long_arithmetic, budget, &pair_rounds));
    limits->read_bytes_per_second = bytes_read;
    limits->copy_bytes_per_second = 2 * bytes_copied;
    limits->fp32_flops = 2 * rounds * (double)(bench.shape.items * floats * CHAINS);
    limits->bf16_flops = limits->fp32_flops;
    if (bench.multiply_pairs)
        limits->bf16_flops = pair_rounds * (double)(bench.shape.items * bench.pair_operations);
out:
    release(&bench);
    return status;
}
