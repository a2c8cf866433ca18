/* SPDX-License-Identifier: Apache-2.0 */
/* launch.h - queueing kernels, one after the other, on in-order and out-of-order queues alike.
 *
 * A chain is one public call's worth of work: its first command waits for the caller's events, every command waits for
 * the one before, and ending it gives the caller's event. Nothing blocks. */
#ifndef MOECL_RUNTIME_LAUNCH_H
#define MOECL_RUNTIME_LAUNCH_H

#include "context.h"

struct moecl_chain {
    struct moecl_context *context;
    cl_uint wait_count; /* the caller's events, until the first command took them */
    const cl_event *wait;
    cl_event last; /* the last command's event; NULL on an in-order queue or before the first command */
};

/* Checks the wait list's form (count and pointer both or neither). */
moecl_status moecl_chain_begin(struct moecl_chain *chain, struct moecl_context *context, cl_uint wait_count,
                               const cl_event *wait);
/* Ends the chain, whatever `status` the work had, and returns it; on success writes *event (unless event is NULL),
 * which completes with the last command, or with the wait list when there was none. Always flushes nothing, blocks
 * never. */
moecl_status moecl_chain_end(struct moecl_chain *chain, moecl_status status, cl_event *event);

/* One kernel argument; make a table of them with the macros. A buffer takes two kernel parameters: the memory object
 * and a ulong of bytes (cl/common.cl has the other side). */
struct moecl_argument {
    enum { MOECL_ARGUMENT_VALUE, MOECL_ARGUMENT_BUFFER } kind;
    size_t size;
    union {
        cl_uint u32;
        cl_int i32;
        cl_ulong u64;
        cl_float f32;
        moecl_buffer buffer;
    } value;
};
#define ARGUMENT_U32(v)    ((struct moecl_argument){MOECL_ARGUMENT_VALUE, sizeof(cl_uint), {.u32 = (cl_uint)(v)}})
#define ARGUMENT_I32(v)    ((struct moecl_argument){MOECL_ARGUMENT_VALUE, sizeof(cl_int), {.i32 = (cl_int)(v)}})
#define ARGUMENT_U64(v)    ((struct moecl_argument){MOECL_ARGUMENT_VALUE, sizeof(cl_ulong), {.u64 = (cl_ulong)(v)}})
#define ARGUMENT_F32(v)    ((struct moecl_argument){MOECL_ARGUMENT_VALUE, sizeof(cl_float), {.f32 = (cl_float)(v)}})
#define ARGUMENT_BUFFER(b) ((struct moecl_argument){MOECL_ARGUMENT_BUFFER, 0, {.buffer = (b)}})

/* Queues `kernel` over `global` work-items in groups of `local` (dimensions 1 to 3; global is rounded up to whole
 * groups, so kernels check their bounds; local NULL means groups of one work-item). A dimension of 0 work-items queues
 * nothing. The sentence of a failure names the kernel, its sizes and the OpenCL code. */
moecl_status moecl_launch(struct moecl_chain *chain, cl_kernel kernel, cl_uint dimensions, const size_t *global,
                          const size_t *local, const struct moecl_argument *arguments, size_t count);
/* Fills `size` bytes with a pattern of 4 or 8 bytes. */
moecl_status moecl_launch_fill(struct moecl_chain *chain, moecl_buffer buffer, const void *pattern, size_t pattern_size,
                               size_t size);
/* Copies `rows` rows of `row_bytes` bytes, which lie `pitch` bytes apart in `from` and without gaps in `to`. */
moecl_status moecl_launch_copy_rows(struct moecl_chain *chain, moecl_buffer from, size_t pitch, moecl_buffer to,
                                    size_t row_bytes, size_t rows);
/* For work queued by others (CLBlast) in the middle of a chain: makes the queue's next commands wait for the chain so
 * far, and after it the chain wait for everything queued. */
moecl_status moecl_chain_leave(struct moecl_chain *chain);
moecl_status moecl_chain_enter(struct moecl_chain *chain);

#endif
