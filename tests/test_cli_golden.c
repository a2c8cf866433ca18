/* SPDX-License-Identifier: Apache-2.0 */
/* test_cli_golden.c - moecl run on checkpoints with recorded inputs, outputs and routing (tests/data): y within
 * 1e-4 of what Hugging Face's transformers computed, and the same experts in the same order. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../tools/npy.h"
#undef TRY /* the tool and the library each have their own, and this file needs neither */
#undef FAIL
#include "device.h"
#include "model/safetensors.h"
#include "program.h"
#include "scratch.h"

static const struct recording {
    const char *model, *file;
    size_t layer;
} recordings[] = {
    {"golden/mixtral", "io.safetensors", 0},          {"golden/mixtral-bf16", "io.safetensors", 0},
    {"golden/qwen2_moe", "io.safetensors", 0},        {"golden/qwen3_moe", "io.safetensors", 0},
    {"golden/qwen3_moe-nonorm", "io.safetensors", 0}, {"golden/olmoe", "io.safetensors", 0},
    {"golden/gpt_oss-odd", "io.safetensors", 0},      {"golden/deepseek_v3", "io.safetensors", 1},
    {"golden/llama4-top2-odd", "io.safetensors", 1},  {"golden/longcat_flash", "io.safetensors", 0},
    {"tiny-qwen3-moe", "activations.safetensors", 0}, {"tiny-qwen3-moe", "activations.safetensors", 1},
    {"tiny-qwen3-moe", "activations.safetensors", 2},
};
enum { RECORDINGS = sizeof(recordings) / sizeof(recordings[0]) };

/* A recording, opened; x and y are .npy files in `directory`. */
struct scene {
    char *directory, *model, *x, *y, *out, *ids, *weights;
    char layer[8];
    size_t tokens, top_k;
    struct moecl_tensor_file file;
};

static const struct moecl_tensor *tensor(const struct scene *scene, const char *what)
{
    char name[64];
    snprintf(name, sizeof(name), "layer%s.%s", scene->layer, what);
    const struct moecl_tensor *found = moecl_tensor_file_find(&scene->file, name);
    assert_non_null(found);
    return found;
}

/* Writes the first `tokens` rows of a recorded f32 tensor as a .npy file, f2 if `half`. */
static void write_rows(const struct scene *scene, const char *what, const char *path, bool half)
{
    struct fault fault;
    struct output_file file;
    const struct moecl_tensor *recorded = tensor(scene, what);
    const size_t shape[] = {scene->tokens, recorded->shape[1]}, count = shape[0] * shape[1];
    float *values = make(count, sizeof(float));
    memcpy(values, recorded->data, count * sizeof(float));
    assert_int_equal(output_file_open(&file, path, &fault), OUTCOME_SUCCESS);
    if (half) {
        void *halves = make(count, 2);
        moecl_convert(values, MOECL_F32, halves, MOECL_F16, count);
        assert_int_equal(npy_write(&file, NPY_F2, 2, shape, halves, &fault), OUTCOME_SUCCESS);
        free(halves);
    } else {
        assert_int_equal(npy_write(&file, NPY_F4, 2, shape, values, &fault), OUTCOME_SUCCESS);
    }
    assert_int_equal(output_file_commit(&file, &fault), OUTCOME_SUCCESS);
    output_file_discard(&file);
    free(values);
}

static struct scene open_scene(const struct recording *recording)
{
    struct scene scene = {.directory = scratch_make(), .model = scratch_path(MOECL_TEST_DATA, recording->model)};
    struct moecl_error error = {""};
    char *path = scratch_path(scene.model, recording->file);
    if (moecl_safetensors_open(&error, path, &scene.file) != MOECL_OK)
        fail_msg("%s", error.sentence);
    free(path);
    snprintf(scene.layer, sizeof(scene.layer), "%zu", recording->layer);
    scene.tokens = tensor(&scene, "ids")->shape[0];
    if (small_sizes() && scene.tokens > 8)
        scene.tokens = 8;
    scene.top_k = tensor(&scene, "ids")->shape[1];
    scene.x = scratch_path(scene.directory, "x.npy");
    scene.y = scratch_path(scene.directory, "y.npy");
    scene.out = scratch_path(scene.directory, "out.npy");
    scene.ids = scratch_path(scene.directory, "ids.npy");
    scene.weights = scratch_path(scene.directory, "weights.npy");
    write_rows(&scene, "x", scene.x, false);
    write_rows(&scene, "y", scene.y, false);
    return scene;
}

static void close_scene(struct scene *scene)
{
    char *paths[] = {scene->model, scene->x, scene->y, scene->out, scene->ids, scene->weights};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        free(paths[i]);
    moecl_tensor_file_close(&scene->file);
    scratch_remove(scene->directory);
}

/* Runs the scene with one more option and fails unless the tool finds y to be as expected. */
static void run_scene(const struct scene *scene, const char *option, const char *value)
{
    const char *const arguments[] = {MOECL_CLI,  "run",       scene->model,   "--layer",  scene->layer, "--input",
                                     scene->x,   "--output",  scene->out,     "--expect", scene->y,     "--ids",
                                     scene->ids, "--weights", scene->weights, option,     value,        NULL};
    struct program_result result = program_run(arguments, NULL);
    if (result.status != 0)
        fail_msg("%s, layer %s, %s %s: status %d\n%s%s", scene->model, scene->layer, option, value, result.status,
                 result.output, result.error);
    program_result_free(&result);
}

/* What the tool wrote, beside the recording; y again, so that the tool's own comparison is not trusted alone. */
static void assert_recorded(const struct scene *scene)
{
    struct fault fault;
    struct npy_array ids, weights, y;
    const size_t choices = scene->tokens * scene->top_k;
    assert_int_equal(npy_read(scene->ids, 2, NPY_I4, &ids, &fault), OUTCOME_SUCCESS);
    assert_int_equal(npy_read(scene->weights, 2, NPY_F4, &weights, &fault), OUTCOME_SUCCESS);
    assert_int_equal(npy_read(scene->out, 2, NPY_F4, &y, &fault), OUTCOME_SUCCESS);
    assert_int_equal(ids.count, choices);
    assert_memory_equal(ids.data, tensor(scene, "ids")->data, choices * sizeof(int32_t));
    double *got = to_doubles(weights.data, MOECL_F32, choices);
    double *recorded = to_doubles(tensor(scene, "weights")->data, MOECL_F32, choices);
    ASSERT_CLOSE(got, recorded, choices, 1e-5);
    free(got);
    free(recorded);
    assert_int_equal(y.shape[0], scene->tokens);
    got = to_doubles(y.data, MOECL_F32, y.count);
    recorded = to_doubles(tensor(scene, "y")->data, MOECL_F32, y.count);
    ASSERT_CLOSE(got, recorded, y.count, 1e-4);
    free(got);
    free(recorded);
    npy_free(&ids);
    npy_free(&weights);
    npy_free(&y);
}

static void test_every_variant_gives_what_was_recorded(void **state)
{
    (void)state;
    for (size_t i = 0; i < RECORDINGS; i++) {
        struct scene scene = open_scene(&recordings[i]);
        for (size_t v = 0; moecl_variant_name(v); v++) {
            run_scene(&scene, "--variant", moecl_variant_name(v));
            assert_recorded(&scene);
        }
        close_scene(&scene);
    }
}

/* The wider tolerances that `moecl run --help` states hold where weights are rounded. */
static void test_rounded_weights(void **state)
{
    (void)state;
    for (size_t i = 0; i < RECORDINGS; i++) {
        struct scene scene = open_scene(&recordings[i]);
        run_scene(&scene, "--dtype", "bf16");
        run_scene(&scene, "--dtype", "f16");
        run_scene(&scene, "--dtype", "f32");
        assert_recorded(&scene);
        close_scene(&scene);
    }
}

/* x in half precision: what the tool computes from it is what it computes from its values in f4. */
static void test_half_precision_input(void **state)
{
    (void)state;
    struct scene scene = open_scene(&recordings[3]);
    struct fault fault;
    struct npy_array half, first, second;
    write_rows(&scene, "x", scene.x, true);
    run_scene(&scene, "--tolerance", "0.01");
    assert_int_equal(npy_read(scene.out, 2, NPY_F4, &first, &fault), OUTCOME_SUCCESS);

    assert_int_equal(npy_read(scene.x, 2, NPY_F2, &half, &fault), OUTCOME_SUCCESS);
    assert_int_equal(npy_widen(&half, &fault), OUTCOME_SUCCESS);
    struct output_file file;
    assert_int_equal(output_file_open(&file, scene.x, &fault), OUTCOME_SUCCESS);
    assert_int_equal(npy_write(&file, NPY_F4, 2, half.shape, half.data, &fault), OUTCOME_SUCCESS);
    assert_int_equal(output_file_commit(&file, &fault), OUTCOME_SUCCESS);
    output_file_discard(&file);
    run_scene(&scene, "--tolerance", "0.01");
    assert_int_equal(npy_read(scene.out, 2, NPY_F4, &second, &fault), OUTCOME_SUCCESS);
    assert_memory_equal(first.data, second.data, first.count * sizeof(float));
    npy_free(&half);
    npy_free(&first);
    npy_free(&second);
    close_scene(&scene);
}

static const char description[] = MOECL_TEST_DATA "/../fuzz/corpus/description/gpt_oss";

/* A family out of a description that says what its row says: the same bits. */
static void test_family(void **state)
{
    (void)state;
    struct scene scene = open_scene(&(struct recording){"golden/gpt_oss-odd", "io.safetensors", 0});
    struct fault fault;
    struct npy_array described, own;
    run_scene(&scene, "--family", description);
    assert_recorded(&scene);
    assert_int_equal(npy_read(scene.out, 2, NPY_F4, &described, &fault), OUTCOME_SUCCESS);
    run_scene(&scene, "--tolerance", "1e-4");
    assert_int_equal(npy_read(scene.out, 2, NPY_F4, &own, &fault), OUTCOME_SUCCESS);
    assert_int_equal(own.count, described.count);
    assert_memory_equal(own.data, described.data, own.count * sizeof(float));
    npy_free(&described);
    npy_free(&own);

    const char *const inspect[] = {MOECL_CLI, "inspect", scene.model, "--family", description, NULL};
    const char *const verify[] = {MOECL_CLI,  "verify",    scene.model, "--layer", "0",
                                  "--family", description, "--tokens",  "3",       NULL};
    const char *const wrong[] = {MOECL_CLI, "verify", "--random", "1", "--family", description, NULL};
    const char *const missing[] = {MOECL_CLI, "inspect", scene.model, "--family", "/nonesuch", NULL};
    const struct {
        const char *const *arguments;
        int status;
        const char *words;
    } runs[] = {{inspect, 0, "logit with a bias over"},
                {verify, 0, "checks passed"},
                {wrong, 2, "--family is for a MODEL"},
                {missing, 3, "/nonesuch: No such file"}};
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        struct program_result result = program_run(runs[i].arguments, NULL);
        if (result.status != runs[i].status || !strstr(result.status ? result.error : result.output, runs[i].words))
            fail_msg("%s: status %d\n%s%s", runs[i].arguments[1], result.status, result.output, result.error);
        program_result_free(&result);
    }
    close_scene(&scene);
}

/* A layer that routes by the tokens' ids. */
static void test_token_ids(void **state)
{
    (void)state;
    struct scene scene = open_scene(&(struct recording){"golden/deepseek_v4", "io.safetensors", 0});
    struct fault fault;
    struct output_file file;
    char *path = scratch_path(scene.directory, "token_ids.npy");
    int32_t *token_ids = make(scene.tokens, sizeof *token_ids);
    memcpy(token_ids, tensor(&scene, "token_ids")->data, scene.tokens * sizeof *token_ids);
    assert_int_equal(output_file_open(&file, path, &fault), OUTCOME_SUCCESS);
    assert_int_equal(npy_write(&file, NPY_I4, 1, &scene.tokens, token_ids, &fault), OUTCOME_SUCCESS);
    assert_int_equal(output_file_commit(&file, &fault), OUTCOME_SUCCESS);
    output_file_discard(&file);
    run_scene(&scene, "--token-ids", path);
    assert_recorded(&scene);
    free(token_ids);
    free(path);
    close_scene(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_variant_gives_what_was_recorded),
        cmocka_unit_test(test_rounded_weights),
        cmocka_unit_test(test_half_precision_input),
        cmocka_unit_test(test_family),
        cmocka_unit_test(test_token_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
