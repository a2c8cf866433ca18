/* SPDX-License-Identifier: Apache-2.0 */
/* test_forward.c - how a forward pass behaves towards its caller: it does not block and does not allocate, takes and
 * gives events, runs on out-of-order queues, in any workspace, and gives the same bits whatever way it goes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "interception.h"
#include "layers.h"

/* A layer on a device, and what it makes of some tokens. */
struct fixture {
    moecl_context *context;
    struct host_layer host;
    moecl_layer *layer;
    size_t tokens, bytes; /* of x, and of y */
    struct array x, y;
};

/* Nothing in it is a multiple of a tile. */
static moecl_layer_options shape(void)
{
    moecl_layer_options options = {.experts = 7,
                                   .hidden = 50,
                                   .intermediate = 41,
                                   .top_k = 3,
                                   .router.normalisation = MOECL_NORMALISATION_SUM,
                                   .shared_intermediate = 20,
                                   .shared_gate = MOECL_SHARED_GATE_SIGMOID};
    if (small_sizes()) {
        options.experts = 3;
        options.hidden = 19;
        options.intermediate = 9;
        options.shared_intermediate = 5;
    }
    return options;
}

static struct fixture fixture_make(moecl_context *context, moecl_layer_options options, size_t tokens)
{
    struct fixture fixture = {.context = context, .tokens = tokens};
    fixture.host = host_layer_make(&options, MOECL_F32, 11);
    fixture.layer = host_layer_upload(context, &fixture.host);
    const size_t count = tokens * options.hidden;
    float *x = make(count, sizeof(float));
    for (size_t i = 0; i < count; i++)
        x[i] = sinf((float)i * 0.7f) + cosf((float)i * 0.031f);
    fixture.bytes = count * moecl_type_size(options.activations);
    fixture.x = array_of(context, options.activations, x, count);
    fixture.y = array_make(context, fixture.bytes, NULL);
    free(x);
    return fixture;
}

static void fixture_free(struct fixture *fixture)
{
    array_release(&fixture->x);
    array_release(&fixture->y);
    moecl_layer_destroy(fixture->layer);
    host_layer_free(&fixture->host);
    moecl_context_destroy(fixture->context);
}

static moecl_forward call_of(const struct fixture *fixture)
{
    return (moecl_forward){.tokens = fixture->tokens, .x = fixture->x.buffer, .y = fixture->y.buffer};
}

static void *forward(struct fixture *fixture)
{
    const moecl_forward call = call_of(fixture);
    ASSERT_OK(fixture->context, moecl_layer_forward(fixture->layer, &call, 0, NULL, NULL));
    return array_bytes(fixture->context, fixture->y);
}

static void test_neither_blocks_nor_allocates(void **state)
{
    (void)state;
    struct fixture fixture = fixture_make(open_context(), shape(), 33);
    const moecl_forward call = call_of(&fixture);
    ASSERT_OK(fixture.context, moecl_layer_reserve(fixture.layer, fixture.tokens));
    for (int run = 0; run < 3; run++) {
        cl_event event;
        interception_start(0);
        const moecl_status status = moecl_layer_forward(fixture.layer, &call, 0, NULL, &event);
        interception_stop();
        assert_int_equal(status, MOECL_OK);
        assert_true(interception.calls > 10); /* they did pass through here */
        if (interception.blocking)
            fail_msg("the forward pass blocked in %s", interception.blocked_in);
        assert_int_equal(interception.allocations, 0);
        clWaitForEvents(1, &event);
        clReleaseEvent(event);
    }
    /* The test can fail: checking the flag does wait. */
    interception_start(0);
    ASSERT_OK(fixture.context, moecl_layer_check(fixture.layer));
    interception_stop();
    assert_true(interception.blocking > 0);
    fixture_free(&fixture);
}

static void test_same_bits_each_time(void **state)
{
    (void)state;
    const int runs = small_sizes() ? 2 : 100;
    for (size_t i = 0; moecl_variant_name(i); i++) {
        moecl_layer_options options = shape();
        options.variant = moecl_variant_name(i);
        struct fixture fixture = fixture_make(open_context(), options, small_sizes() ? 3 : 130);
        void *first = forward(&fixture);
        for (int run = 1; run < runs; run++) {
            void *again = forward(&fixture);
            assert_memory_equal(first, again, fixture.bytes);
            free(again);
        }
        free(first);
        fixture_free(&fixture);
    }
}

/* A forward pass waits for the events it is given, and its own event comes after it; also without tokens. */
static void test_events(void **state)
{
    (void)state;
    struct fixture fixture = fixture_make(open_context(), shape(), 5);
    void *expected = forward(&fixture);
    for (size_t tokens = 0; tokens <= 5; tokens += 5) {
        cl_int code, execution;
        cl_event done;
        cl_event gate = clCreateUserEvent(moecl_context_cl(fixture.context), &code);
        assert_int_equal(code, CL_SUCCESS);
        moecl_forward call = call_of(&fixture);
        call.tokens = tokens;
        ASSERT_OK(fixture.context, moecl_layer_forward(fixture.layer, &call, 1, &gate, &done));
        /* No clFlush(): Oclgrind, which has no threads, would wait for the gate inside it. */
        clGetEventInfo(done, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof(execution), &execution, NULL);
        assert_int_not_equal(execution, CL_COMPLETE);
        clSetUserEventStatus(gate, CL_COMPLETE);
        assert_int_equal(clWaitForEvents(1, &done), CL_SUCCESS);
        clGetEventInfo(done, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof(execution), &execution, NULL);
        assert_int_equal(execution, CL_COMPLETE);
        clReleaseEvent(done);
        clReleaseEvent(gate);
    }
    void *got = array_bytes(fixture.context, fixture.y);
    assert_memory_equal(expected, got, fixture.bytes);
    free(expected);
    free(got);
    fixture_free(&fixture);
}

static void test_out_of_order_queue(void **state)
{
    (void)state;
    moecl_context *owner = open_context();
    moecl_device_info info;
    ASSERT_OK(owner, moecl_device_describe(owner, false, &info));
    if (!info.out_of_order) {
        print_message("the device has no out-of-order queues\n");
        moecl_context_destroy(owner);
        return;
    }
    cl_int code;
    cl_command_queue queue = clCreateCommandQueue(moecl_context_cl(owner), moecl_context_device(owner),
                                                  CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, &code);
    assert_int_equal(code, CL_SUCCESS);
    for (size_t i = 0; moecl_variant_name(i); i++) {
        moecl_layer_options options = shape();
        options.variant = moecl_variant_name(i);
        struct fixture in_order = fixture_make(open_context(), options, small_sizes() ? 2 : 21);
        void *expected = forward(&in_order);
        moecl_context *adopted;
        assert_int_equal(moecl_context_create(&adopted), MOECL_OK);
        ASSERT_OK(adopted, moecl_context_adopt(adopted, moecl_context_cl(owner), moecl_context_device(owner), queue));
        struct fixture out_of_order = fixture_make(adopted, options, in_order.tokens);
        for (int run = 0; run < (small_sizes() ? 1 : 5); run++) {
            void *got = forward(&out_of_order);
            assert_memory_equal(expected, got, in_order.bytes);
            free(got);
        }
        free(expected);
        fixture_free(&in_order);
        fixture_free(&out_of_order);
    }
    clReleaseCommandQueue(queue);
    moecl_context_destroy(owner);
}

/* Chunks under a small budget and a workspace of the caller's give what one chunk gives: which tile a row lies in does
 * not change its sum. */
static void test_workspaces(void **state)
{
    (void)state;
    struct fixture fixture = fixture_make(open_context(), shape(), small_sizes() ? 40 : 64);
    void *expected = forward(&fixture);
    size_t bytes, one_token;
    ASSERT_OK(fixture.context, moecl_layer_workspace_size(fixture.layer, fixture.tokens, &bytes));
    ASSERT_OK(fixture.context, moecl_layer_workspace_size(fixture.layer, 1, &one_token));
    assert_true(one_token < bytes);
    const size_t sizes[] = {bytes, one_token + (bytes - one_token) / 2, one_token};
    for (size_t i = 0; i < 3; i++) {
        struct array workspace = array_make(fixture.context, sizes[i] + 256, NULL);
        const size_t misfit = workspace.buffer.offset % 256;
        moecl_buffer aligned = workspace.buffer;
        aligned.offset += misfit ? 256 - misfit : 0;
        ASSERT_OK(fixture.context, moecl_layer_set_workspace(fixture.layer, aligned, sizes[i]));
        void *got = forward(&fixture);
        assert_memory_equal(expected, got, fixture.bytes);
        free(got);
        free(array_bytes(fixture.context, workspace)); /* its guards are looked at */
        ASSERT_OK(fixture.context, moecl_layer_set_workspace(fixture.layer, (moecl_buffer){0}, 0));
        array_release(&workspace);
    }
    struct array tiny = array_make(fixture.context, 1024, NULL);
    tiny.buffer.offset -= tiny.buffer.offset % 256;
    ASSERT_OK(fixture.context, moecl_layer_set_workspace(fixture.layer, tiny.buffer, 512));
    const moecl_forward call = call_of(&fixture);
    assert_int_equal(moecl_layer_forward(fixture.layer, &call, 0, NULL, NULL), MOECL_DEVICE_TOO_SMALL);
    array_release(&tiny);
    free(expected);
    fixture_free(&fixture);
}

/* Every parameter set is another path through the kernels; all must agree, those for GPUs too. */
static void test_parameters(void **state)
{
    (void)state;
    static const char *const sets[] = {
        "group_rows=16,group_columns=4,item_rows=4,item_vectors=1,stage_depth=16",
        "group_rows=8,group_columns=2,item_rows=3,item_vectors=2,stage_depth=8",
        "group_rows=1,group_columns=1,item_rows=12,item_vectors=2,stage_depth=0,tile_block=1",
        "group_rows=4,group_columns=1,item_rows=1,item_vectors=1,stage_depth=0,tile_block=32",
    };
    struct fixture fixture = fixture_make(open_context(), shape(), 40);
    double *expected;
    free(forward(&fixture));
    expected = array_doubles(fixture.context, fixture.y, MOECL_F32);
    for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
        moecl_layer_options options = shape();
        options.variant = "tile";
        options.parameters = sets[i];
        struct fixture other = fixture_make(open_context(), options, 40);
        free(forward(&other));
        double *got = array_doubles(other.context, other.y, MOECL_F32);
        ASSERT_CLOSE(got, expected, other.bytes / sizeof(float), 1e-5);
        free(got);
        fixture_free(&other);
    }
    free(expected);
    fixture_free(&fixture);
}

static void test_wrong_parameters(void **state)
{
    (void)state;
    static const struct {
        const char *parameters;
        moecl_status status;
        const char *sentence;
    } cases[] = {
        {"rows", MOECL_INVALID_ARGUMENT, "name=value"},
        {"item_rows=", MOECL_INVALID_ARGUMENT, "name=value"},
        {"colour=3", MOECL_INVALID_ARGUMENT, "no parameter 'colour'"},
        {"item_rows=7", MOECL_INVALID_ARGUMENT, "item_rows cannot be 7"},
        {"item_rows=99999999999", MOECL_INVALID_ARGUMENT, "small number"},
        {"item_rows=16,item_vectors=2,group_rows=1,group_columns=1,stage_depth=0", MOECL_OK, ""},
    };
    moecl_context *context = open_context();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        moecl_layer_options options = shape();
        options.variant = "tile";
        options.parameters = cases[i].parameters;
        moecl_layer *layer;
        assert_int_equal(moecl_layer_create(context, &options, &layer), cases[i].status);
        if (cases[i].status != MOECL_OK)
            assert_non_null(strstr(moecl_context_error(context), cases[i].sentence));
        moecl_layer_destroy(layer);
    }
    moecl_context_destroy(context);
}

static void test_wrong_calls(void **state)
{
    (void)state;
    struct fixture fixture = fixture_make(open_context(), shape(), 4);
    const moecl_forward right = call_of(&fixture);
    moecl_forward wrong[6];
    for (size_t i = 0; i < 6; i++)
        wrong[i] = right;
    wrong[0].tokens = MOECL_MAX_TOKENS + 1;
    wrong[1].tokens = 4000; /* more than x holds */
    wrong[2].y = right.x;
    wrong[3].x.offset += 2;
    wrong[4].routing_given = true;
    wrong[5].routing.ids = right.x;
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(moecl_layer_forward(fixture.layer, &wrong[i], 0, NULL, NULL), MOECL_INVALID_ARGUMENT);
        assert_string_not_equal(moecl_context_error(fixture.context), "");
    }
    free(forward(&fixture)); /* the layer still works */
    fixture_free(&fixture);
}

static void test_not_finite(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    struct fixture fixture = fixture_make(open_context(), shape(), 6);
    void *expected = forward(&fixture);
    ASSERT_OK(fixture.context, moecl_layer_check(fixture.layer));
    for (size_t i = 0; i < 3; i++) {
        const moecl_buffer place = fixture.x.buffer;
        const size_t offset = place.offset + (2 * shape().hidden + 7) * sizeof(float);
        float kept;
        clEnqueueReadBuffer(moecl_context_queue(fixture.context), place.memory, CL_TRUE, offset, sizeof(kept), &kept, 0,
                            NULL, NULL);
        clEnqueueWriteBuffer(moecl_context_queue(fixture.context), place.memory, CL_TRUE, offset, sizeof(kept), &bad[i],
                             0, NULL, NULL);
        free(forward(&fixture));
        assert_int_equal(moecl_layer_check(fixture.layer), MOECL_NOT_FINITE);
        ASSERT_OK(fixture.context, moecl_layer_check(fixture.layer)); /* the flag was cleared */
        clEnqueueWriteBuffer(moecl_context_queue(fixture.context), place.memory, CL_TRUE, offset, sizeof(kept), &kept,
                             0, NULL, NULL);
        void *got = forward(&fixture);
        assert_memory_equal(expected, got, fixture.bytes);
        free(got);
    }
    free(expected);
    fixture_free(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_neither_blocks_nor_allocates),
        cmocka_unit_test(test_same_bits_each_time),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_out_of_order_queue),
        cmocka_unit_test(test_workspaces),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_wrong_parameters),
        cmocka_unit_test(test_wrong_calls),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
