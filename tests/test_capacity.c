/* SPDX-License-Identifier: Apache-2.0 */
/* test_capacity.c - experts of limited room: how much it is, and who has it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "random.h"
#include "router_model.h"
#include "stages/capacity.h"

/* ------------------------------------------------------------------------------------------------- the room -- */

static size_t rows_of(moecl_capacity_kind kind, float value, size_t tokens, size_t top_k, size_t experts)
{
    const moecl_capacity capacity = {.kind = kind, .value = value};
    return moecl_capacity_rows(&capacity, tokens, top_k, experts);
}

static void room_by_its_formula(void **state)
{
    (void)state;
    assert_int_equal(rows_of(MOECL_CAPACITY_NONE, 0, 7, 3, 2), 21);
    assert_int_equal(rows_of(MOECL_CAPACITY_FIXED, 0, 100, 2, 8), 0);
    assert_int_equal(rows_of(MOECL_CAPACITY_FIXED, 1, 100, 2, 8), 1);
    assert_int_equal(rows_of(MOECL_CAPACITY_FIXED, 3.9f, 100, 2, 8), 3);
    assert_int_equal(rows_of(MOECL_CAPACITY_FIXED, 1e30f, 100, 2, 8), 200);
    assert_int_equal(rows_of(MOECL_CAPACITY_FIXED, -1, 100, 2, 8), 0);
    assert_int_equal(rows_of(MOECL_CAPACITY_FIXED, NAN, 100, 2, 8), 0);
    assert_int_equal(rows_of(MOECL_CAPACITY_FACTOR, 1, 100, 2, 8), 25);
    assert_int_equal(rows_of(MOECL_CAPACITY_FACTOR, 1, 101, 2, 8), 26);
    assert_int_equal(rows_of(MOECL_CAPACITY_FACTOR, 1.25f, 100, 2, 8), 32);
    assert_int_equal(rows_of(MOECL_CAPACITY_FRACTION, 0.5f, 9, 2, 8), 5);
    assert_int_equal(rows_of(MOECL_CAPACITY_FRACTION, 1, 0, 2, 8), 0);
    /* 1.2f is a little more than 1.2, and 0.4f than 0.4; as numbers they were written as 1.2 and 0.4. */
    assert_int_equal(rows_of(MOECL_CAPACITY_FACTOR, 1.2f, 10, 1, 1), 10);
    assert_int_equal(rows_of(MOECL_CAPACITY_FACTOR, 1.2f, 40, 2, 8), 12);
    assert_int_equal(rows_of(MOECL_CAPACITY_FRACTION, 0.4f, 10, 2, 8), 4);
    /* In double precision 100 * 0.07 is 7.000000000000001. */
    assert_int_equal(rows_of(MOECL_CAPACITY_FRACTION, 0.07f, 100, 2, 8), 8);
}

/* Against the formula with the factor as it was written, in hundredths. */
static void room_of_written_factors(void **state)
{
    (void)state;
    for (int hundredths = 1; hundredths <= 400; hundredths++)
        for (size_t tokens = 1; tokens <= 60; tokens++) {
            const double value = hundredths / 100.0;
            assert_int_equal(rows_of(MOECL_CAPACITY_FACTOR, (float)value, tokens, 2, 8),
                             model_capacity(MOECL_CAPACITY_FACTOR, value, tokens, 2, 8));
            assert_int_equal(rows_of(MOECL_CAPACITY_FRACTION, (float)value, tokens, 2, 8),
                             model_capacity(MOECL_CAPACITY_FRACTION, value, tokens, 2, 8));
        }
}

/* ------------------------------------------------------------------------------------------------- the stage -- */

struct routing {
    size_t tokens, slots, experts;
    int32_t *ids;
    float *weights;
};

/* Runs the stage in place. */
static void drop(moecl_context *context, struct routing *routing, moecl_capacity_order order, size_t rows)
{
    const size_t count = routing->tokens * routing->slots;
    const size_t bytes = moecl_capacity_workspace_size(routing->tokens, routing->slots, routing->experts);
    struct moecl_capacity_kernels kernels;
    struct moecl_chain chain;
    struct array ids = array_make(context, count * sizeof(int32_t), routing->ids);
    struct array weights = array_make(context, count * sizeof(float), routing->weights);
    struct array workspace = array_make(context, bytes, NULL);
    const struct moecl_capacity_call call = {
        .tokens = routing->tokens,
        .slots = routing->slots,
        .experts = routing->experts,
        .rows = rows,
        .order = order,
        .routing = {ids.buffer, weights.buffer},
        .workspace = workspace.buffer,
    };
    ASSERT_OK(context, moecl_capacity_kernels_create(context, &kernels));
    ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
    ASSERT_OK(context, moecl_chain_end(&chain, moecl_capacity_enqueue(&kernels, &chain, &call), NULL));
    array_read(context, ids, routing->ids);
    array_read(context, weights, routing->weights);
    free(array_bytes(context, workspace));
    moecl_capacity_kernels_release(&kernels);
    array_release(&ids);
    array_release(&weights);
    array_release(&workspace);
}

static struct routing copy(const struct routing *routing)
{
    const size_t count = routing->tokens * routing->slots;
    struct routing copied = *routing;
    copied.ids = make(count, sizeof(int32_t));
    copied.weights = make(count, sizeof(float));
    if (count > 0) {
        memcpy(copied.ids, routing->ids, count * sizeof(int32_t));
        memcpy(copied.weights, routing->weights, count * sizeof(float));
    }
    return copied;
}

static void release(struct routing *routing)
{
    free(routing->ids);
    free(routing->weights);
}

static void check_drop(moecl_context *context, const struct routing *routing, moecl_capacity_order order, size_t rows)
{
    const size_t count = routing->tokens * routing->slots;
    struct routing got = copy(routing), expected = copy(routing);
    drop(context, &got, order, rows);
    model_drop(order, rows, routing->tokens, routing->slots, routing->experts, expected.ids, expected.weights);
    for (size_t a = 0; a < count; a++) {
        assert_int_equal(got.ids[a], expected.ids[a]);
        assert_true(got.weights[a] == expected.weights[a]);
    }
    release(&got);
    release(&expected);
}

/* Ids of 0 to E + 1, so that there are zero experts, and some of -1; weights of few values, so that there are ties. */
static struct routing random_routing(uint64_t *seed, size_t tokens, size_t slots, size_t experts)
{
    const size_t count = tokens * slots;
    struct routing routing = {tokens, slots, experts, make(count, sizeof(int32_t)), make(count, sizeof(float))};
    const size_t busiest = random_between(seed, 0, experts + 1), values = random_between(seed, 0, 1) ? 5 : 100000;
    for (size_t a = 0; a < count; a++) {
        routing.ids[a] = (int32_t)random_between(seed, 0, busiest);
        routing.weights[a] = ((float)random_between(seed, 0, values) - 1) / (float)values;
        if (random_between(seed, 0, 9) == 0) {
            routing.ids[a] = -1;
            routing.weights[a] = 0;
        }
    }
    return routing;
}

static void queues_in_every_order(void **state)
{
    const size_t cases = number_from_environment("MOECL_CASES", small_sizes() ? 12 : 150);
    for (uint64_t seed = 1; seed <= cases; seed++) {
        uint64_t numbers = seed;
        const size_t experts = random_between(&numbers, 1, 40), slots = random_between(&numbers, 1, 8);
        const size_t tokens = random_between(&numbers, 1, small_sizes() ? 12 : 150);
        const moecl_capacity_order order = (moecl_capacity_order)(seed % 3);
        const size_t rows = random_between(&numbers, 0, 2 * tokens * slots / experts + 2);
        print_message("           seed %llu: T %zu, k %zu, E %zu, order %d, room %zu\n", (unsigned long long)seed,
                      tokens, slots, experts, (int)order, rows);
        struct routing routing = random_routing(&numbers, tokens, slots, experts);
        check_drop(*state, &routing, order, rows);
        release(&routing);
    }
}

static void edges(void **state)
{
    for (int order = 0; order < 3; order++) {
        uint64_t seed = 77;
        struct routing none = random_routing(&seed, 0, 2, 4), one = random_routing(&seed, 20, 2, 1);
        struct routing many = random_routing(&seed, small_sizes() ? 3 : 40, 32, 1024);
        check_drop(*state, &none, (moecl_capacity_order)order, 3);
        for (size_t a = 0; a < 40; a++)
            one.ids[a] = 0; /* all to one expert */
        for (size_t rows = 0; rows <= 41; rows += rows < 2 ? 1 : 13)
            check_drop(*state, &one, (moecl_capacity_order)order, rows);
        check_drop(*state, &many, (moecl_capacity_order)order, 0);
        check_drop(*state, &many, (moecl_capacity_order)order, 1);
        check_drop(*state, &many, (moecl_capacity_order)order, 2000);
        release(&none);
        release(&one);
        release(&many);
    }
}

/* NaN has room last, both zeros are alike, negative weights come behind. */
static void unusual_weights(void **state)
{
    int32_t ids[] = {0, 0, 0, 0, 0, 0, 0};
    float weights[] = {NAN, -1, 0.0f, -0.0f, INFINITY, -INFINITY, 0.0f};
    const struct {
        size_t rows;
        int32_t ids[7];
    } expected[] = {{1, {-1, -1, -1, -1, 0, -1, -1}}, {2, {-1, -1, 0, -1, 0, -1, -1}}, {3, {-1, -1, 0, 0, 0, -1, -1}},
                    {4, {-1, -1, 0, 0, 0, -1, 0}},    {5, {-1, 0, 0, 0, 0, -1, 0}},    {6, {-1, 0, 0, 0, 0, 0, 0}}};
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        const struct routing routing = {7, 1, 1, ids, weights};
        struct routing got = copy(&routing);
        drop(*state, &got, MOECL_CAPACITY_ORDER_PROBABILITY, expected[i].rows);
        assert_memory_equal(got.ids, expected[i].ids, sizeof(expected[i].ids));
        release(&got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(room_by_its_formula),   cmocka_unit_test(room_of_written_factors),
        cmocka_unit_test(queues_in_every_order), cmocka_unit_test(edges),
        cmocka_unit_test(unusual_weights),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
