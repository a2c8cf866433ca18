/* SPDX-License-Identifier: Apache-2.0 */
/* test_launch.c - chains of commands on in-order and out-of-order queues: their order, their events, their failures.
 * Every test runs on a queue of each kind that the device has. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "device.h"
#include "device/buffer.h"
#include "device/launch.h"
#include "device/program.h"
#include "interception.h"

/* append: one work-item adds `value` to a log whose first word counts. It dawdles, so that two at the same time spoil
 * the log. mark: work-item (x, y, z) adds one to its element. parameters: writes what it was given. */
static const char source[] =
    "kernel void append(global uint *log, ulong offset, uint value)\n"
    "{\n"
    "    log = (global uint *)((global uchar *)log + offset);\n"
    "    uint count = log[0], sum = value;\n"
    "    for (uint i = 0; i < 2000; i++)\n"
    "        sum = sum * 1664525u + 1013904223u;\n"
    "    log[1 + count] = value + (sum == 1u ? 1u : 0u);\n"
    "    log[0] = count + 1;\n"
    "}\n"
    "kernel void mark(global uint *marks, ulong offset)\n"
    "{\n"
    "    marks = (global uint *)((global uchar *)marks + offset);\n"
    "    size_t x = get_global_id(0), y = get_global_id(1), z = get_global_id(2);\n"
    "    marks[(z * get_global_size(1) + y) * get_global_size(0) + x] += 1 + (uint)get_local_size(0);\n"
    "}\n"
    "kernel void parameters(uint a, global uint *out, ulong offset, int b, ulong c, float d)\n"
    "{\n"
    "    out = (global uint *)((global uchar *)out + offset);\n"
    "    out[0] = a;\n"
    "    out[1] = as_uint(b);\n"
    "    out[2] = (uint)c;\n"
    "    out[3] = (uint)(c >> 32);\n"
    "    out[4] = as_uint(d);\n"
    "}\n";

enum { LOG_LENGTH = 100 };

struct fixture {
    moecl_context *context;
    cl_kernel append, mark, parameters;
    struct array log; /* u32 [1 + LOG_LENGTH] */
};

static cl_kernel make_kernel(cl_program program, const char *name)
{
    cl_int code;
    cl_kernel kernel = clCreateKernel(program, name, &code);
    assert_int_equal(code, CL_SUCCESS);
    return kernel;
}

static int set_up(void **state, cl_command_queue_properties properties)
{
    struct fixture *fixture = make(1, sizeof(*fixture));
    const cl_uint zeros[1 + LOG_LENGTH] = {0};
    cl_program program;
    *state = fixture;
    fixture->context = open_context_with_queue(properties);
    if (fixture->context == NULL)
        return 0;
    ASSERT_OK(fixture->context, moecl_program_build_source(fixture->context, source, NULL, &program));
    fixture->append = make_kernel(program, "append");
    fixture->mark = make_kernel(program, "mark");
    fixture->parameters = make_kernel(program, "parameters");
    clReleaseProgram(program);
    fixture->log = array_make(fixture->context, sizeof(zeros), zeros);
    return 0;
}

static int set_up_in_order(void **state)
{
    return set_up(state, 0);
}

static int set_up_out_of_order(void **state)
{
    return set_up(state, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE);
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    if (fixture->context != NULL) {
        array_release(&fixture->log);
        clReleaseKernel(fixture->append);
        clReleaseKernel(fixture->mark);
        clReleaseKernel(fixture->parameters);
        moecl_context_destroy(fixture->context);
    }
    free(fixture);
    return 0;
}

/* The fixture; ends the test where the device has no queue of the kind. */
static struct fixture *begin(void **state)
{
    struct fixture *fixture = *state;
    if (fixture->context == NULL)
        skip();
    return fixture;
}

static moecl_status append(struct fixture *fixture, struct moecl_chain *chain, cl_uint value)
{
    const size_t one = 1;
    const struct moecl_argument arguments[] = {ARGUMENT_BUFFER(fixture->log.buffer), ARGUMENT_U32(value)};
    return moecl_launch(chain, fixture->append, 1, &one, NULL, arguments, 2);
}

/* The log must hold 0, 1, ... count - 1. */
static void assert_log(struct fixture *fixture, size_t count)
{
    cl_uint log[1 + LOG_LENGTH];
    array_read(fixture->context, fixture->log, log);
    assert_int_equal(log[0], count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(log[1 + i], i);
}

static cl_event make_user_event(struct fixture *fixture)
{
    cl_int code;
    cl_event event = clCreateUserEvent(moecl_context_cl(fixture->context), &code);
    assert_int_equal(code, CL_SUCCESS);
    return event;
}

static bool is_complete(cl_event event)
{
    cl_int state;
    assert_int_equal(clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof(state), &state, NULL), CL_SUCCESS);
    assert_true(state >= CL_COMPLETE);
    return state == CL_COMPLETE;
}

/* Ending a chain does not flush the queue, and a driver may wait forever for what was never sent off. */
static void wait(struct fixture *fixture, cl_event event)
{
    assert_int_equal(clFlush(moecl_context_queue(fixture->context)), CL_SUCCESS);
    assert_int_equal(clWaitForEvents(1, &event), CL_SUCCESS);
}

/* --------------------------------------------------------------------------------------------- order and events -- */

static void commands_run_one_after_the_other(void **state)
{
    struct fixture *fixture = begin(state);
    struct moecl_chain chain;
    cl_event event = NULL;
    interception_start(0);
    ASSERT_OK(fixture->context, moecl_chain_begin(&chain, fixture->context, 0, NULL));
    for (cl_uint i = 0; i < LOG_LENGTH; i++)
        ASSERT_OK(fixture->context, append(fixture, &chain, i));
    ASSERT_OK(fixture->context, moecl_chain_end(&chain, MOECL_OK, &event));
    assert_int_equal(interception.blocking, 0);
    assert_non_null(event);
    wait(fixture, event);
    assert_true(is_complete(event));
    clReleaseEvent(event);
    assert_int_equal(interception.objects, 0);
    assert_log(fixture, LOG_LENGTH);
}

/* One public call after the other, each given the event of the one before, as a caller of an out-of-order queue does.
 */
static void chains_follow_each_other_by_events(void **state)
{
    struct fixture *fixture = begin(state);
    cl_event before = NULL;
    for (cl_uint i = 0; i < 20; i += 2) {
        struct moecl_chain chain;
        cl_event after = NULL;
        ASSERT_OK(fixture->context,
                  moecl_chain_begin(&chain, fixture->context, before == NULL ? 0 : 1, before == NULL ? NULL : &before));
        ASSERT_OK(fixture->context, append(fixture, &chain, i));
        ASSERT_OK(fixture->context, append(fixture, &chain, i + 1));
        ASSERT_OK(fixture->context, moecl_chain_end(&chain, MOECL_OK, &after));
        if (before != NULL)
            clReleaseEvent(before);
        before = after;
    }
    wait(fixture, before);
    clReleaseEvent(before);
    assert_log(fixture, 20);
}

static void no_event_is_made_where_none_is_wanted(void **state)
{
    struct fixture *fixture = begin(state);
    struct moecl_chain chain;
    interception_start(0);
    ASSERT_OK(fixture->context, moecl_chain_begin(&chain, fixture->context, 0, NULL));
    for (cl_uint i = 0; i < 3; i++)
        ASSERT_OK(fixture->context, append(fixture, &chain, i));
    ASSERT_OK(fixture->context, moecl_chain_end(&chain, MOECL_OK, NULL));
    assert_int_equal(interception.objects, 0);
    assert_int_equal(clFinish(moecl_context_queue(fixture->context)), CL_SUCCESS);
    assert_log(fixture, 3);
}

/* `commands` commands behind a user event: none may start before it. */
static void waits_for(struct fixture *fixture, cl_uint commands)
{
    struct moecl_chain chain;
    cl_event gate = make_user_event(fixture), event = NULL;
    ASSERT_OK(fixture->context, moecl_chain_begin(&chain, fixture->context, 1, &gate));
    for (cl_uint i = 0; i < commands; i++)
        ASSERT_OK(fixture->context, append(fixture, &chain, i));
    ASSERT_OK(fixture->context, moecl_chain_end(&chain, MOECL_OK, &event));
    assert_false(is_complete(event));
    assert_int_equal(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
    wait(fixture, event);
    clReleaseEvent(event);
    clReleaseEvent(gate);
    assert_log(fixture, commands);
}

static void the_first_command_waits_for_the_callers_events(void **state)
{
    waits_for(begin(state), 5);
}

static void an_empty_chain_waits_for_the_callers_events(void **state)
{
    waits_for(begin(state), 0);
}

static void an_empty_chain_gives_an_event(void **state)
{
    struct fixture *fixture = begin(state);
    struct moecl_chain chain;
    cl_event event = NULL;
    const size_t nothing[] = {5, 0}, group[] = {1, 1};
    ASSERT_OK(fixture->context, moecl_chain_begin(&chain, fixture->context, 0, NULL));
    ASSERT_OK(fixture->context, moecl_launch(&chain, fixture->append, 2, nothing, group, NULL, 0));
    ASSERT_OK(fixture->context, moecl_launch_fill(&chain, fixture->log.buffer, "abcd", 4, 0));
    ASSERT_OK(fixture->context, moecl_chain_end(&chain, MOECL_OK, &event));
    wait(fixture, event);
    clReleaseEvent(event);
    assert_log(fixture, 0);
}

/* Commands that others queue between leave and enter run after the chain so far and before the rest of it. */
static void others_in_the_middle(struct fixture *fixture, cl_event gate)
{
    cl_command_queue queue = moecl_context_queue(fixture->context);
    struct moecl_chain chain;
    const size_t one = 1;
    cl_uint value = 3;
    cl_event event = NULL, others = NULL;
    ASSERT_OK(fixture->context,
              moecl_chain_begin(&chain, fixture->context, gate == NULL ? 0 : 1, gate == NULL ? NULL : &gate));
    if (gate == NULL) {
        for (cl_uint i = 0; i < 3; i++)
            ASSERT_OK(fixture->context, append(fixture, &chain, i));
    } else { /* the others come first: it is they who have to wait for the gate */
        value = 0;
    }
    ASSERT_OK(fixture->context, moecl_chain_leave(&chain));
    cl_ulong offset = fixture->log.buffer.offset;
    assert_int_equal(clSetKernelArg(fixture->append, 0, sizeof(cl_mem), &fixture->log.buffer.memory), CL_SUCCESS);
    assert_int_equal(clSetKernelArg(fixture->append, 1, sizeof(offset), &offset), CL_SUCCESS);
    assert_int_equal(clSetKernelArg(fixture->append, 2, sizeof(value), &value), CL_SUCCESS);
    assert_int_equal(clEnqueueNDRangeKernel(queue, fixture->append, 1, NULL, &one, &one, 0, NULL, &others), CL_SUCCESS);
    ASSERT_OK(fixture->context, moecl_chain_enter(&chain));
    ASSERT_OK(fixture->context, append(fixture, &chain, value + 1));
    ASSERT_OK(fixture->context, moecl_chain_end(&chain, MOECL_OK, &event));
    if (gate != NULL) {
        assert_false(is_complete(others));
        assert_int_equal(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
    }
    wait(fixture, event);
    clReleaseEvent(event);
    clReleaseEvent(others);
    assert_log(fixture, value + 2);
}

static void others_work_in_the_middle(void **state)
{
    others_in_the_middle(begin(state), NULL);
}

static void others_work_waits_for_the_callers_events(void **state)
{
    struct fixture *fixture = begin(state);
    cl_event gate = make_user_event(fixture);
    others_in_the_middle(fixture, gate);
    clReleaseEvent(gate);
}

/* ------------------------------------------------------------------------------------------- sizes and arguments -- */

/* One launch of `mark`; every work-item of whole groups must have run once. */
static void assert_runs(struct fixture *fixture, cl_uint dimensions, const size_t *global, const size_t *local,
                        size_t expected)
{
    struct moecl_chain chain;
    cl_uint *zeros = make(expected, sizeof(*zeros));
    struct array marks = array_make(fixture->context, expected * sizeof(*zeros), zeros);
    const struct moecl_argument arguments[] = {ARGUMENT_BUFFER(marks.buffer)};
    ASSERT_OK(fixture->context, moecl_chain_begin(&chain, fixture->context, 0, NULL));
    ASSERT_OK(fixture->context, moecl_launch(&chain, fixture->mark, dimensions, global, local, arguments, 1));
    ASSERT_OK(fixture->context, moecl_chain_end(&chain, MOECL_OK, NULL));
    cl_uint *got = array_bytes(fixture->context, marks);
    for (size_t i = 0; i < expected; i++)
        assert_int_equal(got[i], 1 + (local == NULL ? 1 : local[0]));
    free(got);
    free(zeros);
    array_release(&marks);
}

static void items_fill_whole_groups(void **state)
{
    struct fixture *fixture = begin(state);
    assert_runs(fixture, 1, (const size_t[]){100}, (const size_t[]){16}, 112);
    assert_runs(fixture, 1, (const size_t[]){96}, (const size_t[]){16}, 96);
    assert_runs(fixture, 1, (const size_t[]){1}, (const size_t[]){32}, 32);
    assert_runs(fixture, 1, (const size_t[]){7}, NULL, 7);
    assert_runs(fixture, 2, (const size_t[]){5, 6}, (const size_t[]){4, 3}, 8 * 6);
    assert_runs(fixture, 3, (const size_t[]){5, 2, 3}, (const size_t[]){2, 4, 1}, 6 * 4 * 3);
    assert_runs(fixture, 3, (const size_t[]){2, 3, 4}, NULL, 24);
}

static void arguments_arrive(void **state)
{
    struct fixture *fixture = begin(state);
    struct moecl_chain chain;
    const size_t one = 1;
    struct array out = array_make(fixture->context, 8 * sizeof(cl_uint), NULL);
    const struct moecl_argument arguments[] = {
        ARGUMENT_U32(4000000000u), ARGUMENT_BUFFER(moecl_buffer_at(out.buffer, 8)),
        ARGUMENT_I32(-5),          ARGUMENT_U64(1234567890123456),
        ARGUMENT_F32(0.1f),
    };
    ASSERT_OK(fixture->context, moecl_chain_begin(&chain, fixture->context, 0, NULL));
    ASSERT_OK(fixture->context, moecl_launch(&chain, fixture->parameters, 1, &one, NULL, arguments, 5));
    ASSERT_OK(fixture->context, moecl_chain_end(&chain, MOECL_OK, NULL));
    cl_uint got[8];
    float d;
    array_read(fixture->context, out, got);
    memcpy(&d, &got[6], sizeof(d));
    assert_int_equal(got[1], 0xa5a5a5a5);
    assert_int_equal(got[2], 4000000000u);
    assert_int_equal((cl_int)got[3], -5);
    assert_true(got[4] + ((uint64_t)got[5] << 32) == 1234567890123456);
    assert_true(d == 0.1f);
    assert_int_equal(got[7], 0xa5a5a5a5);
    array_release(&out);
}

static void fill_patterns(void **state)
{
    struct fixture *fixture = begin(state);
    struct moecl_chain chain;
    const cl_uint small = 0x12345678;
    const cl_ulong large = 0x0123456789abcdef;
    struct array out = array_make(fixture->context, 64, NULL);
    ASSERT_OK(fixture->context, moecl_chain_begin(&chain, fixture->context, 0, NULL));
    ASSERT_OK(fixture->context, moecl_launch_fill(&chain, out.buffer, &large, sizeof(large), 32));
    ASSERT_OK(fixture->context, moecl_launch_fill(&chain, moecl_buffer_at(out.buffer, 12), &small, sizeof(small), 8));
    ASSERT_OK(fixture->context, moecl_chain_end(&chain, MOECL_OK, NULL));
    cl_uint got[16];
    array_read(fixture->context, out, got);
    static const cl_uint expected[16] = {0x89abcdef, 0x01234567, 0x89abcdef, 0x12345678, 0x12345678, 0x01234567,
                                         0x89abcdef, 0x01234567, 0xa5a5a5a5, 0xa5a5a5a5, 0xa5a5a5a5, 0xa5a5a5a5,
                                         0xa5a5a5a5, 0xa5a5a5a5, 0xa5a5a5a5, 0xa5a5a5a5};
    assert_memory_equal(got, expected, sizeof(got));
    array_release(&out);
}

/* ------------------------------------------------------------------------------------------------------ failures -- */

static moecl_status three_commands(struct fixture *fixture, cl_event *event)
{
    moecl_status status = MOECL_OK;
    struct moecl_chain chain;
    const cl_uint pattern = 0;
    TRY(moecl_chain_begin(&chain, fixture->context, 0, NULL));
    TRY(append(fixture, &chain, 0));
    TRY(moecl_launch_fill(&chain, fixture->log.buffer, &pattern, sizeof(pattern), sizeof(pattern)));
    TRY(moecl_chain_leave(&chain));
    TRY(moecl_chain_enter(&chain));
    TRY(append(fixture, &chain, 0));
out:
    return moecl_chain_end(&chain, status, event);
}

/* Each OpenCL call of a chain fails in turn. */
static void a_failure_leaves_nothing_behind(void **state)
{
    struct fixture *fixture = begin(state);
    size_t n = 0;
    do {
        cl_event event = NULL;
        interception_start(++n);
        moecl_status status = three_commands(fixture, &event);
        interception_stop();
        if (interception.failed == NULL) {
            assert_int_equal(status, MOECL_OK);
            clReleaseEvent(event);
        } else {
            assert_int_equal(status, MOECL_OUT_OF_DEVICE_MEMORY);
            assert_null(event);
            assert_non_null(strstr(moecl_context_error(fixture->context), interception.failed));
            if (strcmp(interception.failed, "clEnqueueNDRangeKernel") == 0)
                assert_non_null(strstr(moecl_context_error(fixture->context), "kernel append over 1 x 1 x 1"));
        }
        assert_int_equal(interception.objects, 0);
        assert_int_equal(clFinish(moecl_context_queue(fixture->context)), CL_SUCCESS);
    } while (interception.failed != NULL);
    assert_true(n > 10);
}

static void the_works_own_failure_is_passed_on(void **state)
{
    struct fixture *fixture = begin(state);
    struct moecl_chain chain;
    cl_event event = NULL;
    interception_start(0);
    ASSERT_OK(fixture->context, moecl_chain_begin(&chain, fixture->context, 0, NULL));
    ASSERT_OK(fixture->context, append(fixture, &chain, 0));
    assert_int_equal(moecl_chain_end(&chain, MOECL_BAD_FILE, &event), MOECL_BAD_FILE);
    assert_null(event);
    assert_int_equal(interception.objects, 0);
    assert_int_equal(clFinish(moecl_context_queue(fixture->context)), CL_SUCCESS);
}

static void a_wait_list_has_both_or_neither(void **state)
{
    struct fixture *fixture = begin(state);
    struct moecl_chain chain;
    cl_event gate = make_user_event(fixture), event = NULL;
    assert_int_equal(moecl_chain_begin(&chain, fixture->context, 1, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_chain_end(&chain, MOECL_INVALID_ARGUMENT, &event), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_chain_begin(&chain, fixture->context, 0, &gate), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_chain_end(&chain, MOECL_INVALID_ARGUMENT, &event), MOECL_INVALID_ARGUMENT);
    assert_null(event);
    clReleaseEvent(gate);

    moecl_context *bare;
    assert_int_equal(moecl_context_create(&bare), MOECL_OK);
    assert_int_equal(moecl_chain_begin(&chain, bare, 0, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_chain_end(&chain, MOECL_INVALID_ARGUMENT, &event), MOECL_INVALID_ARGUMENT);
    moecl_context_destroy(bare);
}

int main(void)
{
#define ON_BOTH_QUEUES(test)                                                                                           \
    {#test " (in order)", test, set_up_in_order, tear_down, NULL},                                                     \
    {                                                                                                                  \
#test " (out of order)", test, set_up_out_of_order, tear_down, NULL                                            \
    }
    const struct CMUnitTest tests[] = {
        ON_BOTH_QUEUES(commands_run_one_after_the_other),
        ON_BOTH_QUEUES(chains_follow_each_other_by_events),
        ON_BOTH_QUEUES(no_event_is_made_where_none_is_wanted),
        ON_BOTH_QUEUES(the_first_command_waits_for_the_callers_events),
        ON_BOTH_QUEUES(an_empty_chain_waits_for_the_callers_events),
        ON_BOTH_QUEUES(an_empty_chain_gives_an_event),
        ON_BOTH_QUEUES(others_work_in_the_middle),
        ON_BOTH_QUEUES(others_work_waits_for_the_callers_events),
        ON_BOTH_QUEUES(items_fill_whole_groups),
        ON_BOTH_QUEUES(arguments_arrive),
        ON_BOTH_QUEUES(fill_patterns),
        ON_BOTH_QUEUES(a_failure_leaves_nothing_behind),
        ON_BOTH_QUEUES(the_works_own_failure_is_passed_on),
        ON_BOTH_QUEUES(a_wait_list_has_both_or_neither),
    };
    return cmocka_run_group_tests_name("launch", tests, NULL, NULL);
}
