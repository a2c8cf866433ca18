/* SPDX-License-Identifier: Apache-2.0 */
/* test_load.c - a layer loaded from files computes what the model computes, wherever the files put its tensors; and a
 * load that fails leaves nothing. */
#include "check.h"

#include <moecl/model.h>

#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "device.h"
#include "interception.h"
#include "scratch.h"

/* The recorded f32 tensor "layer0.`what`" of a golden folder. */
static const float *recorded(const struct tensors *io, const char *what, size_t *rows)
{
    json_int_t count, columns, begin, end;
    assert_int_equal(json_unpack(json_object_get(io->header, what), "{s:[I,I], s:[I,I]}", "shape", &count, &columns,
                                 "data_offsets", &begin, &end),
                     0);
    *rows = (size_t)count;
    return (const float *)(const void *)(io->data + begin);
}

/* y of the layer, for the recorded x. */
static float *forward(moecl_context *context, moecl_layer *layer, const struct tensors *io, size_t *count)
{
    size_t tokens, hidden = moecl_layer_describe(layer)->hidden;
    const float *x = recorded(io, "layer0.x", &tokens);
    struct array input = array_make(context, tokens * hidden * sizeof *x, x);
    struct array output = array_make(context, tokens * hidden * sizeof *x, NULL);
    const moecl_forward pass = {.tokens = tokens, .x = input.buffer, .y = output.buffer};
    ASSERT_OK(context, moecl_layer_forward(layer, &pass, 0, NULL, NULL));
    float *y = array_bytes(context, output);
    array_release(&input);
    array_release(&output);
    *count = tokens * hidden;
    return y;
}

static moecl_layer *load(moecl_context *context, const char *directory)
{
    moecl_model *model;
    moecl_layer_options options;
    moecl_layer *layer;
    ASSERT_OK(context, moecl_model_open(context, directory, NULL, &model));
    ASSERT_OK(context, moecl_model_layer_options(model, 0, &options));
    ASSERT_OK(context, moecl_layer_load(model, 0, &options, &layer));
    moecl_model_close(model); /* the layer needs it no more */
    return layer;
}

static void assert_loads(const char *original)
{
    moecl_context *context = open_context();
    char *split = checkpoint_copy(original);
    struct tensors io = tensors_read(original, "io.safetensors");
    size_t tokens, count;
    checkpoint_split(split, 3); /* and its tensors are unaligned */

    moecl_layer *layers[] = {load(context, original), load(context, split)};
    float *y[] = {forward(context, layers[0], &io, &count), forward(context, layers[1], &io, &count)};
    double *got = to_doubles(y[0], MOECL_F32, count);
    double *expected = to_doubles(recorded(&io, "layer0.y", &tokens), MOECL_F32, count);
    ASSERT_CLOSE(got, expected, count, 1e-4);
    assert_int_equal(memcmp(y[0], y[1], count * sizeof **y), 0);

    for (size_t i = 0; i < 2; i++) {
        moecl_layer_destroy(layers[i]);
        free(y[i]);
    }
    free(got);
    free(expected);
    tensors_free(&io);
    scratch_remove(split);
    moecl_context_destroy(context);
}

static void test_mixtral(void **state)
{
    (void)state;
    assert_loads(MOECL_TEST_DATA "/golden/mixtral-bf16");
}

static void test_shared_expert(void **state)
{
    (void)state;
    assert_loads(MOECL_TEST_DATA "/golden/qwen2_moe");
}

static void test_refuses(void **state)
{
    (void)state;
    moecl_context *context = open_context();
    moecl_model *model;
    moecl_layer_options options, other;
    moecl_layer *layer = NULL;
    ASSERT_OK(context, moecl_model_open(context, MOECL_TEST_DATA "/golden/qwen2_moe", NULL, &model));
    ASSERT_OK(context, moecl_model_layer_options(model, 0, &options));

    assert_int_equal(moecl_layer_load(NULL, 0, &options, &layer), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_layer_load(model, 0, NULL, &layer), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_layer_load(model, 0, &options, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_layer_load(model, 1, &options, &layer), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "no layer 1"));
    assert_null(layer);

    other = options;
    other.experts = 7;
    assert_int_equal(moecl_layer_load(model, 0, &other, &layer), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "has 8 experts"));
    assert_null(layer);
    other = options;
    other.intermediate = 31;
    assert_int_equal(moecl_layer_load(model, 0, &other, &layer), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "[32,64]"));
    other = options;
    other.shared_intermediate = 0;
    other.shared_gate = MOECL_SHARED_GATE_NONE;
    assert_int_equal(moecl_layer_load(model, 0, &other, &layer), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "shared expert"));
    assert_null(layer);
    moecl_model_close(model);

    /* a model without a shared expert, for a layer with one */
    ASSERT_OK(context, moecl_model_open(context, MOECL_TEST_DATA "/golden/olmoe", NULL, &model));
    assert_int_equal(moecl_layer_load(model, 0, &options, &layer), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "shared gate: no data"));
    moecl_model_close(model);
    moecl_context_destroy(context);
}

/* Each allocation and each OpenCL call of a load fails once. */
static void test_each_failure(void **state)
{
    (void)state;
    moecl_context *context = open_context();
    moecl_model *model;
    moecl_layer_options options;
    moecl_layer *layer;
    size_t n = 0;
    ASSERT_OK(context, moecl_model_open(context, MOECL_TEST_DATA "/golden/qwen2_moe", NULL, &model));
    ASSERT_OK(context, moecl_model_layer_options(model, 0, &options));
    ASSERT_OK(context, moecl_layer_load(model, 0, &options, &layer)); /* builds the programs, which stay */
    moecl_layer_destroy(layer);
    do {
        interception_start(++n);
        moecl_status status = moecl_layer_load(model, 0, &options, &layer);
        interception_stop();
        if (interception.failed) {
            assert_int_not_equal(status, MOECL_OK);
            assert_null(layer);
            assert_string_not_equal(moecl_context_error(context), "");
        } else {
            assert_int_equal(status, MOECL_OK);
        }
        moecl_layer_destroy(layer);
        assert_int_equal(interception.objects, 0);
        assert_int_equal(interception.memory, 0);
    } while (interception.failed);
    print_message("%zu calls\n", n - 1);
    moecl_model_close(model);
    moecl_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixtral),
        cmocka_unit_test(test_shared_expert),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_each_failure),
    };
    return cmocka_run_group_tests_name("load", tests, NULL, NULL);
}
