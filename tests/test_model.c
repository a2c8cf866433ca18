/* SPDX-License-Identifier: Apache-2.0 */
/* test_model.c - what the public functions find in checkpoint directories, sharded or not. */
#include "check.h"

#include <moecl/model.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "scratch.h"

/* The checkpoints of tests/data, as their own notes and files describe them. '#' is the expert's number. */
static const struct checkpoint {
    const char *directory, *family;
    size_t layers, layer;
    moecl_layer_options options;
    const char *router, *gate, *up, *down;
} checkpoints[] = {
#define MIXTRAL_NAMES                                                                                                  \
    "model.layers.0.block_sparse_moe.gate.weight", "model.layers.0.block_sparse_moe.experts.#.w1.weight",              \
        "model.layers.0.block_sparse_moe.experts.#.w3.weight", "model.layers.0.block_sparse_moe.experts.#.w2.weight"
#define QWEN_NAMES(layer)                                                                                              \
    "model.layers." layer ".mlp.gate.weight", "model.layers." layer ".mlp.experts.#.gate_proj.weight",                 \
        "model.layers." layer ".mlp.experts.#.up_proj.weight", "model.layers." layer ".mlp.experts.#.down_proj.weight"
#define OPTIONS(...)                                                                                                   \
    {                                                                                                                  \
        .hidden = 64, .intermediate = 32, .experts = 8, __VA_ARGS__                                                    \
    }
    {"golden/mixtral", "mixtral", 1, 0, OPTIONS(.top_k = 2, .router.normalisation = MOECL_NORMALISATION_SUM),
     MIXTRAL_NAMES},
    {"golden/mixtral-bf16", "mixtral", 1, 0,
     OPTIONS(.top_k = 2, .router.normalisation = MOECL_NORMALISATION_SUM, .weights = MOECL_BF16), MIXTRAL_NAMES},
    {"golden/qwen2_moe", "qwen2_moe", 1, 0,
     OPTIONS(.top_k = 4, .shared_intermediate = 64, .shared_gate = MOECL_SHARED_GATE_SIGMOID), QWEN_NAMES("0")},
    {"golden/qwen3_moe", "qwen3_moe", 1, 0, OPTIONS(.top_k = 4, .router.normalisation = MOECL_NORMALISATION_SUM),
     QWEN_NAMES("0")},
    {"golden/qwen3_moe-nonorm", "qwen3_moe", 1, 0, OPTIONS(.top_k = 4), QWEN_NAMES("0")},
    {"golden/olmoe", "olmoe", 1, 0, OPTIONS(.top_k = 4), QWEN_NAMES("0")},
    {"tiny-qwen3-moe",
     "qwen3_moe",
     3,
     2,
     {.hidden = 128,
      .intermediate = 64,
      .experts = 32,
      .top_k = 4,
      .router.normalisation = MOECL_NORMALISATION_SUM,
      .weights = MOECL_BF16},
     QWEN_NAMES("2")},
};
enum { CHECKPOINTS = sizeof checkpoints / sizeof checkpoints[0] };

static moecl_context *context;

static int make_context(void **state)
{
    (void)state;
    return moecl_context_create(&context) == MOECL_OK ? 0 : -1;
}

static int destroy_context(void **state)
{
    (void)state;
    moecl_context_destroy(context);
    return 0;
}

static char *data_path(const char *directory)
{
    return scratch_path(MOECL_TEST_DATA, directory);
}

static moecl_model *open_model(const char *directory)
{
    moecl_model *model;
    ASSERT_OK(context, moecl_model_open(context, directory, NULL, &model));
    return model;
}

/* ------------------------------------------------------------------------------------------- the same as the file --
 */

static void assert_matrix(const struct tensors *tensors, const char *pattern, size_t expert, const moecl_matrix *matrix)
{
    char name[200];
    const char *dtype;
    json_int_t rows, columns, begin, end;
    int before = (int)strcspn(pattern, "#");
    if (pattern[before] == '#')
        (void)snprintf(name, sizeof name, "%.*s%zu%s", before, pattern, expert, pattern + before + 1);
    else
        (void)snprintf(name, sizeof name, "%s", pattern);
    assert_int_equal(json_unpack(json_object_get(tensors->header, name), "{s:s, s:[I,I], s:[I,I]}", "dtype", &dtype,
                                 "shape", &rows, &columns, "data_offsets", &begin, &end),
                     0);
    assert_string_equal(dtype, matrix->type == MOECL_F32 ? "F32" : matrix->type == MOECL_F16 ? "F16" : "BF16");
    assert_int_equal(matrix->rows, rows);
    assert_int_equal(matrix->columns, columns);
    assert_int_equal(memcmp(matrix->data, tensors->data + begin, (size_t)(end - begin)), 0);
}

/* All that is known of the checkpoint, now in `directory`, against `tensors`, the original. */
static void assert_checkpoint(const struct checkpoint *checkpoint, const char *directory, const struct tensors *tensors)
{
    moecl_model *model = open_model(directory);
    moecl_layer_options options;
    moecl_layer_weights weights;
    moecl_model_info info;

    moecl_model_describe(model, &info);
    assert_string_equal(info.model_type, checkpoint->family);
    assert_string_equal(info.family, checkpoint->family);
    assert_int_equal(info.layers, checkpoint->layers);
    for (size_t layer = 0; layer < checkpoint->layers + 2; layer++)
        assert_int_equal(moecl_model_is_moe(model, layer), layer < checkpoint->layers);

    ASSERT_OK(context, moecl_model_layer_options(model, checkpoint->layer, &options));
    assert_int_equal(options.experts, checkpoint->options.experts);
    assert_int_equal(options.hidden, checkpoint->options.hidden);
    assert_int_equal(options.intermediate, checkpoint->options.intermediate);
    assert_int_equal(options.top_k, checkpoint->options.top_k);
    assert_int_equal(options.router.normalisation, checkpoint->options.router.normalisation);
    assert_int_equal(options.shared_intermediate, checkpoint->options.shared_intermediate);
    assert_int_equal(options.shared_gate, checkpoint->options.shared_gate);
    assert_int_equal(options.weights, checkpoint->options.weights);
    assert_int_equal(options.activations, MOECL_F32);
    assert_null(options.variant);
    assert_null(options.parameters);
    assert_int_equal(options.workspace_budget, 0);

    ASSERT_OK(context, moecl_model_weights(model, checkpoint->layer, &weights));
    assert_matrix(tensors, checkpoint->router, 0, &weights.router);
    for (size_t expert = 0; expert < options.experts; expert++) {
        assert_matrix(tensors, checkpoint->gate, expert, &weights.experts[expert].gate);
        assert_matrix(tensors, checkpoint->up, expert, &weights.experts[expert].up);
        assert_matrix(tensors, checkpoint->down, expert, &weights.experts[expert].down);
    }
    if (options.shared_intermediate > 0) {
        assert_matrix(tensors, "model.layers.0.mlp.shared_expert.gate_proj.weight", 0, &weights.shared.gate);
        assert_matrix(tensors, "model.layers.0.mlp.shared_expert.up_proj.weight", 0, &weights.shared.up);
        assert_matrix(tensors, "model.layers.0.mlp.shared_expert.down_proj.weight", 0, &weights.shared.down);
        assert_matrix(tensors, "model.layers.0.mlp.shared_expert_gate.weight", 0, &weights.shared_gate);
    } else {
        assert_null(weights.shared.gate.data);
        assert_null(weights.shared_gate.data);
    }
    moecl_model_weights_free(&weights);
    assert_null(weights.experts);
    moecl_model_close(model);
}

static void test_single_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < CHECKPOINTS; i++) {
        char *directory = data_path(checkpoints[i].directory);
        struct tensors tensors = tensors_read(directory, "model.safetensors");
        assert_checkpoint(&checkpoints[i], directory, &tensors);
        tensors_free(&tensors);
        free(directory);
    }
}

static void test_shards(void **state)
{
    (void)state;
    for (size_t i = 0; i < CHECKPOINTS; i++)
        for (size_t shards = 1; shards <= 9; shards += 4) {
            char *original = data_path(checkpoints[i].directory);
            struct tensors tensors = tensors_read(original, "model.safetensors");
            char *directory = checkpoint_copy(original);
            checkpoint_split(directory, shards); /* its headers leave the data unaligned */
            assert_checkpoint(&checkpoints[i], directory, &tensors);
            scratch_remove(directory);
            tensors_free(&tensors);
            free(original);
        }
}

/* A single file is what counts where both are there, as for the transformers library. */
static void test_single_file_before_index(void **state)
{
    (void)state;
    char *original = data_path("golden/olmoe"), *directory = checkpoint_copy(original);
    moecl_layer_options options;
    scratch_write(directory, "model.safetensors.index.json", "nonsense", 8);
    moecl_model *model = open_model(directory);
    ASSERT_OK(context, moecl_model_layer_options(model, 0, &options));
    moecl_model_close(model);
    scratch_remove(directory);
    free(original);
}

static void test_names_without_prefix(void **state)
{
    (void)state;
    for (size_t i = 0; i < CHECKPOINTS; i++) {
        char *original = data_path(checkpoints[i].directory), *directory = checkpoint_copy(original);
        struct tensors tensors = tensors_read(original, "model.safetensors");
        checkpoint_edit(directory, "model.safetensors", "\"model.layers.", "      \"layers.", true);
        assert_checkpoint(&checkpoints[i], directory, &tensors);
        tensors_free(&tensors);
        scratch_remove(directory);
        free(original);
    }
}

/* ------------------------------------------------------------------------------------------ layers and types -- */

static void test_dense_layers(void **state)
{
    (void)state;
    char *original = data_path("tiny-qwen3-moe"), *directory = checkpoint_copy(original);
    moecl_layer_options options = {.experts = 77};
    moecl_layer_weights weights;
    checkpoint_edit(directory, "config.json", "\"mlp_only_layers\": []", "\"mlp_only_layers\": [1]", false);
    checkpoint_edit(directory, "config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 6", false);
    moecl_model *model = open_model(directory);
    assert_true(moecl_model_is_moe(model, 0));
    assert_false(moecl_model_is_moe(model, 1));
    assert_false(moecl_model_is_moe(model, SIZE_MAX));

    assert_int_equal(moecl_model_layer_options(model, 1, &options), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "layer 1 is dense: the MoE layers are 0, 2 to 5"));
    assert_int_equal(options.experts, 77);
    assert_int_equal(moecl_model_weights(model, 6, &weights), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "there is no layer 6"));
    assert_non_null(strstr(moecl_context_error(context), "0 to 5"));
    assert_null(weights.experts);
    assert_int_equal(moecl_model_weights(model, SIZE_MAX, &weights), MOECL_INVALID_ARGUMENT);
    /* the config speaks of layers that the file lacks */
    assert_int_equal(moecl_model_layer_options(model, 4, &options), MOECL_BAD_FILE);
    assert_non_null(strstr(moecl_context_error(context), "\"model.layers.4.mlp.gate.weight\" is missing"));
    moecl_model_close(model);

    checkpoint_edit(directory, "config.json", "\"decoder_sparse_step\": 1", "\"decoder_sparse_step\": 7", false);
    model = open_model(directory);
    assert_int_equal(moecl_model_layer_options(model, 0, &options), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "it has no MoE layers"));
    moecl_model_close(model);
    scratch_remove(directory);
    free(original);
}

static void test_mixed_types(void **state)
{
    (void)state;
    char *original = data_path("golden/mixtral-bf16"), *directory = checkpoint_copy(original);
    moecl_layer_options options;
    moecl_layer_weights weights;
    /* the file's first tensor: w1 of expert 0 */
    checkpoint_edit(directory, "model.safetensors", "\"BF16\"", "\"F16\" ", false);
    moecl_model *model = open_model(directory);
    ASSERT_OK(context, moecl_model_layer_options(model, 0, &options));
    assert_int_equal(options.weights, MOECL_F32); /* holds both without loss */
    ASSERT_OK(context, moecl_model_weights(model, 0, &weights));
    assert_int_equal(weights.experts[0].gate.type, MOECL_F16);
    assert_int_equal(weights.experts[0].up.type, MOECL_BF16);
    moecl_model_weights_free(&weights);
    moecl_model_close(model);
    scratch_remove(directory);
    free(original);
}

static void test_arguments(void **state)
{
    (void)state;
    moecl_model *model = (moecl_model *)&model;
    assert_int_equal(moecl_model_open(NULL, "x", NULL, &model), MOECL_INVALID_ARGUMENT);
    assert_null(model);
    assert_int_equal(moecl_model_open(context, NULL, NULL, &model), MOECL_INVALID_ARGUMENT);
    assert_non_null(strstr(moecl_context_error(context), "moecl_model_open"));
    assert_int_equal(moecl_model_open(context, "", NULL, &model), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_model_open(context, "x", NULL, NULL), MOECL_INVALID_ARGUMENT);
    moecl_layer_options options;
    moecl_layer_weights weights;
    assert_int_equal(moecl_model_layer_options(NULL, 0, &options), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_model_weights(NULL, 0, &weights), MOECL_INVALID_ARGUMENT);
    model = open_model(MOECL_TEST_DATA "/golden/olmoe");
    assert_int_equal(moecl_model_layer_options(model, 0, NULL), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_model_weights(model, 0, NULL), MOECL_INVALID_ARGUMENT);
    moecl_model_close(model);
    moecl_model_close(NULL);
    moecl_model_weights_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_files),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_single_file_before_index),
        cmocka_unit_test(test_names_without_prefix),
        cmocka_unit_test(test_dense_layers),
        cmocka_unit_test(test_mixed_types),
        cmocka_unit_test(test_arguments),
    };
    return cmocka_run_group_tests_name("model", tests, make_context, destroy_context);
}
