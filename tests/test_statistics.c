/* SPDX-License-Identifier: Apache-2.0 */
/* test_statistics.c - the load of the experts and its figures, against plain host code. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <moecl/stages.h>

#include "device.h"
#include "random.h"

struct expected {
    uint32_t *load;
    uint32_t used, unused, unserved, largest, idle;
    double figures[4]; /* mean, largest / mean, entropy, CV^2 */
};

static struct expected expect(size_t tokens, size_t slots, size_t outputs, const int32_t *ids)
{
    struct expected expected = {.load = make(outputs, sizeof(uint32_t))};
    for (size_t t = 0; t < tokens; t++) {
        uint32_t used = 0;
        for (size_t j = 0; j < slots; j++) {
            const int32_t id = ids[t * slots + j];
            if (id >= 0 && (size_t)id < outputs) {
                expected.load[id]++;
                used++;
            }
        }
        expected.used += used;
        expected.unused += (uint32_t)slots - used;
        expected.unserved += used == 0;
    }
    if (expected.used == 0) {
        expected.idle = (uint32_t)outputs;
        return expected;
    }
    const double mean = (double)expected.used / (double)outputs;
    double entropy = 0, variance = 0;
    for (size_t e = 0; e < outputs; e++) {
        const double load = expected.load[e], share = load / expected.used;
        expected.idle += expected.load[e] == 0;
        if (expected.load[e] > expected.largest)
            expected.largest = expected.load[e];
        if (load > 0)
            entropy -= share * log(share);
        variance += (load - mean) * (load - mean) / (double)outputs;
    }
    const double figures[] = {mean, expected.largest / mean, entropy, variance / (mean * mean)};
    memcpy(expected.figures, figures, sizeof figures);
    return expected;
}

static void check_close(double got, double expected, const char *what)
{
    if (!(fabs(got - expected) <= 1e-4 * fabs(expected) + 1e-5))
        fail_msg("%s is %g, not %g", what, got, expected);
}

static void check_figures(const moecl_load_statistics *figures, const struct expected *expected)
{
    assert_int_equal(figures->used, expected->used);
    assert_int_equal(figures->unused, expected->unused);
    assert_int_equal(figures->unserved, expected->unserved);
    assert_int_equal(figures->largest, expected->largest);
    assert_int_equal(figures->idle, expected->idle);
    check_close((double)figures->mean, expected->figures[0], "mean");
    check_close((double)figures->largest_over_mean, expected->figures[1], "largest / mean");
    check_close((double)figures->entropy, expected->figures[2], "entropy");
    check_close((double)figures->squared_variation, expected->figures[3], "CV^2");
}

/* Both functions, twice: what was in the buffers before does not count. */
static void check_statistics(moecl_context *context, size_t tokens, size_t slots, size_t outputs, const int32_t *ids)
{
    struct expected expected = expect(tokens, slots, outputs, ids);
    struct array device_ids = array_make(context, tokens * slots * sizeof *ids, ids);
    struct array load = array_make(context, outputs * sizeof(uint32_t), NULL);
    struct array figures = array_make(context, sizeof(moecl_load_statistics), NULL);
    const moecl_statistics_call call = {tokens, slots, outputs, device_ids.buffer, load.buffer, figures.buffer};
    for (int pass = 0; pass < 2; pass++) {
        ASSERT_OK(context, moecl_statistics(context, &call, 0, NULL, NULL));
        uint32_t *got_load = array_bytes(context, load);
        moecl_load_statistics *got = array_bytes(context, figures);
        assert_memory_equal(got_load, expected.load, outputs * sizeof *got_load);
        check_figures(got, &expected);
        free(got_load);
        free(got);
    }
    uint32_t *read_load = make(outputs, sizeof *read_load);
    moecl_load_statistics read;
    ASSERT_OK(context, moecl_statistics_read(context, tokens, slots, outputs, device_ids.buffer, read_load, &read));
    assert_memory_equal(read_load, expected.load, outputs * sizeof *read_load);
    check_figures(&read, &expected);
    free(read_load);
    free(expected.load);
    array_release(&device_ids);
    array_release(&load);
    array_release(&figures);
}

static void statistics_count_every_choice(void **state)
{
    for (uint64_t number = 1; number <= 2 * random_cases(); number++) {
        uint64_t seed = number;
        const size_t tokens = random_between(&seed, 0, small_sizes() ? 150 : 3000);
        const size_t slots = random_between(&seed, 1, 8), outputs = random_between(&seed, 1, 300);
        const size_t busiest = random_between(&seed, 1, outputs), unused = random_between(&seed, 0, 3);
        print_message("           seed %llu: T %zu, k %zu, R %zu\n", (unsigned long long)number, tokens, slots,
                      outputs);
        int32_t *ids = make(tokens * slots, sizeof *ids);
        for (size_t i = 0; i < tokens * slots; i++) {
            ids[i] = (int32_t)random_between(&seed, 0, busiest - 1);
            if (unused > 0 && random_between(&seed, 0, 3) < unused)
                ids[i] = random_between(&seed, 0, 9) ? -1 : (int32_t)outputs;
        }
        check_statistics(*state, tokens, slots, outputs, ids);
        free(ids);
    }
}

/* Loads whose figures are known: even, all on one, and none at all. */
static void statistics_at_the_limits(void **state)
{
    enum { TOKENS = 128, OUTPUTS = 1024 };
    int32_t ids[TOKENS * 8];
    uint32_t load[OUTPUTS];
    moecl_load_statistics figures;
    moecl_context *context = *state;
    for (size_t kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < TOKENS * 8; i++)
            ids[i] = kind == 0 ? (int32_t)i : kind == 1 ? 1023 : -1;
        check_statistics(context, TOKENS, 8, OUTPUTS, ids);
        struct array device_ids = array_make(context, sizeof ids, ids);
        ASSERT_OK(context, moecl_statistics_read(context, TOKENS, 8, OUTPUTS, device_ids.buffer, load, &figures));
        check_close((double)figures.entropy, kind == 0 ? log(OUTPUTS) : 0, "entropy");
        check_close((double)figures.largest_over_mean, kind == 0 ? 1 : kind == 1 ? OUTPUTS : 0, "largest / mean");
        check_close((double)figures.squared_variation, kind == 1 ? OUTPUTS - 1 : 0, "CV^2");
        assert_int_equal(figures.unserved, kind == 2 ? TOKENS : 0);
        assert_int_equal(figures.idle, kind == 0 ? 0 : kind == 1 ? OUTPUTS - 1 : OUTPUTS);
        array_release(&device_ids);
    }
}

static void statistics_refuses(void **state)
{
    moecl_context *context = *state;
    struct array memory = array_make(context, 64, NULL);
    const moecl_statistics_call good = {2, 2, 4, memory.buffer, memory.buffer, memory.buffer};
    moecl_statistics_call calls[] = {good, good, good, good, good, good, good};
    calls[0].outputs = 0;
    calls[1].outputs = 1025;
    calls[2].slots = 0;
    calls[3].tokens = (size_t)MOECL_MAX_TOKENS + 1;
    calls[4].tokens = MOECL_MAX_TOKENS;
    calls[4].slots = 2048;
    calls[5].figures = (moecl_buffer){0};
    calls[6].ids.offset += 4096;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
        assert_int_equal(moecl_statistics(context, &calls[i], 0, NULL, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_statistics(context, NULL, 0, NULL, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_statistics_read(context, 2, 2, 4, memory.buffer, NULL, NULL), MOECL_INVALID_ARGUMENT);
    array_release(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statistics_count_every_choice),
        cmocka_unit_test(statistics_at_the_limits),
        cmocka_unit_test(statistics_refuses),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
