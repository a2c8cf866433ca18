/* SPDX-License-Identifier: Apache-2.0 */
/* test_fault.c - the n-th OpenCL call or allocation fails, n = 1, 2, 3, ... until nothing does: every failure comes
 * back as a status with a sentence, and nothing is left behind. */
#include <string.h>

#include <moecl/stages.h>

#include "device.h"
#include "device/buffer.h"
#include "interception.h"

/* Does `work` with a fresh context, once for each call in it that can fail, or for every `step`-th. */
static void each_failure(moecl_status (*work)(moecl_context *context), size_t step)
{
    size_t n = 1;
    do {
        moecl_context *context = NULL;
        interception_start(n);
        moecl_status status = moecl_context_create(&context);
        if (status == MOECL_OK)
            status = work(context);
        interception_stop();
        const char *failed = interception.failed;
        if (failed == NULL)
            assert_int_equal(status, MOECL_OK);
        else if (status != MOECL_OK)
            assert_string_not_equal(moecl_context_error(context), "");
        moecl_context_destroy(context);
        if (interception.objects != 0 || interception.memory != 0)
            fail_msg("call %zu, %s, failed: %ld OpenCL objects and %ld allocations are left", n,
                     failed == NULL ? "none" : failed, interception.objects, interception.memory);
        n += step;
    } while (interception.failed != NULL);
    print_message("%zu calls\n", interception.calls);
    assert_true(interception.calls > 1);
}

static moecl_status open_uncached(moecl_context *context)
{
    moecl_status status = moecl_context_set_cache(context, "off");
    if (status == MOECL_OK)
        status = moecl_context_open(context, NULL);
    return status;
}

static void test_open(void **state)
{
    (void)state;
    each_failure(open_uncached, 1);
}

static moecl_status probe_device(moecl_context *context)
{
    moecl_device_info info;
    moecl_status status = open_uncached(context);
    if (status == MOECL_OK)
        status = moecl_device_describe(context, true, &info);
    return status;
}

static void test_probe(void **state)
{
    (void)state;
    each_failure(probe_device, 1);
}

static moecl_status list_devices(moecl_context *context)
{
    moecl_device_info info[4];
    size_t count;
    return moecl_device_list(context, info, 4, &count);
}

static void test_list(void **state)
{
    (void)state;
    each_failure(list_devices, 1);
}

/* A layer from nothing to its results, by every variant; each stage in it makes calls that fail in their turn. */
static moecl_status run_layer(moecl_context *context, const moecl_layer_options *options)
{
    enum { TOKENS = 3 };
    float weights[8 * 8] = {0.5f, -0.25f, 1.0f};
    const moecl_matrix matrix = {weights, MOECL_F32, options->hidden, options->hidden, 0, 0};
    const moecl_matrix router = {weights, MOECL_F32, options->experts, options->hidden, 0, 0};
    const moecl_matrix shared_gate = {weights, MOECL_F32, 1, options->hidden, 0, 0};
    const moecl_matrix bias = {weights, MOECL_F32, 1, options->hidden, 0, 0};
    const moecl_expert_weights expert = {matrix, matrix, matrix, bias, bias, bias};
    const moecl_expert_weights shared = {.gate = matrix, .up = matrix, .down = matrix};
    const float x[TOKENS * 8] = {1.0f, 2.0f};
    moecl_layer *layer = NULL;
    cl_mem memory = NULL;
    moecl_status status = moecl_layer_create(context, options, &layer);
    if (status == MOECL_OK)
        status = moecl_layer_set_router(layer, &router);
    for (size_t e = 0; status == MOECL_OK && e < options->experts; e++)
        status = moecl_layer_set_expert(layer, e, &expert);
    if (status == MOECL_OK)
        status = moecl_layer_set_shared_expert(layer, &shared, &shared_gate);
    if (status == MOECL_OK)
        status = moecl_buffer_create(context, CL_MEM_READ_WRITE, 512 + sizeof(x), "x and y", &memory);
    if (status == MOECL_OK)
        status = moecl_buffer_write(context, (moecl_buffer){memory, 0}, sizeof(x), x);
    const moecl_forward forward = {.tokens = TOKENS, .x = {memory, 0}, .y = {memory, 512}};
    if (status == MOECL_OK)
        status = moecl_layer_forward(layer, &forward, 0, NULL, NULL);
    if (status == MOECL_OK)
        status = moecl_layer_check(layer);
    moecl_layer_destroy(layer);
    moecl_buffer_release(memory);
    return status;
}

/* With the cache: a program from it goes another way, and is quicker than the compiler. Of the variants the smallest,
 * where CLBlast's programs, and those of `vector` with a body for every height, would take most of an hour. */
static moecl_status run_variants(moecl_context *context)
{
    moecl_status status = moecl_context_open(context, NULL);
    for (size_t i = 0; status == MOECL_OK && moecl_variant_name(i); i++) {
        if (slow_builds() && strcmp(moecl_variant_name(i), "tile") != 0)
            continue;
        const moecl_layer_options options = {.experts = 2,
                                             .hidden = 8,
                                             .intermediate = 8,
                                             .top_k = 2,
                                             .function = {.activation = MOECL_ACTIVATION_RELU, .biased = true},
                                             .shared_intermediate = 8,
                                             .shared_gate = MOECL_SHARED_GATE_SIGMOID,
                                             .weights = i == 0 ? MOECL_F32 : MOECL_BF16,
                                             .variant = moecl_variant_name(i)};
        status = run_layer(context, &options);
    }
    return status;
}

static void test_layer(void **state)
{
    (void)state;
    each_failure(run_variants, small_sizes() ? 50 : 1);
}

/* The stages that look across the tokens, the statistics, and the balancing of a layer, all on one buffer. */
static moecl_status run_across(moecl_context *context)
{
    enum { TOKENS = 3, EXPERTS = 4, WORKSPACE = 2048 };
    /* The ids, then scores of 0. */
    const int32_t content[WORKSPACE / 4] = {0, -1, 2, 3};
    const float bias[EXPERTS] = {0};
    const moecl_matrix selection_bias = {bias, MOECL_F32, 1, EXPERTS, 0, 0};
    cl_mem memory = NULL;
    moecl_layer *layer = NULL;
    uint32_t load[EXPERTS];
    moecl_load_statistics figures;
    const moecl_layer_options options = {.experts = EXPERTS,
                                         .hidden = 8,
                                         .intermediate = 1,
                                         .top_k = 2,
                                         .router.selection_biased = true,
                                         .variant = "tile"};
    moecl_status status = moecl_context_open(context, NULL);
    if (status == MOECL_OK)
        status = moecl_buffer_create(context, CL_MEM_READ_WRITE, WORKSPACE + 8192, "all", &memory);
    if (status == MOECL_OK)
        status = moecl_buffer_write(context, (moecl_buffer){memory, 0}, sizeof(content), content);
    const moecl_buffer input = {memory, 0}, workspace = {memory, WORKSPACE};
    const moecl_expert_choice_call choice = {.tokens = TOKENS,
                                             .experts = EXPERTS,
                                             .capacity = 2,
                                             .scores = {memory, 256},
                                             .stride = EXPERTS,
                                             .routing = {{memory, 512}, {memory, 768}},
                                             .workspace = workspace};
    const moecl_sinkhorn_call sinkhorn = {.tokens = TOKENS,
                                          .experts = EXPERTS,
                                          .iterations = 1,
                                          .logits = {memory, 256},
                                          .stride = EXPERTS,
                                          .keys = {memory, 512},
                                          .workspace = workspace};
    if (status == MOECL_OK)
        status = moecl_expert_choice(context, &choice, 0, NULL, NULL);
    if (status == MOECL_OK)
        status = moecl_sinkhorn(context, &sinkhorn, 0, NULL, NULL);
    if (status == MOECL_OK)
        status = moecl_statistics_read(context, TOKENS, EXPERTS, EXPERTS, input, load, &figures);
    if (status == MOECL_OK)
        status = moecl_layer_create(context, &options, &layer);
    if (status == MOECL_OK)
        status = moecl_layer_set_vector(layer, MOECL_VECTOR_SELECTION_BIAS, &selection_bias);
    if (status == MOECL_OK)
        status = moecl_layer_update_selection_bias(layer, TOKENS, input, 0.5f, 0, NULL, NULL);
    if (status == MOECL_OK)
        status = moecl_layer_check(layer);
    moecl_layer_destroy(layer);
    moecl_buffer_release(memory);
    return status;
}

static void test_across(void **state)
{
    (void)state;
    each_failure(run_across, small_sizes() ? 20 : 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),  cmocka_unit_test(test_open),   cmocka_unit_test(test_probe),
        cmocka_unit_test(test_layer), cmocka_unit_test(test_across),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
