/* SPDX-License-Identifier: Apache-2.0 */
/* test_choice.c - listing devices and choosing one, on machines that are made up: this program has its own
 * clGetPlatformIDs() and so on, which the library then calls. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "device/platform.h"

/* ------------------------------------------------------------------------------------------ a made-up machine -- */

struct fake_device {
    const char *name;
    cl_device_type type;
    int platform;
};

struct fake_platform {
    const char *name;
    cl_int code; /* what clGetDeviceIDs() gives */
    size_t count;
    struct fake_device devices[3];
};

static struct machine {
    cl_int code; /* what clGetPlatformIDs() gives */
    size_t count;
    struct fake_platform platforms[5];
} machine;

/* Platform 1 is as Clover's: no device, the count untouched. Platform 3 is broken. */
static const struct machine full_machine = {
    .count = 5,
    .platforms =
        {
            {"Portable Computing Language", CL_SUCCESS, 1, {{"cpu-haswell", CL_DEVICE_TYPE_CPU, 0}}},
            {"Clover", CL_DEVICE_NOT_FOUND, 0, {{NULL, 0, 0}}},
            {"AMD Accelerated",
             CL_SUCCESS,
             3,
             {{"gfx1100", CL_DEVICE_TYPE_GPU, 2},
              {"gfx1100", CL_DEVICE_TYPE_GPU, 2},
              {"  card\t", CL_DEVICE_TYPE_ACCELERATOR, 2}}},
            {"Broken", CL_OUT_OF_HOST_MEMORY, 2, {{"a", CL_DEVICE_TYPE_GPU, 3}, {"b", CL_DEVICE_TYPE_GPU, 3}}},
            {"Vendor", CL_SUCCESS, 2, {{"GPU X", CL_DEVICE_TYPE_GPU, 4}, {"DSP", CL_DEVICE_TYPE_ACCELERATOR, 4}}},
        },
};

cl_int clGetPlatformIDs(cl_uint capacity, cl_platform_id *platforms, cl_uint *count)
{
    if (machine.code != CL_SUCCESS)
        return machine.code;
    for (cl_uint i = 0; i < capacity && i < machine.count; i++)
        platforms[i] = (cl_platform_id)&machine.platforms[i];
    if (count != NULL)
        *count = (cl_uint)machine.count;
    return CL_SUCCESS;
}

cl_int clGetDeviceIDs(cl_platform_id id, cl_device_type type, cl_uint capacity, cl_device_id *devices, cl_uint *count)
{
    struct fake_platform *platform = (struct fake_platform *)id;
    assert_true(type == CL_DEVICE_TYPE_ALL);
    if (platform->code != CL_SUCCESS)
        return platform->code;
    for (cl_uint i = 0; i < capacity && i < platform->count; i++)
        devices[i] = (cl_device_id)&platform->devices[i];
    if (count != NULL)
        *count = (cl_uint)platform->count;
    return CL_SUCCESS;
}

static cl_int answer(const void *value, size_t size, size_t capacity, void *to, size_t *needed)
{
    if (to != NULL && capacity < size)
        return CL_INVALID_VALUE;
    if (to != NULL)
        memcpy(to, value, size);
    if (needed != NULL)
        *needed = size;
    return CL_SUCCESS;
}

cl_int clGetPlatformInfo(cl_platform_id id, cl_platform_info name, size_t capacity, void *to, size_t *needed)
{
    const char *text = name == CL_PLATFORM_NAME ? ((struct fake_platform *)id)->name : "OpenCL 1.2";
    return answer(text, strlen(text) + 1, capacity, to, needed);
}

cl_int clGetDeviceInfo(cl_device_id id, cl_device_info name, size_t capacity, void *to, size_t *needed)
{
    const struct fake_device *device = (struct fake_device *)id;
    cl_platform_id platform = (cl_platform_id)&machine.platforms[device->platform];
    const cl_ulong number = 0;
    switch (name) {
    case CL_DEVICE_NAME:
        return answer(device->name, strlen(device->name) + 1, capacity, to, needed);
    case CL_DEVICE_TYPE:
        return answer(&device->type, sizeof(device->type), capacity, to, needed);
    case CL_DEVICE_PLATFORM:
        return answer(&platform, sizeof(platform), capacity, to, needed);
    case CL_DEVICE_VENDOR:
    case CL_DEVICE_VERSION:
    case CL_DRIVER_VERSION:
    case CL_DEVICE_OPENCL_C_VERSION:
        return answer("some", sizeof("some"), capacity, to, needed);
    default:
        return answer(&number, capacity, capacity, to, needed);
    }
}

/* ---------------------------------------------------------------------------------------------------- choosing -- */

static int set_up(void **state)
{
    (void)state;
    machine = full_machine;
    unsetenv("MOECL_DEVICE");
    return 0;
}

/* "P:D" of the device chosen, or the name of the status. */
static const char *choice(const char *specification)
{
    static char text[64];
    struct moecl_device device;
    struct moecl_error error;
    moecl_status status = moecl_platform_choose(&error, specification, &device);
    if (status == MOECL_OK)
        snprintf(text, sizeof(text), "%u:%u", device.info.platform_index, device.info.device_index);
    else
        snprintf(text, sizeof(text), "%s", moecl_status_name(status));
    return text;
}

static void by_words(void **state)
{
    (void)state;
    static const struct {
        const char *specification, *expected;
    } rows[] = {
        {"0:0", "0:0"},
        {"2:1", "2:1"},
        {"4:1", "4:1"},
        {"02:01", "2:1"},
        {"portable", "0:0"},
        {"HASWELL", "0:0"},
        {"language / CPU", "0:0"},
        {"gpu x", "4:0"},
        {"vendor / dsp", "4:1"},
        {"accelerated / card", "2:2"}, /* the blanks around the name are gone */
        {"gfx1100", "MOECL_AMBIGUOUS_DEVICE"},
        {"vendor", "MOECL_AMBIGUOUS_DEVICE"},
        {" / ", "MOECL_AMBIGUOUS_DEVICE"},
        {"1:0", "MOECL_NO_DEVICE"},
        {"2:3", "MOECL_NO_DEVICE"},
        {"9:0", "MOECL_NO_DEVICE"},
        {"4294967296:0", "MOECL_NO_DEVICE"},
        {"0:", "MOECL_NO_DEVICE"},
        {":0", "MOECL_NO_DEVICE"},
        {"0:0 ", "MOECL_NO_DEVICE"},
        {"-1:0", "MOECL_NO_DEVICE"},
        {"clover", "MOECL_NO_DEVICE"},
        {"broken", "MOECL_NO_DEVICE"},
        {"voodoo", "MOECL_NO_DEVICE"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_string_equal(choice(rows[i].specification), rows[i].expected);
}

static void best_by_default(void **state)
{
    (void)state;
    assert_string_equal(choice(NULL), "2:0");
    assert_string_equal(choice(""), "2:0");
    machine.platforms[2].devices[0].type = CL_DEVICE_TYPE_CPU;
    assert_string_equal(choice(NULL), "2:1");
    machine.platforms[2].devices[1].type = CL_DEVICE_TYPE_CPU;
    assert_string_equal(choice(NULL), "4:0"); /* a GPU comes before the accelerator of an earlier platform */
    machine.platforms[4].count = 0;
    assert_string_equal(choice(NULL), "2:2");
    machine.platforms[2].count = 0;
    assert_string_equal(choice(NULL), "0:0");
    machine.platforms[0].devices[0].type = CL_DEVICE_TYPE_CUSTOM;
    assert_string_equal(choice(NULL), "0:0");
}

static void environment_before_the_default(void **state)
{
    (void)state;
    setenv("MOECL_DEVICE", "dsp", 1);
    assert_string_equal(choice(NULL), "4:1");
    assert_string_equal(choice(""), "4:1");
    assert_string_equal(choice("haswell"), "0:0");
    setenv("MOECL_DEVICE", "", 1);
    assert_string_equal(choice(NULL), "2:0");
}

/* The sentence of a failed choice. */
static const char *sentence(const char *specification)
{
    static struct moecl_error error;
    struct moecl_device device;
    assert_int_not_equal(moecl_platform_choose(&error, specification, &device), MOECL_OK);
    return error.sentence;
}

static void sentences_list_the_devices(void **state)
{
    (void)state;
    const char *text = sentence("gfx1100");
    assert_non_null(strstr(text, "\"gfx1100\""));
    assert_non_null(strstr(text, "2:0 AMD Accelerated / gfx1100"));
    assert_non_null(strstr(text, "2:1 AMD Accelerated / gfx1100"));
    assert_null(strstr(text, "haswell"));

    text = sentence("voodoo");
    assert_non_null(strstr(text, "\"voodoo\""));
    assert_non_null(strstr(text, "0:0 Portable Computing Language / cpu-haswell"));
    assert_non_null(strstr(text, "4:1 Vendor / DSP"));
    assert_null(strstr(text, "MOECL_DEVICE"));

    setenv("MOECL_DEVICE", "voodoo", 1);
    assert_non_null(strstr(sentence(NULL), "MOECL_DEVICE"));
}

static void nothing_there(void **state)
{
    (void)state;
    machine.code = -1001;
    assert_string_equal(choice(NULL), "MOECL_NO_PLATFORM");
    assert_string_equal(choice("0:0"), "MOECL_NO_PLATFORM");
    machine = full_machine;
    machine.count = 0;
    assert_string_equal(choice(NULL), "MOECL_NO_PLATFORM");
    machine = full_machine;
    machine.code = CL_OUT_OF_HOST_MEMORY;
    assert_string_equal(choice(NULL), "MOECL_OUT_OF_HOST_MEMORY");
    machine = full_machine;
    machine.platforms[0].count = machine.platforms[2].count = machine.platforms[4].count = 0;
    assert_string_equal(choice(NULL), "MOECL_NO_DEVICE");
    assert_string_equal(choice("0:0"), "MOECL_NO_DEVICE");
}

/* ----------------------------------------------------------------------------------------------------- listing -- */

static void list_has_all_devices(void **state)
{
    (void)state;
    static const char *const expected[] = {"0:0 cpu-haswell", "2:0 gfx1100", "2:1 gfx1100",
                                           "2:2 card",        "4:0 GPU X",   "4:1 DSP"};
    moecl_context *context;
    moecl_device_info devices[8];
    size_t count = 0;
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    ASSERT_OK(context, moecl_device_list(context, devices, 8, &count));
    assert_int_equal(count, 6);
    for (size_t i = 0; i < count; i++) {
        char text[300];
        snprintf(text, sizeof(text), "%u:%u %s", devices[i].platform_index, devices[i].device_index, devices[i].name);
        assert_string_equal(text, expected[i]);
        assert_false(devices[i].probed);
    }

    strcpy(devices[2].name, "untouched");
    ASSERT_OK(context, moecl_device_list(context, devices, 2, &count));
    assert_int_equal(count, 6);
    assert_string_equal(devices[2].name, "untouched");
    ASSERT_OK(context, moecl_device_list(context, NULL, 0, &count));
    assert_int_equal(count, 6);

    count = 99;
    assert_int_equal(moecl_device_list(context, NULL, 1, &count), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_device_list(context, devices, 8, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_device_list(NULL, devices, 8, &count), MOECL_INVALID_ARGUMENT);
    machine.code = -1001;
    assert_int_equal(moecl_device_list(context, devices, 8, &count), MOECL_NO_PLATFORM);
    assert_int_equal(count, 99);
    assert_string_not_equal(moecl_context_error(context), "");
    moecl_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(by_words, set_up),
        cmocka_unit_test_setup(best_by_default, set_up),
        cmocka_unit_test_setup(environment_before_the_default, set_up),
        cmocka_unit_test_setup(sentences_list_the_devices, set_up),
        cmocka_unit_test_setup(nothing_there, set_up),
        cmocka_unit_test_setup(list_has_all_devices, set_up),
    };
    return cmocka_run_group_tests_name("choice", tests, NULL, NULL);
}
