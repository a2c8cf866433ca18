/* SPDX-License-Identifier: Apache-2.0 */
/* threads.c - binding threads that belong to an OpenCL implementation: it is given as many functions of the host to run
 * ("native kernels") as it has threads, and these wait for one another, so that there is one in each thread. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* of sched.h, the sets of processors */
#endif
#include "threads.h"

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "clock.h"
#include "memory.h"

/* Threads that wait for one another. */
struct meeting {
    pthread_t caller;
    cpu_set_t processors;
    unsigned expected;
    atomic_uint arrived; /* with CANCELLED, which is more than is ever expected: none is to be bound */
    atomic_uint left;
};
enum { CANCELLED = 1 << 30 };

static const double patience = 0.05; /* seconds */

/* Binds the calling thread to the n-th processor of a set. */
static void bind_to(const cpu_set_t *processors, unsigned n)
{
    cpu_set_t one;
    size_t processor = 0;
    while (!CPU_ISSET(processor, processors) || n-- > 0)
        processor++;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    sched_setaffinity(0, sizeof(one), &one);
}

/* Runs in a thread of the device: binds it when all have arrived, and either all are bound or none. Some
 * implementations lend themselves the caller's thread, which is not ours to bind: there, none are. */
static void CL_CALLBACK meet(void *argument)
{
    struct meeting *meeting = *(struct meeting *const *)argument;
    if (pthread_equal(pthread_self(), meeting->caller))
        atomic_fetch_or(&meeting->arrived, CANCELLED);
    const unsigned place = atomic_fetch_add(&meeting->arrived, 1);
    const double start = moecl_now();
    unsigned arrived = place + 1;
    while (arrived < meeting->expected) {
        if (moecl_now() - start > patience)
            atomic_compare_exchange_strong(&meeting->arrived, &arrived, arrived | CANCELLED);
        sched_yield();
        arrived = atomic_load(&meeting->arrived);
    }
    if (arrived == meeting->expected)
        bind_to(&meeting->processors, place);
    atomic_fetch_add(&meeting->left, 1);
}

/* Whether there is something to bind, and to which processors. */
static moecl_status find_processors(struct moecl_error *error, cl_device_id device, const moecl_device_info *info,
                                    cpu_set_t *processors, bool *found)
{
    moecl_status status = MOECL_OK;
    cl_device_exec_capabilities capabilities = 0;
    CL_TRY(error, clGetDeviceInfo(device, CL_DEVICE_EXECUTION_CAPABILITIES, sizeof(capabilities), &capabilities, NULL));
    *found = (info->type & CL_DEVICE_TYPE_CPU) != 0 && (capabilities & CL_EXEC_NATIVE_KERNEL) != 0 &&
             info->out_of_order && getenv("POCL_AFFINITY") == NULL &&
             sched_getaffinity(0, sizeof(*processors), processors) == 0 && info->compute_units > 1 &&
             (unsigned)CPU_COUNT(processors) == info->compute_units;
out:
    return status;
}

moecl_status moecl_threads_bind(struct moecl_error *error, cl_context cl, cl_device_id device,
                                const moecl_device_info *info)
{
    moecl_status status = MOECL_OK;
    struct meeting *meeting = NULL;
    cl_command_queue queue = NULL;
    unsigned queued = 0;
    cpu_set_t processors;
    bool found = false;
    TRY(find_processors(error, device, info, &processors, &found));
    if (!found)
        goto out;
    meeting = moecl_allocate(1, sizeof(*meeting));
    if (meeting == NULL)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "no host memory to bind the device's threads");
    *meeting = (struct meeting){.caller = pthread_self(), .processors = processors, .expected = info->compute_units};
    CL_NEW(error, queue, clCreateCommandQueue(cl, device, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, &cl_code));
    for (; queued < meeting->expected; queued++)
        CL_TRY(error, clEnqueueNativeKernel(queue, meet, &meeting, sizeof(meeting), 0, NULL, NULL, 0, NULL, NULL));
    CL_TRY(error, clFinish(queue));
out:
    if (queue != NULL)
        clReleaseCommandQueue(queue);
    /* Where a call failed, some may be waiting yet; what a device has never run keeps the memory. */
    const double start = moecl_now();
    while (meeting != NULL && atomic_load(&meeting->left) < queued && moecl_now() - start < 2 * patience)
        sched_yield();
    if (meeting != NULL && atomic_load(&meeting->left) == queued)
        moecl_free(meeting);
    return status;
}
#else
moecl_status moecl_threads_bind(struct moecl_error *error, cl_context cl, cl_device_id device,
                                const moecl_device_info *info)
{
    (void)error, (void)cl, (void)device, (void)info;
    return MOECL_OK;
}
#endif
