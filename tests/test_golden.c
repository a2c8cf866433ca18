/* SPDX-License-Identifier: Apache-2.0 */
/* test_golden.c - layers out of checkpoints against what the transformers library recorded of them: the reference in
 * double precision, then the device with every expert-GEMM variant. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "model/safetensors.h"
#include "scratch.h"
#include <moecl/reference.h>

/* Checkpoints with what was recorded of their MoE layers, in MOECL_GOLDEN or tests/data/golden: all of its folders; and
 * one more, of another hand. */
static const char recorded_name[] = "io.safetensors";
static const char own_checkpoint[] = MOECL_TEST_DATA "/tiny-qwen3-moe", own_recorded_name[] = "activations.safetensors";
enum { FEW_TOKENS = 2 }; /* where sizes must be small; and then one layer of a model is enough */

/* Folders that are refused, and a word of the sentence. */
static const struct {
    const char *folder, *word;
} refused[] = {{"doge", "product keys"}, {"zaya", "a network of several layers"}, {"gpt_oss-mxfp4", "mxfp4"}};
enum { REFUSED = sizeof refused / sizeof refused[0] };

/* Families whose recorded weights lack the routed scale, which is a factor of the sum there. */
static const char *const sum_scaled[] = {"laguna", "minimax_m3_vl", "step3p7", "nllb-moe", "cohere2_moe"};

/* What was recorded of a layer. */
struct record {
    size_t tokens;
    float *x, *y, *logits, *weights;
    int32_t *ids, *token_ids;
};

/* A copy of a recorded tensor's first rows; NULL where it is not there. */
static void *tensor(const struct moecl_tensor_file *file, size_t layer, const char *name, size_t rows, size_t columns)
{
    char full[64];
    snprintf(full, sizeof(full), "layer%zu.%s", layer, name);
    const struct moecl_tensor *found = moecl_tensor_file_find(file, full);
    if (!found)
        return NULL;
    assert_true(rows <= found->shape[0]);
    assert_int_equal(found->shape[1], columns);
    assert_int_equal(found->size, found->shape[0] * columns * sizeof(float));
    void *copy = make(rows * columns, sizeof(float));
    memcpy(copy, found->data, rows * columns * sizeof(float));
    return copy;
}

/* With a capacity, what becomes of a token depends on all of them. */
static size_t token_count(const struct moecl_tensor *x, const moecl_layer_options *options)
{
    const bool few = small_sizes() && options->router.capacity.kind == MOECL_CAPACITY_NONE;
    return few && x->shape[0] > FEW_TOKENS ? FEW_TOKENS : x->shape[0];
}

static struct record record_read(const char *path, size_t layer, const moecl_layer_options *options)
{
    struct moecl_error error = {.sentence = ""};
    struct moecl_tensor_file file = {0};
    char name[64];
    assert_ok(moecl_safetensors_open(&error, path, &file), path, error.sentence, __FILE__, __LINE__);
    snprintf(name, sizeof(name), "layer%zu.x", layer);
    const struct moecl_tensor *x = moecl_tensor_file_find(&file, name);
    assert_non_null(x);

    const size_t tokens = token_count(x, options), hidden = options->hidden;
    const size_t outputs = options->experts + options->router.zero_experts;
    struct record record = {.tokens = tokens};
    record.x = tensor(&file, layer, "x", tokens, hidden);
    record.y = tensor(&file, layer, "y_dispatch", tokens, hidden); /* NLLB: what y is meant to be */
    if (!record.y)
        record.y = tensor(&file, layer, "y", tokens, hidden);
    record.logits = tensor(&file, layer, "logits", tokens, outputs);
    record.weights = tensor(&file, layer, "weights", tokens, options->top_k);
    record.ids = tensor(&file, layer, "ids", tokens, options->top_k);
    record.token_ids = tensor(&file, layer, "token_ids", tokens, 1);
    moecl_tensor_file_close(&file);
    assert_true(record.x && record.y && record.logits && record.weights && record.ids);
    return record;
}

static void record_free(struct record *record)
{
    free(record->x);
    free(record->y);
    free(record->logits);
    free(record->weights);
    free(record->ids);
    free(record->token_ids);
}

/* Brings recorded weights to what a layer's routing says: scaled, and what was dropped with the id -1. */
static void adjust_routing(const char *family, const moecl_layer_options *options, struct record *record)
{
    float factor = 1.0F;
    for (size_t i = 0; i < sizeof sum_scaled / sizeof sum_scaled[0]; i++)
        if (strcmp(family, sum_scaled[i]) == 0 && options->router.scale > 0)
            factor = options->router.scale;
    for (size_t i = 0; i < record->tokens * options->top_k; i++) {
        record->weights[i] *= factor;
        if (options->router.capacity.kind != MOECL_CAPACITY_NONE && record->weights[i] == 0.0F)
            record->ids[i] = -1;
    }
}

/* Fails unless |got - recorded| <= tolerance * largest |recorded|. */
static void assert_recorded(const double *got, const float *recorded, size_t count, double tolerance, const char *what)
{
    double *expected = to_doubles(recorded, MOECL_F32, count);
    assert_close(got, expected, count, tolerance, what, __FILE__, __LINE__);
    free(expected);
}

static double weight_of(const int32_t *ids, const double *weights, size_t top_k, int32_t id, size_t *times)
{
    double sum = 0.0;
    *times = 0;
    for (size_t j = 0; j < top_k; j++)
        if (ids[j] == id) {
            sum += weights[j];
            ++*times;
        }
    return sum;
}

/* Each token has the recorded experts, in any order, with the recorded weights. */
static void assert_routing(const struct record *record, size_t top_k, const int32_t *ids, const double *weights,
                           double tolerance)
{
    double *expected = to_doubles(record->weights, MOECL_F32, record->tokens * top_k);
    const double bound = tolerance * fmax(1.0, largest(expected, record->tokens * top_k));
    for (size_t i = 0; i < record->tokens * top_k; i++) {
        const size_t first = i - i % top_k;
        size_t times, expected_times;
        const double weight = weight_of(ids + first, weights + first, top_k, record->ids[i], &times);
        const double wanted = weight_of(record->ids + first, expected + first, top_k, record->ids[i], &expected_times);
        if (times != expected_times || fabs(weight - wanted) > bound)
            fail_msg("token %zu: expert %d is chosen %zu times with the weight %g, expected %zu times with %g",
                     i / top_k, (int)record->ids[i], times, weight, expected_times, wanted);
    }
    free(expected);
}

typedef void check_layer(moecl_context *context, moecl_model *model, size_t layer, const struct record *record);

/* Calls `check` for each MoE layer of the checkpoint. */
static void check_checkpoint(moecl_context *context, const char *directory, const char *recorded, check_layer *check)
{
    moecl_model *model = NULL;
    moecl_model_info info;
    char path[1024];
    snprintf(path, sizeof(path), "%s/%s", directory, recorded);
    ASSERT_OK(context, moecl_model_open(context, directory, NULL, &model));
    moecl_model_describe(model, &info);
    size_t checked = 0;
    for (size_t layer = 0; layer < info.layers; layer++) {
        if (!moecl_model_is_moe(model, layer) || (small_sizes() && checked > 0))
            continue;
        moecl_layer_options options;
        ASSERT_OK(context, moecl_model_layer_options(model, layer, &options));
        struct record record = record_read(path, layer, &options);
        adjust_routing(info.family, &options, &record);
        print_message("           %s, layer %zu, %zu tokens\n", directory, layer, record.tokens);
        check(context, model, layer, &record);
        record_free(&record);
        checked++;
    }
    assert_true(checked > 0);
    moecl_model_close(model);
}

static bool is_refused(const char *folder)
{
    for (size_t i = 0; i < REFUSED; i++)
        if (strcmp(refused[i].folder, folder) == 0)
            return true;
    return false;
}

/* Where sizes must be small, these stand for all: each has what the others lack. */
static bool is_telling(const char *folder)
{
    static const char *const telling[] = {"deepseek_v3-bf16", "gemma4-odd", "gpt_oss-odd", "llama4-top2-odd",
                                          "longcat_flash",    "phimoe",     "qwen2_moe"};
    for (size_t i = 0; i < sizeof telling / sizeof telling[0]; i++)
        if (strcmp(telling[i], folder) == 0)
            return true;
    return false;
}

static int has_recording(const struct dirent *entry)
{
    const char *name = entry->d_name;
    return name[0] != '.' && !strstr(name, ".md") && !is_refused(name) && (!small_sizes() || is_telling(name));
}

static const char *golden_directory(void)
{
    const char *other = getenv("MOECL_GOLDEN");
    return other ? other : MOECL_TEST_DATA "/golden";
}

static void for_each_checkpoint(moecl_context *context, check_layer *check)
{
    struct dirent **folders;
    const int count = scandir(golden_directory(), &folders, has_recording, alphasort);
    assert_true(count > 0);
    for (int i = 0; i < count; i++) {
        char *directory = scratch_path(golden_directory(), folders[i]->d_name);
        check_checkpoint(context, directory, recorded_name, check);
        free(directory);
        free(folders[i]);
    }
    free(folders);
    check_checkpoint(context, own_checkpoint, own_recorded_name, check);
}

/* ---------------------------------------------------------------------------------------------- the reference -- */

static void check_reference(moecl_context *context, moecl_model *model, size_t layer, const struct record *record)
{
    moecl_layer_options options;
    moecl_layer_weights weights;
    ASSERT_OK(context, moecl_model_layer_options(model, layer, &options));
    ASSERT_OK(context, moecl_model_weights(model, layer, &weights));
    size_t outputs = record->tokens * options.hidden, routings = record->tokens * options.top_k;
    size_t scores = record->tokens * (options.experts + options.router.zero_experts);
    int32_t *ids = make(routings, sizeof *ids);
    double *routing_weights = make(routings, sizeof(double)), *logits = make(scores, sizeof(double));
    double *y = make(outputs, sizeof(double));
    moecl_reference_call call = {.options = &options,
                                 .weights = &weights,
                                 .tokens = record->tokens,
                                 .x = record->x,
                                 .token_ids = record->token_ids,
                                 .ids = ids,
                                 .routing_weights = routing_weights,
                                 .logits = logits,
                                 .y = y};
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    assert_routing(record, options.top_k, ids, routing_weights, 2e-6);
    assert_recorded(logits, record->logits, scores, 1e-5, "logits");
    assert_recorded(y, record->y, outputs, 1e-5, "y");
    free(ids);
    free(routing_weights);
    free(logits);
    free(y);
    moecl_model_weights_free(&weights);
}

static void reference(void **state)
{
    (void)state;
    moecl_context *context = NULL;
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    for_each_checkpoint(context, check_reference);
    moecl_context_destroy(context);
}

/* ------------------------------------------------------------------------------------------------- the device -- */

/* Runs the layer, with its own router or with the routing recorded. */
static void check_forward(moecl_context *context, moecl_layer *layer, const struct record *record, bool given)
{
    const moecl_layer_options *options = moecl_layer_describe(layer);
    size_t outputs = record->tokens * options->hidden, routings = record->tokens * options->top_k;
    struct array x = array_of(context, MOECL_F32, record->x, outputs);
    struct array y = array_make(context, outputs * sizeof(float), NULL);
    struct array ids = array_make(context, routings * sizeof(int32_t), given ? record->ids : NULL);
    struct array weights = array_make(context, routings * sizeof(float), given ? record->weights : NULL);
    struct array token_ids = {.buffer = {NULL, 0}};
    if (record->token_ids)
        token_ids = array_make(context, record->tokens * sizeof(int32_t), record->token_ids);
    moecl_forward forward = {.tokens = record->tokens,
                             .x = x.buffer,
                             .y = y.buffer,
                             .routing = {ids.buffer, weights.buffer},
                             .routing_given = given,
                             .token_ids = token_ids.buffer};
    ASSERT_OK(context, moecl_layer_forward(layer, &forward, 0, NULL, NULL));
    ASSERT_OK(context, moecl_layer_check(layer));

    int32_t *got_ids = array_bytes(context, ids);
    double *got_weights = array_doubles(context, weights, MOECL_F32), *got_y = array_doubles(context, y, MOECL_F32);
    assert_routing(record, options->top_k, got_ids, got_weights, 1e-5);
    assert_recorded(got_y, record->y, outputs, 1e-4, "y");
    free(got_ids);
    free(got_weights);
    free(got_y);
    array_release(&x);
    array_release(&y);
    array_release(&ids);
    array_release(&weights);
    array_release(&token_ids);
}

static void check_device(moecl_context *context, moecl_model *model, size_t number, const struct record *record)
{
    for (size_t v = 0; moecl_variant_name(v) != NULL; v++) {
        moecl_layer_options options;
        moecl_layer *layer = NULL;
        ASSERT_OK(context, moecl_model_layer_options(model, number, &options));
        options.variant = moecl_variant_name(v);
        ASSERT_OK(context, moecl_layer_load(model, number, &options, &layer));
        check_forward(context, layer, record, false);
        check_forward(context, layer, record, true);
        moecl_layer_destroy(layer);
    }
}

static void device(void **state)
{
    (void)state;
    moecl_context *context = open_context();
    for_each_checkpoint(context, check_device);
    moecl_context_destroy(context);
}

static void refusals(void **state)
{
    (void)state;
    moecl_context *context = NULL;
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    for (size_t i = 0; i < REFUSED; i++) {
        char *directory = scratch_path(MOECL_TEST_DATA "/golden", refused[i].folder);
        moecl_model *model = NULL;
        assert_int_equal(moecl_model_open(context, directory, NULL, &model), MOECL_UNSUPPORTED);
        assert_non_null(strstr(moecl_context_error(context), refused[i].word));
        assert_null(model);
        free(directory);
    }
    moecl_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference),
        cmocka_unit_test(refusals),
        cmocka_unit_test(device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
