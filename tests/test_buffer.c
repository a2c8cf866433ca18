/* SPDX-License-Identifier: Apache-2.0 */
/* test_buffer.c - device memory: making it, checking the caller's, moving bytes in the order of the queue. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "device.h"
#include "device/buffer.h"
#include "device/launch.h"
#include "interception.h"

static int set_up(void **state)
{
    *state = open_context();
    return 0;
}

static int tear_down(void **state)
{
    moecl_context_destroy(*state);
    return 0;
}

static void sizes(void **state)
{
    moecl_context *context = *state;
    cl_mem memory = NULL;
    size_t size = 0;
    ASSERT_OK(context, moecl_buffer_create(context, CL_MEM_READ_WRITE, 0, "nothing", &memory));
    assert_int_equal(clGetMemObjectInfo(memory, CL_MEM_SIZE, sizeof(size), &size, NULL), CL_SUCCESS);
    assert_int_equal(size, 1);
    moecl_buffer_release(memory);
    moecl_buffer_release(NULL);

    moecl_device_info info;
    ASSERT_OK(context, moecl_device_describe(context, false, &info));
    memory = NULL;
    assert_int_equal(
        moecl_buffer_create(context, CL_MEM_READ_WRITE, (size_t)info.max_allocation + 1, "the moon", &memory),
        MOECL_DEVICE_TOO_SMALL);
    assert_null(memory);
    assert_non_null(strstr(moecl_context_error(context), "the moon"));
    assert_int_equal(moecl_buffer_create(context, CL_MEM_READ_WRITE, SIZE_MAX, "the moon", &memory),
                     MOECL_DEVICE_TOO_SMALL);

    interception_start(1);
    assert_int_equal(moecl_buffer_create(context, CL_MEM_READ_WRITE, 4321, "the tide", &memory),
                     MOECL_OUT_OF_DEVICE_MEMORY);
    interception_stop();
    assert_string_equal(interception.failed, "clCreateBuffer");
    assert_null(memory);
    assert_non_null(strstr(moecl_context_error(context), "the tide"));
    assert_non_null(strstr(moecl_context_error(context), "4321"));
}

static void checks(void **state)
{
    moecl_context *context = *state, *other = open_context();
    static const struct {
        size_t offset, size, alignment;
        bool good;
    } rows[] = {
        {0, 100, 1, true}, {0, 0, 1, true},         {100, 0, 4, true},        {96, 4, 4, true},
        {4, 96, 4, true},  {0, 101, 1, false},      {100, 1, 1, false},       {101, 0, 1, false},
        {2, 4, 4, false},  {SIZE_MAX, 2, 1, false}, {50, SIZE_MAX, 1, false},
    };
    cl_mem memory = NULL;
    ASSERT_OK(context, moecl_buffer_create(context, CL_MEM_READ_WRITE, 100, "a test", &memory));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        moecl_buffer buffer = {memory, rows[i].offset};
        moecl_status status = moecl_buffer_check(context, buffer, rows[i].size, rows[i].alignment, "the input x");
        assert_int_equal(status, rows[i].good ? MOECL_OK : MOECL_INVALID_ARGUMENT);
        if (!rows[i].good)
            assert_non_null(strstr(moecl_context_error(context), "the input x"));
    }
    assert_int_equal(moecl_buffer_check(context, (moecl_buffer){NULL, 0}, 0, 1, "y"), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_buffer_check(other, (moecl_buffer){memory, 0}, 1, 1, "y"), MOECL_INVALID_ARGUMENT);
    moecl_buffer moved = moecl_buffer_at((moecl_buffer){memory, 4}, 8);
    assert_ptr_equal(moved.memory, memory);
    assert_int_equal(moved.offset, 12);
    moecl_buffer_release(memory);
    moecl_context_destroy(other);
}

static void bytes_move(void **state)
{
    moecl_context *context = *state;
    unsigned char bytes[1000], got[1000];
    struct array array = array_make(context, sizeof(bytes), NULL);
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char)(i * 7);

    ASSERT_OK(context, moecl_buffer_write(context, moecl_buffer_at(array.buffer, 100), 500, bytes));
    ASSERT_OK(context, moecl_buffer_read(context, moecl_buffer_at(array.buffer, 150), 450, got));
    assert_memory_equal(got, bytes + 50, 450);

    void *mapped = NULL;
    ASSERT_OK(context, moecl_buffer_map(context, moecl_buffer_at(array.buffer, 700), 200, &mapped));
    memcpy(mapped, bytes, 200);
    ASSERT_OK(context, moecl_buffer_unmap(context, moecl_buffer_at(array.buffer, 700), mapped));

    ASSERT_OK(context, moecl_buffer_read(context, array.buffer, 0, NULL));
    ASSERT_OK(context, moecl_buffer_write(context, array.buffer, 0, NULL));
    array_read(context, array, got);
    for (size_t i = 0; i < sizeof(got); i++)
        assert_int_equal(got[i], i < 100   ? 0xa5
                                 : i < 600 ? bytes[i - 100]
                                 : i < 700 ? 0xa5
                                 : i < 900 ? bytes[i - 700]
                                           : 0xa5);
    array_release(&array);
}

/* What was queued before is done before bytes move, on an out-of-order queue too. */
static void earlier_commands_come_first(void **state)
{
    (void)state;
    enum { WORDS = 1 << 16 };
    moecl_context *context = open_context_with_queue(CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE);
    if (context == NULL)
        skip();
    cl_uint *got = make(WORDS, sizeof(*got));
    struct array array = array_make(context, WORDS * sizeof(*got), NULL);
    for (cl_uint round = 1; round <= 20; round++) {
        struct moecl_chain chain;
        const cl_uint old = 2 * round, new = 2 * round + 1;
        void *mapped;
        ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
        ASSERT_OK(context, moecl_launch_fill(&chain, array.buffer, &old, sizeof(old), array.size));
        ASSERT_OK(context, moecl_chain_end(&chain, MOECL_OK, NULL));
        ASSERT_OK(context, moecl_buffer_read(context, array.buffer, array.size, got));
        assert_int_equal(got[0], old);
        assert_int_equal(got[WORDS - 1], old);

        ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
        ASSERT_OK(context, moecl_launch_fill(&chain, array.buffer, &old, sizeof(old), array.size));
        ASSERT_OK(context, moecl_chain_end(&chain, MOECL_OK, NULL));
        ASSERT_OK(context, moecl_buffer_map(context, array.buffer, array.size, &mapped));
        for (size_t i = 0; i < WORDS; i++)
            memcpy((char *)mapped + i * sizeof(new), &new, sizeof(new));
        ASSERT_OK(context, moecl_buffer_unmap(context, array.buffer, mapped));
        ASSERT_OK(context, moecl_buffer_read(context, array.buffer, array.size, got));
        assert_int_equal(got[0], new);
        assert_int_equal(got[WORDS - 1], new);
    }
    array_release(&array);
    free(got);
    moecl_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sizes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(checks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bytes_move, set_up, tear_down),
        cmocka_unit_test(earlier_commands_come_first),
    };
    return cmocka_run_group_tests_name("buffer", tests, NULL, NULL);
}
