/* SPDX-License-Identifier: Apache-2.0 */
/* Passes whose tokens depend on each other, in chunks and whole; what a layer refuses; its vectors and its id table. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <moecl/stages.h>

#include "check.h"
#include "device.h"
#include "layers.h"
#include "random.h"

/* Tiles of few rows on every device, so that few tokens need several. */
static const moecl_layer_options base = {.experts = 6,
                                         .hidden = 20,
                                         .intermediate = 9,
                                         .top_k = 2,
                                         .variant = "tile",
                                         .parameters = "group_rows=1,item_rows=4"};

/* ------------------------------------------------------------------------------------ tokens that depend on each other
 * -- */

/* What one pass gives: y, ids, weights, logits, one after the other. */
struct outcome {
    void *parts[4];
    size_t bytes[4];
};

static struct outcome run(moecl_context *context, moecl_layer *layer, size_t tokens, uint64_t seed)
{
    const moecl_layer_options *options = moecl_layer_describe(layer);
    const size_t values = tokens * options->hidden, slots = tokens * moecl_layer_slots(options);
    float *x = make(values, sizeof *x);
    random_fill(&seed, 2.0, x, values);
    struct array input = array_of(context, MOECL_F32, x, values);
    struct outcome outcome = {.bytes = {values * 4, slots * 4, slots * 4, tokens * options->experts * 4}};
    struct array arrays[4];
    for (size_t i = 0; i < 4; i++)
        arrays[i] = array_make(context, outcome.bytes[i], NULL);
    moecl_forward forward = {
        .tokens = tokens, .x = input.buffer, .y = arrays[0].buffer, .routing = {arrays[1].buffer, arrays[2].buffer}};
    ASSERT_OK(context, moecl_layer_forward(layer, &forward, 0, NULL, NULL));
    outcome.parts[0] = array_bytes(context, arrays[0]);
    ASSERT_OK(context, moecl_route(layer, &forward, arrays[3].buffer, 0, NULL, NULL));
    for (size_t i = 1; i < 4; i++)
        outcome.parts[i] = array_bytes(context, arrays[i]);
    ASSERT_OK(context, moecl_layer_check(layer));
    for (size_t i = 0; i < 4; i++)
        array_release(&arrays[i]);
    array_release(&input);
    free(x);
    return outcome;
}

static void outcome_free(struct outcome *outcome)
{
    for (size_t i = 0; i < 4; i++)
        free(outcome->parts[i]);
}

/* With the smallest budget, in eighths of what all tokens need, that the routing of all and a chunk of some fit. */
static moecl_layer *create_chunked(moecl_context *context, const struct host_layer *host, size_t tokens)
{
    moecl_layer_options options = host->options;
    moecl_layer *layer = NULL;
    size_t whole, bounded = 0;
    ASSERT_OK(context, moecl_layer_create(context, &options, &layer));
    ASSERT_OK(context, moecl_layer_workspace_size(layer, tokens, &whole));
    for (size_t eighths = 1; eighths < 8 && bounded == 0; eighths++) {
        moecl_layer_destroy(layer);
        options.workspace_budget = whole * eighths / 8;
        ASSERT_OK(context, moecl_layer_create(context, &options, &layer));
        if (moecl_layer_workspace_size(layer, tokens, &bounded) != MOECL_OK)
            bounded = 0;
    }
    assert_true(bounded > 0 && bounded <= options.workspace_budget && bounded < whole);
    ASSERT_OK(context, moecl_layer_set_weights(layer, &host->weights));
    return layer;
}

static void chunks_of_a_pass_agree(void **state)
{
    static const moecl_router routers[] = {
        {.capacity = {.kind = MOECL_CAPACITY_FACTOR, .value = 1}},
        {.capacity = {.kind = MOECL_CAPACITY_FIXED, .value = 3, .order = MOECL_CAPACITY_ORDER_PROBABILITY}},
        {.normalisation = MOECL_NORMALISATION_SUM,
         .capacity = {MOECL_CAPACITY_FRACTION, 0.25f, MOECL_CAPACITY_ORDER_CHOICE, true}},
        {.selection = MOECL_SELECTION_EXPERT_CHOICE},
        {.selection = MOECL_SELECTION_EXPERT_CHOICE, .score = MOECL_SCORE_SIGMOID, .weight = MOECL_WEIGHT_ONE},
        {.selection = MOECL_SELECTION_SINKHORN, .weight = MOECL_WEIGHT_SOFTMAX},
    };
    moecl_context *context = *state;
    const size_t tokens = 61;
    for (size_t i = 0; i < sizeof routers / sizeof routers[0]; i++) {
        moecl_layer_options options = base;
        options.router = routers[i];
        options.shared_intermediate = i % 2 == 0 ? 7 : 0;
        options.shared_gate = i % 4 == 0 ? MOECL_SHARED_GATE_SIGMOID : MOECL_SHARED_GATE_NONE;
        struct host_layer host = host_layer_make(&options, MOECL_F32, i + 1);
        moecl_layer *whole = host_layer_upload(context, &host), *chunked = create_chunked(context, &host, tokens);
        struct outcome expected = run(context, whole, tokens, i), got = run(context, chunked, tokens, i);
        print_message("           router %zu\n", i);
        for (size_t part = 0; part < 4; part++)
            assert_memory_equal(got.parts[part], expected.parts[part], expected.bytes[part]);
        outcome_free(&expected);
        outcome_free(&got);
        moecl_layer_destroy(whole);
        moecl_layer_destroy(chunked);
        host_layer_free(&host);
    }
}

/* A layer that has been through a long pass takes short ones without growing, whatever order they come in. */
static void passes_of_any_length(void **state)
{
    moecl_context *context = *state;
    static const size_t lengths[] = {5, 61, 1, 40, 61, 0, 7};
    moecl_layer_options options = base;
    options.router.selection = MOECL_SELECTION_EXPERT_CHOICE;
    struct host_layer host = host_layer_make(&options, MOECL_F32, 3);
    moecl_layer *layer = create_chunked(context, &host, 61);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        moecl_layer *fresh = host_layer_upload(context, &host);
        struct outcome expected = run(context, fresh, lengths[i], i), got = run(context, layer, lengths[i], i);
        for (size_t part = 0; part < 4; part++)
            assert_memory_equal(got.parts[part], expected.parts[part], expected.bytes[part]);
        outcome_free(&expected);
        outcome_free(&got);
        moecl_layer_destroy(fresh);
    }
    moecl_layer_destroy(layer);
    host_layer_free(&host);
}

/* Each expert has exactly its share of the tokens. */
static void experts_take_their_share(void **state)
{
    moecl_context *context = *state;
    const size_t tokens = 20;
    moecl_layer_options options = base;
    options.router.selection = MOECL_SELECTION_EXPERT_CHOICE;
    struct host_layer host = host_layer_make(&options, MOECL_F32, 8);
    moecl_layer *layer = host_layer_upload(context, &host);
    struct outcome outcome = run(context, layer, tokens, 4);
    const int32_t *ids = outcome.parts[1];
    for (size_t e = 0; e < options.experts; e++) {
        size_t taken = 0;
        for (size_t t = 0; t < tokens; t++)
            taken += ids[t * options.experts + e] == (int32_t)e;
        assert_int_equal(taken, (tokens * options.top_k + options.experts - 1) / options.experts);
    }
    outcome_free(&outcome);
    moecl_layer_destroy(layer);
    host_layer_free(&host);
}

/* ----------------------------------------------------------------------------------------------- what is refused -- */

static void options_that_do_not_go_together(void **state)
{
    moecl_context *context = *state;
#define CASE(words, ...)                                                                                               \
    {                                                                                                                  \
        words,                                                                                                         \
        {                                                                                                              \
            .experts = 6, .hidden = 8, .intermediate = 4, .top_k = 2, __VA_ARGS__                                      \
        }                                                                                                              \
    }
    static const struct {
        const char *words; /* of the sentence */
        moecl_layer_options options;
    } cases[] = {
        CASE("4 groups of 6", .router = {.groups = 4, .top_groups = 1}),
        CASE("top 0 of 3", .router = {.groups = 3}),
        CASE("top 4 of 3", .router = {.groups = 3, .top_groups = 4}),
        CASE("only 1 in 1", .router = {.groups = 6, .top_groups = 1}),
        CASE("without groups", .router = {.score = MOECL_SCORE_HIERARCHICAL}),
        CASE("score 99", .router = {.score = (moecl_score)99}),
        CASE("selection -1", .router = {.selection = (moecl_selection)-1}),
        CASE("capacity order 3", .router = {.capacity = {.order = (moecl_capacity_order)3}}),
        CASE("activation 6", .function = {.activation = (moecl_activation)6}),
        CASE("softcap", .router = {.softcap = -1}),
        CASE("capacity nan", .router = {.capacity = {.kind = MOECL_CAPACITY_FACTOR, .value = NAN}}),
        CASE("power", .router = {.normalisation = MOECL_NORMALISATION_POWER}),
        CASE("table of 0", .router = {.selection = MOECL_SELECTION_TABLE}),
        CASE("jitter 1", .router = {.input_jitter = 1}),
        CASE("at most 1024", .router = {.zero_experts = 1020}),
        CASE("zero experts", .router = {.zero_experts = 1, .weight_on_input = true}),
        CASE("zero experts", .router = {.zero_experts = 1, .selection = MOECL_SELECTION_EXPERT_CHOICE}),
        CASE("latent", .latent = 4, .expert_input = {.normalised = true}),
        CASE("not there", .shared_gate = MOECL_SHARED_GATE_SIGMOID),
        CASE("sparsemixer", .router = {.score = MOECL_SCORE_SPARSEMIXER, .selection_biased = true}),
    };
#undef CASE
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        moecl_layer *layer = NULL;
        assert_int_equal(moecl_layer_create(context, &cases[i].options, &layer), MOECL_INVALID_ARGUMENT);
        assert_null(layer);
        if (!strstr(moecl_context_error(context), cases[i].words))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, moecl_context_error(context), cases[i].words);
    }
}

/* ------------------------------------------------------------------------------------------- vectors and the table --
 */

static void vectors_are_what_the_options_say(void **state)
{
    moecl_context *context = *state;
    moecl_layer_options options = base;
    options.router.selection_biased = true;
    options.router.zero_experts = 2;
    options.output_biased = true;
    assert_int_equal(moecl_vector_length(&options, MOECL_VECTOR_SELECTION_BIAS), 8);
    assert_int_equal(moecl_vector_length(&options, MOECL_VECTOR_OUTPUT_BIAS), 20);
    assert_int_equal(moecl_vector_length(&options, MOECL_VECTOR_ROUTER_BIAS), 0);
    moecl_layer *layer = NULL;
    ASSERT_OK(context, moecl_layer_create(context, &options, &layer));
    const float values[20] = {1, 2, 3, 4, 5, 6, 7, 8};
    const moecl_matrix right = {values, MOECL_F32, 1, 8, 0, 0}, wrong = {values, MOECL_F32, 1, 7, 0, 0};
    ASSERT_OK(context, moecl_layer_set_vector(layer, MOECL_VECTOR_SELECTION_BIAS, &right));
    assert_int_equal(moecl_layer_set_vector(layer, MOECL_VECTOR_SELECTION_BIAS, &wrong), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_layer_set_vector(layer, MOECL_VECTOR_ROUTER_BIAS, &right), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "router bias"));
    assert_int_equal(moecl_layer_set_vector(layer, MOECL_VECTOR_COUNT, &right), MOECL_INVALID_ARGUMENT);
    float read[8];
    const moecl_buffer vector = moecl_layer_vector(layer, MOECL_VECTOR_SELECTION_BIAS);
    assert_int_equal(clEnqueueReadBuffer(moecl_context_queue(context), vector.memory, CL_TRUE, vector.offset,
                                         sizeof read, read, 0, NULL, NULL),
                     CL_SUCCESS);
    assert_memory_equal(read, values, sizeof read);
    assert_null(moecl_layer_vector(layer, MOECL_VECTOR_ROUTER_BIAS).memory);
    moecl_layer_destroy(layer);
}

static void token_ids_choose_by_the_table(void **state)
{
    moecl_context *context = *state;
    const int32_t table[3 * 2] = {5, 0, 1, 2, 3, 4};
    int32_t token_ids[5] = {2, 0, 0, 1, 2}, bad_table[6] = {0, 1, 2, 3, 4, 6};
    moecl_layer_options options = base;
    options.router.selection = MOECL_SELECTION_TABLE;
    options.router.table_rows = 3;
    struct host_layer host = host_layer_make(&options, MOECL_F32, 2);
    moecl_layer *layer = NULL;
    ASSERT_OK(context, moecl_layer_create(context, &options, &layer));
    host.weights.table = table;
    ASSERT_OK(context, moecl_layer_set_weights(layer, &host.weights));
    assert_int_equal(moecl_layer_set_table(layer, bad_table), MOECL_INVALID_ARGUMENT);

    const float x[5 * 20] = {1, 2, 3};
    struct array input = array_of(context, MOECL_F32, x, 5 * 20), y = array_make(context, sizeof x, NULL);
    struct array ids = array_make(context, 10 * 4, NULL), weights = array_make(context, 10 * 4, NULL);
    struct array tokens = array_make(context, sizeof token_ids, token_ids);
    moecl_forward forward = {.tokens = 5, .x = input.buffer, .y = y.buffer, .routing = {ids.buffer, weights.buffer}};
    assert_int_equal(moecl_layer_forward(layer, &forward, 0, NULL, NULL), MOECL_INVALID_ARGUMENT);
    forward.token_ids = tokens.buffer;
    ASSERT_OK(context, moecl_layer_forward(layer, &forward, 0, NULL, NULL));
    ASSERT_OK(context, moecl_layer_check(layer));
    int32_t got[10];
    array_read(context, ids, got);
    for (size_t t = 0; t < 5; t++)
        assert_memory_equal(&got[2 * t], &table[2 * token_ids[t]], 2 * sizeof *got);

    array_release(&tokens);
    token_ids[1] = 3;
    tokens = array_make(context, sizeof token_ids, token_ids);
    forward.token_ids = tokens.buffer;
    ASSERT_OK(context, moecl_layer_forward(layer, &forward, 0, NULL, NULL));
    assert_int_equal(moecl_layer_check(layer), MOECL_INVALID_ARGUMENT);
    array_read(context, ids, got);
    assert_int_equal(got[2], -1);
    struct array *arrays[] = {&input, &y, &ids, &weights, &tokens};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        array_release(arrays[i]);
    moecl_layer_destroy(layer);
    host_layer_free(&host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_of_a_pass_agree),           cmocka_unit_test(passes_of_any_length),
        cmocka_unit_test(experts_take_their_share),         cmocka_unit_test(options_that_do_not_go_together),
        cmocka_unit_test(vectors_are_what_the_options_say), cmocka_unit_test(token_ids_choose_by_the_table),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
