/* SPDX-License-Identifier: Apache-2.0 */
/* limits.c - what the device can do at all: the kernels of cl/limits.cl, timed by wall clock on a drained queue. */
#include <moecl/measure.h>

#include <math.h>

#include "device/buffer.h"
#include "device/clock.h"
#include "device/launch.h"
#include "device/memory.h"
#include "device/probe.h"
#include "device/program.h"

enum {
    CHAINS = 12, /* as cl/limits.cl */
    ROUNDS_AT_LEAST = 3,
    MEBIBYTE = 1 << 20
};
static const double long_enough = 8e-3; /* seconds of a launch: reaches past the caches */

/* How the kernels are laid over the device. */
struct shape {
    const char *options; /* names the VECTOR */
    size_t vector_bytes;
    size_t local;
    size_t count; /* vectors that a work-item reads or copies */
    bool blocks;  /* and these are side by side */
    size_t items; /* work-items that multiply and add */
};

/* What is measured; READ and READ_STREAMS are two ways to read, of which the faster counts. */
enum limit { READ, READ_STREAMS, COPY, MULTIPLY_ADD, MULTIPLY_PAIRS, LIMIT_COUNT };

struct moecl_meter {
    struct moecl_context *context;
    struct shape shape;
    cl_kernel kernels[LIMIT_COUNT]; /* MULTIPLY_PAIRS: NULL where the device has no instruction for it */
    size_t amounts[LIMIT_COUNT];    /* in a round: bytes, or rounds of multiply-adds; 0: not known yet */
    size_t pair_operations;         /* of a work-item in a round of MULTIPLY_PAIRS */
    cl_mem memory, results;
    size_t capacity; /* bytes of `memory`, whole groups twice */
    size_t written;  /* so many of it hold data: memory never written to may be one page over and over */
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

/* ----------------------------------------------------------------------------------------------------- a launch -- */

/* Makes the first `bytes` of the memory data. */
static moecl_status write_memory(struct moecl_meter *meter, struct moecl_chain *chain, size_t bytes)
{
    moecl_status status = MOECL_OK;
    const cl_float one = 1;
    if (meter->written >= bytes)
        return MOECL_OK;
    TRY(moecl_launch_fill(chain, (moecl_buffer){meter->memory, meter->written}, &one, sizeof(one),
                          bytes - meter->written));
    meter->written = bytes;
out:
    return status;
}

/* Reads, or copies to behind them, the first `bytes` of the memory. */
static moecl_status launch_memory(struct moecl_meter *meter, struct moecl_chain *chain, enum limit limit, size_t bytes)
{
    moecl_status status = MOECL_OK;
    const struct shape *shape = &meter->shape;
    const size_t items = bytes / (shape->count * shape->vector_bytes);
    const moecl_buffer to = limit == COPY ? (moecl_buffer){meter->memory, bytes} : (moecl_buffer){meter->results, 0};
    const struct moecl_argument arguments[] = {
        ARGUMENT_U64(shape->count),
        ARGUMENT_U64(shape->blocks ? shape->count : 1),
        ARGUMENT_U64(shape->blocks ? 1 : items),
        ARGUMENT_BUFFER(((moecl_buffer){meter->memory, 0})),
        ARGUMENT_BUFFER(to),
    };
    TRY(write_memory(meter, chain, bytes));
    TRY(moecl_launch(chain, meter->kernels[limit], 1, &items, &shape->local, arguments, 5));
out:
    return status;
}

static moecl_status launch_rounds(struct moecl_meter *meter, struct moecl_chain *chain, enum limit limit, size_t rounds)
{
    const struct moecl_argument arguments[] = {
        ARGUMENT_U64(rounds),
        ARGUMENT_F32(0.75f), /* the chains tend to 1: no infinity, no subnormals */
        ARGUMENT_F32(0.25f),
        ARGUMENT_BUFFER(((moecl_buffer){meter->results, 0})),
    };
    return moecl_launch(chain, meter->kernels[limit], 1, &meter->shape.items, &meter->shape.local, arguments, 4);
}

/* ------------------------------------------------------------------------------------------------------- timing -- */

/* One launch and the wait for it. */
static moecl_status time_launch(struct moecl_meter *meter, enum limit limit, size_t amount, double *seconds)
{
    moecl_status status = MOECL_OK;
    struct moecl_chain chain;
    const double start = moecl_now();
    TRY(moecl_chain_begin(&chain, meter->context, 0, NULL));
    status = limit <= COPY ? launch_memory(meter, &chain, limit, amount) : launch_rounds(meter, &chain, limit, amount);
    TRY(moecl_chain_end(&chain, status, NULL));
    CL_TRY(&meter->context->error, clFinish(meter->context->queue));
    *seconds = moecl_now() - start;
out:
    return status;
}

/* What the work-items of one group read. */
static size_t group_bytes(const struct shape *shape)
{
    return shape->local * shape->count * shape->vector_bytes;
}

/* The amount for a round: doubled, up to what there is room for, until a launch takes long enough, twice: long beside
 * what queueing costs, yet short enough to be left alone by a busy machine's scheduler now and then. The first launch
 * of each amount is not counted: memory is touched, and a driver may still compile. */
static moecl_status find_amount(struct moecl_meter *meter, enum limit limit)
{
    moecl_status status = MOECL_OK;
    const size_t least = limit <= COPY ? group_bytes(&meter->shape) : 16;
    const size_t most = limit < COPY ? meter->capacity : limit == COPY ? meter->capacity / 2 : (size_t)1 << 30;
    size_t amount = least / 2;
    double seconds = 0, again = 0;
    while (amount < most && seconds < long_enough) {
        amount = amount < most / 2 ? 2 * amount : most;
        TRY(time_launch(meter, limit, amount, &seconds));
        TRY(time_launch(meter, limit, amount, &seconds));
        if (seconds >= long_enough) {
            TRY(time_launch(meter, limit, amount, &again));
            seconds = again < seconds ? again : seconds;
        }
    }
    meter->amounts[limit] = amount;
out:
    return status;
}

/* What the amount counts, done in a second: in the rounds of about `budget` seconds, or in the best of them. */
static moecl_status find_rate(struct moecl_meter *meter, enum limit limit, double budget, bool best, double *rate)
{
    moecl_status status = MOECL_OK;
    double seconds = 0, spent = 0, shortest = 0;
    int rounds = 0;
    if (meter->amounts[limit] == 0)
        TRY(find_amount(meter, limit));
    for (; rounds < ROUNDS_AT_LEAST || spent < budget; rounds++) {
        TRY(time_launch(meter, limit, meter->amounts[limit], &seconds));
        spent += seconds;
        if (rounds == 0 || seconds < shortest)
            shortest = seconds;
    }
    const double taken = best ? shortest : spent / rounds;
    *rate = (double)meter->amounts[limit] / (taken > 1e-9 ? taken : 1e-9);
out:
    return status;
}

/* ---------------------------------------------------------------------------------------------------- the meter -- */

/* The memory: whole groups, for copying twice as many; more than caches hold. */
static moecl_status create_memory(struct moecl_meter *meter)
{
    moecl_status status = MOECL_OK;
    struct moecl_context *context = meter->context;
    const moecl_device_info *info = &context->info;
    const struct shape *shape = &meter->shape;
    const uint64_t share = info->global_memory / 4;
    uint64_t capacity = info->max_allocation < share ? info->max_allocation : share;
    capacity = capacity < MOECL_METER_BYTES ? capacity : MOECL_METER_BYTES;
    const size_t groups = 2 * group_bytes(shape);
    meter->capacity = (size_t)capacity / groups * groups;
    if (meter->capacity == 0)
        FAIL(&context->error, MOECL_DEVICE_TOO_SMALL, "measuring the device needs a buffer of %zu bytes", groups);
    const size_t reading_items = meter->capacity / (shape->count * shape->vector_bytes);
    const size_t items = reading_items > shape->items ? reading_items : shape->items;
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, meter->capacity, "measuring bandwidth", &meter->memory));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, items * shape->vector_bytes, "results", &meter->results));
    CL_TRY(&context->error, clFinish(context->queue));
out:
    return status;
}

static moecl_status create_kernels(struct moecl_meter *meter)
{
    static const char *const names[] = {[READ] = "read_memory",
                                        [READ_STREAMS] = "read_streams",
                                        [COPY] = "copy_memory",
                                        [MULTIPLY_ADD] = "multiply_add"};
    moecl_status status = MOECL_OK;
    struct moecl_context *context = meter->context;
    const moecl_device_info *info = &context->info;
    for (int limit = READ; limit <= MULTIPLY_ADD; limit++)
        TRY(moecl_kernel_create(context, "limits.cl", meter->shape.options, names[limit], &meter->kernels[limit]));
    if ((info->type & CL_DEVICE_TYPE_CPU) && info->native_floats >= 16)
        TRY(moecl_probe_device(context));
    const bool amx = info->amx_bf16, avx512 = info->avx512_bf16;
    if ((amx || avx512) && meter->shape.vector_bytes == sizeof(cl_float16))
        TRY(moecl_kernel_create(context, "amx.cl limits.cl",
                                amx ? "-DVECTOR=float16 -DPAIRS_AMX=1" : "-DVECTOR=float16 -DPAIRS_AVX512=1",
                                "multiply_pairs", &meter->kernels[MULTIPLY_PAIRS]));
    meter->pair_operations = amx ? 4 * 16 * 16 * 16 * 4 : 4 * 16 * CHAINS;
out:
    return status;
}

void moecl_meter_destroy(moecl_meter *meter)
{
    if (meter == NULL)
        return;
    for (size_t limit = 0; limit < LIMIT_COUNT; limit++)
        if (meter->kernels[limit] != NULL)
            clReleaseKernel(meter->kernels[limit]);
    moecl_buffer_release(meter->memory);
    moecl_buffer_release(meter->results);
    moecl_free(meter);
}

moecl_status moecl_meter_create(moecl_context *context, moecl_meter **created)
{
    moecl_status status = MOECL_OK;
    moecl_meter *meter = NULL;
    TRY(moecl_context_require_device(context));
    if (created == NULL)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "moecl_meter_create: meter is NULL");
    *created = NULL;
    meter = moecl_allocate(1, sizeof(*meter));
    if (meter == NULL)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "measuring the device: out of memory");
    meter->context = context;
    meter->shape = choose_shape(&context->info);
    TRY(create_kernels(meter));
    TRY(create_memory(meter));
    *created = meter;
    meter = NULL;
out:
    moecl_meter_destroy(meter);
    return status;
}

static moecl_status read_meter(moecl_meter *meter, double seconds, bool best, moecl_limits *limits)
{
    moecl_status status = MOECL_OK;
    double rates[LIMIT_COUNT] = {0};
    if (limits == NULL || !(seconds >= 0))
        FAIL(&meter->context->error, MOECL_INVALID_ARGUMENT,
             "measuring limits: limits is NULL, or seconds is negative");
    for (int limit = READ; limit < LIMIT_COUNT; limit++)
        if (meter->kernels[limit] != NULL)
            TRY(find_rate(meter, (enum limit)limit, (seconds == 0 ? 0.3 : seconds) / 3, best, &rates[limit]));
    const size_t floats = meter->shape.vector_bytes / sizeof(float), items = meter->shape.items;
    limits->read_bytes_per_second = fmax(rates[READ], rates[READ_STREAMS]);
    limits->copy_bytes_per_second = 2 * rates[COPY];
    limits->fp32_flops = 2 * rates[MULTIPLY_ADD] * (double)(items * floats * CHAINS);
    limits->bf16_flops = fmax(limits->fp32_flops, rates[MULTIPLY_PAIRS] * (double)(items * meter->pair_operations));
out:
    return status;
}

moecl_status moecl_meter_read(moecl_meter *meter, double seconds, moecl_limits *limits)
{
    return meter == NULL ? MOECL_INVALID_ARGUMENT : read_meter(meter, seconds, false, limits);
}

moecl_status moecl_measure_limits(moecl_context *context, double seconds, moecl_limits *limits)
{
    moecl_status status = MOECL_OK;
    moecl_meter *meter = NULL;
    TRY(moecl_meter_create(context, &meter));
    TRY(read_meter(meter, seconds, true, limits));
out:
    moecl_meter_destroy(meter);
    return status;
}
