/* SPDX-License-Identifier: Apache-2.0 */
/* test_golden.c - layers out of checkpoints against what the transformers library recorded of them: the reference in
 * double precision, then the device with every expert-GEMM variant. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "model/safetensors.h"
#include <moecl/reference.h>

/* A checkpoint, and the file in it that holds inputs and outputs of its MoE layers. */
static const struct fixture {
    const char *directory, *recorded;
} fixtures[] = {
    {"golden/mixtral", "io.safetensors"},          {"golden/mixtral-bf16", "io.safetensors"},
    {"golden/qwen2_moe", "io.safetensors"},        {"golden/qwen3_moe", "io.safetensors"},
    {"golden/qwen3_moe-nonorm", "io.safetensors"}, {"golden/olmoe", "io.safetensors"},
    {"tiny-qwen3-moe", "activations.safetensors"},
};
enum { FEW_TOKENS = 2 }; /* where sizes must be small; and then one layer of a model is enough */

/* What was recorded of a layer. */
struct record {
    size_t tokens;
    float *x, *y, *logits, *weights;
    int32_t *ids;
};

static void *tensor(const struct moecl_safetensors *file, size_t layer, const char *name, size_t rows, size_t columns)
{
    char full[64];
    snprintf(full, sizeof(full), "layer%zu.%s", layer, name);
    const struct moecl_tensor *found = moecl_safetensors_find(file, full);
    assert_non_null(found);
    assert_true(rows <= found->shape[0]);
    assert_int_equal(found->shape[1], columns);
    assert_int_equal(found->size, found->shape[0] * columns * sizeof(float));
    void *copy = make(rows * columns, sizeof(float));
    memcpy(copy, found->data, rows * columns * sizeof(float));
    return copy;
}

static struct record record_read(const struct fixture *fixture, size_t layer, const moecl_layer_options *options)
{
    struct moecl_error error = {.sentence = ""};
    struct moecl_safetensors file = {0};
    char path[1024], name[64];
    snprintf(path, sizeof(path), "%s/%s/%s", MOECL_TEST_DATA, fixture->directory, fixture->recorded);
    assert_ok(moecl_safetensors_open(&error, path, &file), path, error.sentence, __FILE__, __LINE__);
    snprintf(name, sizeof(name), "layer%zu.x", layer);
    const struct moecl_tensor *x = moecl_safetensors_find(&file, name);
    assert_non_null(x);

    struct record record = {.tokens = x->shape[0]};
    if (small_sizes() && record.tokens > FEW_TOKENS)
        record.tokens = FEW_TOKENS;
    record.x = tensor(&file, layer, "x", record.tokens, options->hidden);
    record.y = tensor(&file, layer, "y", record.tokens, options->hidden);
    record.logits = tensor(&file, layer, "logits", record.tokens, options->experts);
    record.weights = tensor(&file, layer, "weights", record.tokens, options->top_k);
    record.ids = tensor(&file, layer, "ids", record.tokens, options->top_k);
    moecl_safetensors_close(&file);
    return record;
}

static void record_free(struct record *record)
{
    free(record->x);
    free(record->y);
    free(record->logits);
    free(record->weights);
    free(record->ids);
}

/* Fails unless |got - recorded| <= tolerance * largest |recorded|. */
static void assert_recorded(const double *got, const float *recorded, size_t count, double tolerance, const char *what)
{
    double *expected = to_doubles(recorded, MOECL_F32, count);
    assert_close(got, expected, count, tolerance, what, __FILE__, __LINE__);
    free(expected);
}

/* Calls `check` for each MoE layer of the fixture. */
static void for_each_layer(const struct fixture *fixture, moecl_context *context,
                           void (*check)(moecl_context *, moecl_model *, size_t, const struct record *))
{
    moecl_model *model = NULL;
    moecl_model_info info;
    char path[1024];
    snprintf(path, sizeof(path), "%s/%s", MOECL_TEST_DATA, fixture->directory);
    ASSERT_OK(context, moecl_model_open(context, path, NULL, &model));
    moecl_model_describe(model, &info);
    size_t checked = 0;
    for (size_t layer = 0; layer < info.layers; layer++) {
        if (!moecl_model_is_moe(model, layer) || (small_sizes() && checked > 0))
            continue;
        moecl_layer_options options;
        ASSERT_OK(context, moecl_model_layer_options(model, layer, &options));
        struct record record = record_read(fixture, layer, &options);
        print_message("           %s, layer %zu, %zu tokens\n", fixture->directory, layer, record.tokens);
        check(context, model, layer, &record);
        record_free(&record);
        checked++;
    }
    assert_true(checked > 0);
    moecl_model_close(model);
}

static void check_reference(moecl_context *context, moecl_model *model, size_t layer, const struct record *record)
{
    moecl_layer_options options;
    moecl_layer_weights weights;
    ASSERT_OK(context, moecl_model_layer_options(model, layer, &options));
    ASSERT_OK(context, moecl_model_weights(model, layer, &weights));
    size_t outputs = record->tokens * options.hidden, routings = record->tokens * options.top_k;
    size_t scores = record->tokens * options.experts;
    int32_t *ids = make(routings, sizeof *ids);
    double *routing_weights = make(routings, sizeof(double)), *logits = make(scores, sizeof(double));
    double *y = make(outputs, sizeof(double));
    moecl_reference_call call = {.options = &options,
                                 .weights = &weights,
                                 .tokens = record->tokens,
                                 .x = record->x,
                                 .ids = ids,
                                 .routing_weights = routing_weights,
                                 .logits = logits,
                                 .y = y};
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    assert_memory_equal(ids, record->ids, routings * sizeof *ids);
    assert_recorded(logits, record->logits, scores, 1e-6, "logits");
    assert_recorded(routing_weights, record->weights, routings, 2e-6, "weights");
    assert_recorded(y, record->y, outputs, 1e-6, "y");
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
    for (size_t i = 0; i < sizeof(fixtures) / sizeof(fixtures[0]); i++)
        for_each_layer(&fixtures[i], context, check_reference);
    moecl_context_destroy(context);
}

/* Runs the layer, with its own router or with the routing recorded. */
static void check_forward(moecl_context *context, moecl_layer *layer, const struct record *record, bool given)
{
    const moecl_layer_options *options = moecl_layer_describe(layer);
    size_t outputs = record->tokens * options->hidden, routings = record->tokens * options->top_k;
    struct array x = array_of(context, MOECL_F32, record->x, outputs);
    struct array y = array_make(context, outputs * sizeof(float), NULL);
    struct array ids = array_make(context, routings * sizeof(int32_t), given ? record->ids : NULL);
    struct array weights = array_make(context, routings * sizeof(float), given ? record->weights : NULL);
    moecl_forward forward = {.tokens = record->tokens,
                             .x = x.buffer,
                             .y = y.buffer,
                             .routing = {ids.buffer, weights.buffer},
                             .routing_given = given};
    ASSERT_OK(context, moecl_layer_forward(layer, &forward, 0, NULL, NULL));
    ASSERT_OK(context, moecl_layer_check(layer));

    int32_t *got_ids = array_bytes(context, ids);
    double *got_weights = array_doubles(context, weights, MOECL_F32), *got_y = array_doubles(context, y, MOECL_F32);
    assert_memory_equal(got_ids, record->ids, routings * sizeof(int32_t));
    assert_recorded(got_weights, record->weights, routings, 1e-5, "weights");
    assert_recorded(got_y, record->y, outputs, 1e-4, "y");
    free(got_ids);
    free(got_weights);
    free(got_y);
    array_release(&x);
    array_release(&y);
    array_release(&ids);
    array_release(&weights);
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
    for (size_t i = 0; i < sizeof(fixtures) / sizeof(fixtures[0]); i++)
        for_each_layer(&fixtures[i], context, check_device);
    moecl_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference),
        cmocka_unit_test(device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
