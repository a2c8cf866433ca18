/* SPDX-License-Identifier: Apache-2.0 */
/* test_gguf_model.c - models in GGUF files: layers of golden folders, written as llama.cpp's converter writes them,
 * mean and compute what they did; shards; what is refused. */
#include "device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gguf.h"
#include "interception.h"
#include "model/family.h"
#include "model/safetensors.h"
#include "scratch.h"
#include <moecl/reference.h>

/* --------------------------------------------------------------------------------------------------- the files -- */

/* A pair that an architecture has beside the common ones. Where it is of a list, `value` is the last layer's, others'
 * are 0. */
struct pair {
    const char *key;
    enum gguf_kind kind;
    double value;
    size_t layers; /* in the list; 0: no list */
};

#define PAIR(name, type, number)                                                                                       \
    {                                                                                                                  \
        .key = (name), .kind = GGUF_##type, .value = (number)                                                          \
    }
#define LIST(name, type, count, number)                                                                                \
    {                                                                                                                  \
        .key = (name), .kind = GGUF_##type, .value = (number), .layers = (count)                                       \
    }

static const struct fixture {
    const char *folder, *architecture;
    size_t past; /* layers past the last, that are dense */
    struct pair pairs[10];
} fixtures[] = {
    {"mixtral", "llama", 0, {{.key = NULL}}},
    {"mixtral-bf16", "llama", 0, {{.key = NULL}}},
    {"llama4", "llama4", 0, {PAIR("interleave_moe_layer_step", U32, 2), PAIR("expert_feed_forward_length", U32, 32)}},
    {"qwen2_moe", "qwen2moe", 0, {PAIR("expert_shared_feed_forward_length", U32, 64)}},
    {"qwen3_moe", "qwen3moe", 0, {PAIR("expert_feed_forward_length", U32, 32)}},
    {"qwen3_vl_moe", "qwen3vlmoe", 0, {PAIR("expert_feed_forward_length", U32, 32)}},
    {"qwen3_next", "qwen3next", 0, {PAIR("expert_shared_feed_forward_length", U32, 32)}},
    {"qwen3_5_moe", "qwen35moe", 0, {PAIR("expert_shared_feed_forward_length", U32, 32)}},
    {"olmoe", "olmoe", 0, {{.key = NULL}}},
    {"dbrx", "dbrx", 0, {{.key = NULL}}},
    {"phimoe-jitter001", "phimoe", 0, {{.key = NULL}}},
    {"jamba", "jamba", 1, {{.key = NULL}}},
    {"granitemoe", "granitemoe", 0, {{.key = NULL}}},
    {"granitemoeshared", "granitemoe", 0, {PAIR("expert_shared_feed_forward_length", U32, 64)}},
    {"granitemoehybrid", "granitehybrid", 0, {PAIR("expert_shared_feed_forward_length", U32, 64)}},
    {"gpt_oss", "gpt-oss", 0, {PAIR("expert_feed_forward_length", U32, 32)}},
    {"gpt_oss-bf16", "gpt-oss", 0, {PAIR("expert_feed_forward_length", U32, 32)}},
    {"deepseek_v2",
     "deepseek2",
     0,
     {PAIR("leading_dense_block_count", U32, 1), PAIR("expert_shared_count", U32, 2),
      PAIR("expert_weights_scale", F32, 1.7), PAIR("expert_weights_norm", BOOL, 0)}},
    {"deepseek_v2-group",
     "deepseek2",
     0,
     {PAIR("leading_dense_block_count", U32, 1), PAIR("expert_shared_count", U32, 2),
      PAIR("expert_weights_scale", F32, 1.7), PAIR("expert_gating_func", U32, 1), PAIR("expert_group_count", U32, 4),
      PAIR("expert_group_used_count", U32, 2)}},
    {"deepseek_v3",
     "deepseek2",
     0,
     {PAIR("leading_dense_block_count", U32, 1), PAIR("expert_shared_count", U32, 1),
      PAIR("expert_weights_scale", F32, 2.5), PAIR("expert_weights_norm", BOOL, 1), PAIR("expert_gating_func", U32, 2),
      PAIR("expert_group_count", U32, 4), PAIR("expert_group_used_count", U32, 2)}},
    {"glm4_moe",
     "glm4moe",
     0,
     {PAIR("leading_dense_block_count", U32, 1), PAIR("expert_shared_count", U32, 1),
      PAIR("expert_weights_scale", F32, 1.8), PAIR("expert_weights_norm", BOOL, 1), PAIR("expert_group_count", U32, 1),
      PAIR("expert_group_used_count", U32, 1)}},
    {"dots1",
     "dots1",
     0,
     {PAIR("leading_dense_block_count", U32, 1), PAIR("expert_shared_count", U32, 2),
      PAIR("expert_weights_scale", F32, 2.5), PAIR("expert_weights_norm", BOOL, 1), PAIR("expert_gating_func", U32, 2),
      PAIR("expert_group_count", U32, 4), PAIR("expert_group_used_count", U32, 2)}},
    {"bailing_hybrid",
     "bailingmoe2",
     0,
     {PAIR("leading_dense_block_count", U32, 1), PAIR("expert_shared_count", U32, 1),
      PAIR("expert_shared_feed_forward_length", U32, 32), PAIR("expert_weights_scale", F32, 2.5),
      PAIR("expert_weights_norm", BOOL, 1), PAIR("expert_gating_func", U32, 2), PAIR("expert_group_count", U32, 4),
      PAIR("expert_group_used_count", U32, 2)}},
    {"afmoe",
     "afmoe",
     0,
     {PAIR("leading_dense_block_count", U32, 1), PAIR("expert_shared_count", U32, 2),
      PAIR("expert_weights_scale", F32, 2.2), PAIR("expert_weights_norm", BOOL, 1)}},
    {"ernie4_5_moe",
     "ernie4_5-moe",
     0,
     {PAIR("leading_dense_block_count", U32, 1), PAIR("interleave_moe_layer_step", U32, 1),
      PAIR("expert_shared_count", U32, 2), PAIR("expert_shared_feed_forward_length", U32, 64)}},
    {"hunyuan_v1_moe", "hunyuan-moe", 0, {PAIR("expert_shared_feed_forward_length", U32, 32)}},
    {"lfm2_moe",
     "lfm2moe",
     0,
     {PAIR("leading_dense_block_count", U32, 1), PAIR("expert_gating_func", U32, 2),
      PAIR("expert_weights_scale", F32, 1.3)}},
    {"minimax_m2", "minimax-m2", 0, {PAIR("expert_gating_func", U32, 2)}},
    {"exaone_moe",
     "exaone-moe",
     1,
     {PAIR("expert_shared_count", U32, 1), PAIR("expert_weights_scale", F32, 2.5), PAIR("expert_weights_norm", BOOL, 1),
      PAIR("expert_gating_func", U32, 2), PAIR("expert_group_count", U32, 4), PAIR("expert_group_used_count", U32, 2)}},
    {"kimi_linear",
     "kimi-linear",
     0,
     {PAIR("leading_dense_block_count", U32, 1), PAIR("expert_shared_count", U32, 1),
      PAIR("expert_weights_scale", F32, 2.446), PAIR("expert_gating_func", U32, 2), PAIR("expert_group_count", U32, 4),
      PAIR("expert_group_used_count", U32, 2)}},
    {"laguna",
     "laguna",
     0,
     {PAIR("leading_dense_block_count", U32, 1), PAIR("expert_shared_feed_forward_length", U32, 32),
      PAIR("expert_weights_scale", F32, 2.5), PAIR("expert_weights_norm", BOOL, 1)}},
    {"mimo_v2_flash",
     "mimo2",
     1,
     {PAIR("expert_weights_scale", F32, 1.5), PAIR("expert_group_count", U32, 4),
      PAIR("expert_group_used_count", U32, 2)}},
    {"step3p7",
     "step35",
     1,
     {PAIR("expert_shared_feed_forward_length", U32, 32), PAIR("expert_weights_scale", F32, 3.0),
      PAIR("expert_weights_norm", BOOL, 1), LIST("swiglu_clamp_exp", F32, 3, 1.5),
      LIST("swiglu_clamp_shexp", F32, 3, 2.0)}},
    {"mixtral", "arctic", 0, {{.key = NULL}}},
    {"gemma4",
     "gemma4",
     1,
     {PAIR("expert_feed_forward_length", U32, 32), PAIR("attention.layer_norm_rms_epsilon", F32, 1e-6)}},
    {"nemotron_h",
     "nemotron_h_moe",
     1,
     {PAIR("expert_shared_count", U32, 1), PAIR("expert_shared_feed_forward_length", U32, 64),
      PAIR("expert_weights_scale", F32, 2.5), PAIR("expert_weights_norm", BOOL, 1), PAIR("expert_group_count", U32, 4),
      PAIR("expert_group_used_count", U32, 2)}},
    {"nemotron_h-latent",
     "nemotron_h_moe",
     1,
     {PAIR("expert_shared_count", U32, 1), PAIR("expert_shared_feed_forward_length", U32, 64),
      PAIR("expert_weights_scale", F32, 2.5), PAIR("expert_weights_norm", BOOL, 1), PAIR("expert_group_count", U32, 4),
      PAIR("expert_group_used_count", U32, 2), PAIR("moe_latent_size", U32, 32)}},
};
enum { FIXTURES = sizeof fixtures / sizeof fixtures[0] };

static moecl_model *open_folder(moecl_context *context, const char *folder)
{
    moecl_model *model = NULL;
    char path[1024];
    snprintf(path, sizeof path, "%s/golden/%s", MOECL_TEST_DATA, folder);
    ASSERT_OK(context, moecl_model_open(context, path, NULL, &model));
    return model;
}

static size_t layers_of(const moecl_model *model)
{
    moecl_model_info info;
    moecl_model_describe(model, &info);
    return info.layers;
}

static void add_pair(struct gguf *gguf, const char *architecture, const char *key, enum gguf_kind kind, double value)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", architecture, key);
    gguf_pair(gguf, full, kind, value);
}

static void add_list(struct gguf *gguf, const char *architecture, const struct pair *pair, size_t layers)
{
    double *values = make(layers, sizeof *values);
    char full[128];
    values[pair->layers - 1] = pair->value;
    snprintf(full, sizeof full, "%s.%s", architecture, pair->key);
    gguf_pair_array(gguf, full, pair->kind, values, layers);
    free(values);
}

/* The width of experts is said by a key of their own where the fixture has that key, or else a dense width above it
 * that is not theirs. */
static void add_pairs(struct gguf *gguf, const struct fixture *fixture, const moecl_layer_options *options,
                      size_t layers)
{
    const char *architecture = fixture->architecture;
    bool own_width = false;
    gguf_pair_string(gguf, "general.architecture", architecture);
    add_pair(gguf, architecture, "block_count", GGUF_U32, (double)layers);
    add_pair(gguf, architecture, "embedding_length", GGUF_U32, (double)options->hidden);
    add_pair(gguf, architecture, "expert_count", GGUF_U32, (double)options->experts);
    add_pair(gguf, architecture, "expert_used_count", GGUF_U32, (double)options->top_k);
    for (const struct pair *pair = fixture->pairs; pair->key; pair++) {
        if (pair->layers > 0)
            add_list(gguf, architecture, pair, layers);
        else
            add_pair(gguf, architecture, pair->key, pair->kind, pair->value);
        own_width = own_width || strcmp(pair->key, "expert_feed_forward_length") == 0;
    }
    add_pair(gguf, architecture, "feed_forward_length", GGUF_U32, (double)options->intermediate * (own_width ? 3 : 1));
}

/* All MoE layers of a folder's model in one file. */
static void add_model(moecl_context *context, moecl_model *model, const struct fixture *fixture, struct gguf *gguf)
{
    const size_t layers = layers_of(model);
    moecl_layer_options options = {0};
    for (size_t layer = 0; layer < layers; layer++) {
        moecl_layer_weights weights;
        if (!moecl_model_is_moe(model, layer))
            continue;
        ASSERT_OK(context, moecl_model_layer_options(model, layer, &options));
        ASSERT_OK(context, moecl_model_weights(model, layer, &weights));
        gguf_layer(gguf, layer, &options, &weights);
        moecl_model_weights_free(&weights);
    }
    add_pairs(gguf, fixture, &options, layers + fixture->past);
}

static moecl_model *open_gguf(moecl_context *context, const char *directory, const char *name)
{
    moecl_model *model = NULL;
    char *path = scratch_path(directory, name);
    ASSERT_OK(context, moecl_model_open(context, path, NULL, &model));
    free(path);
    return model;
}

/* ------------------------------------------------------------------------------------------- what a layer means -- */

/* Members of a layer's options; bytes between members may differ. */
static void assert_same_options(const moecl_layer_options *a, const moecl_layer_options *b)
{
    struct moecl_reading left = {.options = *a}, right = {.options = *b};
    const struct moecl_member *member;
    size_t members = 0;
    for (size_t offset = 0; offset < sizeof left; offset++)
        if ((member = moecl_member_at(offset))) {
            double x = moecl_member_get(member, &left), y = moecl_member_get(member, &right);
            if (strcmp(member->name, "router.scale") == 0 || strcmp(member->name, "shared_scale") == 0) {
                x = x > 0 ? x : 1.0; /* 0 means 1 */
                y = y > 0 ? y : 1.0;
            }
            const bool idle = strcmp(member->name, "router.epsilon") == 0 &&
                              a->router.normalisation == MOECL_NORMALISATION_NONE; /* nothing is divided */
            if (x != y && !idle)
                fail_msg("%s: %g and %g", member->name, x, y);
            members++;
        }
    assert_true(members > 40);
    assert_int_equal(a->weights, b->weights);
}

struct record {
    size_t tokens;
    float *x, *y;
    int32_t *ids;
};

static void *recorded(const struct moecl_tensor_file *file, size_t layer, const char *what, size_t *rows)
{
    char name[64];
    snprintf(name, sizeof name, "layer%zu.%s", layer, what);
    const struct moecl_tensor *tensor = moecl_tensor_file_find(file, name);
    assert_non_null(tensor);
    *rows = tensor->shape[0];
    void *copy = make(tensor->size, 1);
    memcpy(copy, tensor->data, tensor->size);
    return copy;
}

static struct record record_read(const char *folder, size_t layer)
{
    struct moecl_error error = {.sentence = ""};
    struct moecl_tensor_file file;
    struct record record;
    char path[1024];
    snprintf(path, sizeof path, "%s/golden/%s/io.safetensors", MOECL_TEST_DATA, folder);
    assert_ok(moecl_safetensors_open(&error, path, &file), path, error.sentence, __FILE__, __LINE__);
    record.x = recorded(&file, layer, "x", &record.tokens);
    record.y = recorded(&file, layer, "y", &record.tokens);
    record.ids = recorded(&file, layer, "ids", &record.tokens);
    moecl_tensor_file_close(&file);
    return record;
}

static int compare_ids(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Each token's experts, in whatever order, and y. */
static void assert_recorded(const struct record *record, const moecl_layer_options *options, int32_t *ids,
                            const double *y, double tolerance)
{
    const size_t top_k = options->top_k, count = record->tokens * options->hidden;
    int32_t *expected_ids = make(record->tokens * top_k, sizeof *expected_ids);
    memcpy(expected_ids, record->ids, record->tokens * top_k * sizeof *expected_ids);
    for (size_t token = 0; token < record->tokens; token++) {
        qsort(ids + token * top_k, top_k, sizeof *ids, compare_ids);
        qsort(expected_ids + token * top_k, top_k, sizeof *ids, compare_ids);
    }
    assert_memory_equal(ids, expected_ids, record->tokens * top_k * sizeof *ids);
    double *expected = to_doubles(record->y, MOECL_F32, count);
    ASSERT_CLOSE(y, expected, count, tolerance);
    free(expected);
    free(expected_ids);
}

static void check_reference(moecl_context *context, moecl_model *model, size_t layer, const struct record *record)
{
    moecl_layer_options options;
    moecl_layer_weights weights;
    ASSERT_OK(context, moecl_model_layer_options(model, layer, &options));
    ASSERT_OK(context, moecl_model_weights(model, layer, &weights));
    int32_t *ids = make(record->tokens * options.top_k, sizeof *ids);
    double *y = make(record->tokens * options.hidden, sizeof *y);
    const moecl_reference_call call = {
        .options = &options, .weights = &weights, .tokens = record->tokens, .x = record->x, .ids = ids, .y = y};
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    assert_recorded(record, &options, ids, y, 1e-5);
    free(ids);
    free(y);
    moecl_model_weights_free(&weights);
}

static void check_device(moecl_context *context, moecl_model *model, size_t number, const struct record *record)
{
    moecl_layer_options options;
    moecl_layer *layer = NULL;
    ASSERT_OK(context, moecl_model_layer_options(model, number, &options));
    ASSERT_OK(context, moecl_layer_load(model, number, &options, &layer));
    const size_t outputs = record->tokens * options.hidden, choices = record->tokens * options.top_k;
    struct array x = array_of(context, MOECL_F32, record->x, outputs);
    struct array y = array_make(context, outputs * sizeof(float), NULL);
    struct array ids = array_make(context, choices * sizeof(int32_t), NULL);
    struct array weights = array_make(context, choices * sizeof(float), NULL);
    const moecl_forward forward = {
        .tokens = record->tokens, .x = x.buffer, .y = y.buffer, .routing = {ids.buffer, weights.buffer}};
    ASSERT_OK(context, moecl_layer_forward(layer, &forward, 0, NULL, NULL));
    ASSERT_OK(context, moecl_layer_check(layer));
    int32_t *got_ids = array_bytes(context, ids);
    double *got = array_doubles(context, y, MOECL_F32);
    assert_recorded(record, &options, got_ids, got, 1e-4);
    free(got_ids);
    free(got);
    array_release(&x);
    array_release(&y);
    array_release(&ids);
    array_release(&weights);
    moecl_layer_destroy(layer);
}

/* The folder's layers in a GGUF file: the same options, and by `check` the same results. */
static void check_fixture(moecl_context *context, const struct fixture *fixture,
                          void (*check)(moecl_context *, moecl_model *, size_t, const struct record *))
{
    char *directory = scratch_make();
    struct gguf gguf = {.version = 0};
    moecl_model *folder = open_folder(context, fixture->folder);
    size_t checked = 0;

    add_model(context, folder, fixture, &gguf);
    gguf_finish_file(&gguf, directory, "model.gguf");
    moecl_model *model = open_gguf(context, directory, "model.gguf");
    moecl_model_info info;
    moecl_model_describe(model, &info);
    assert_string_equal(info.model_type, fixture->architecture);
    assert_int_equal(info.layers, layers_of(folder) + fixture->past);
    for (size_t layer = 0; layer < info.layers; layer++) {
        moecl_layer_options options, expected;
        assert_int_equal(moecl_model_is_moe(model, layer), moecl_model_is_moe(folder, layer));
        if (!moecl_model_is_moe(model, layer))
            continue;
        ASSERT_OK(context, moecl_model_layer_options(model, layer, &options));
        ASSERT_OK(context, moecl_model_layer_options(folder, layer, &expected));
        assert_same_options(&options, &expected);
        struct record record = record_read(fixture->folder, layer);
        check(context, model, layer, &record);
        free(record.x);
        free(record.y);
        free(record.ids);
        checked++;
    }
    assert_true(checked > 0);
    moecl_model_close(model);
    moecl_model_close(folder);
    scratch_remove(directory);
}

static void means_what_the_folder_does(void **state)
{
    moecl_context *context = *state;
    for (size_t i = 0; i < FIXTURES; i++) {
        print_message("           %s as %s\n", fixtures[i].folder, fixtures[i].architecture);
        check_fixture(context, &fixtures[i], check_reference);
    }
}

static void computes_on_the_device(void **state)
{
    moecl_context *context = *state;
    for (size_t i = 0; i < FIXTURES; i += small_sizes() ? 7 : 1)
        check_fixture(context, &fixtures[i], check_device);
}

/* ------------------------------------------------------------------------------------------------------ shards -- */

static const struct fixture *fixture_of(const char *folder)
{
    for (size_t i = 0; i < FIXTURES; i++)
        if (strcmp(fixtures[i].folder, folder) == 0)
            return &fixtures[i];
    fail_msg("no fixture %s", folder);
    return NULL;
}

/* Three shards: pairs alone, a layer's tensors, and one more that nobody asks for. */
static void write_shards(moecl_context *context, const char *directory, size_t tensors)
{
    static const float value = 1;
    static const size_t one[] = {1};
    const struct fixture *fixture = fixture_of("mixtral");
    moecl_model *folder = open_folder(context, fixture->folder);
    struct gguf shards[3] = {{.version = 0}, {.version = 0}, {.version = 0}};
    moecl_layer_options options;
    add_model(context, folder, fixture, &shards[1]);
    ASSERT_OK(context, moecl_model_layer_options(folder, 0, &options));
    shards[1].pair_count = shards[1].pairs.size = 0; /* that is what the first has */
    add_pairs(&shards[0], fixture, &options, 1);
    gguf_tensor(&shards[2], "other", GGUF_TYPE_F32, 1, one, &value, sizeof value);
    for (size_t i = 0; i < 3; i++) {
        char name[64];
        gguf_pair(&shards[i], "split.no", GGUF_U16, (double)i);
        gguf_pair(&shards[i], "split.count", GGUF_U16, 3);
        gguf_pair(&shards[i], "split.tensors.count", GGUF_I32, (double)tensors);
        snprintf(name, sizeof name, "m-%05zu-of-00003.gguf", i + 1);
        gguf_finish_file(&shards[i], directory, name);
    }
    moecl_model_close(folder);
}

/* Opens a file, asks for layer 0, and looks at the status and for words in the sentence. */
static void assert_refused(moecl_context *context, const char *directory, const char *name, moecl_status status,
                           const char *words)
{
    moecl_model *model = NULL;
    moecl_layer_options options;
    char *path = scratch_path(directory, name);
    moecl_status got = moecl_model_open(context, path, NULL, &model);
    assert_true((got == MOECL_OK) == (model != NULL));
    if (got == MOECL_OK)
        got = moecl_model_layer_options(model, 0, &options);
    if (got != status || !strstr(moecl_context_error(context), words))
        fail_msg("status %d, expected %d: \"%s\" does not say \"%s\"", (int)got, (int)status,
                 moecl_context_error(context), words);
    moecl_model_close(model);
    free(path);
}

static void move(const char *directory, const char *from, const char *to)
{
    char *old = scratch_path(directory, from), *new = scratch_path(directory, to);
    assert_int_equal(rename(old, new), 0);
    free(old);
    free(new);
}

static void opens_shards(void **state)
{
    moecl_context *context = *state;
    char *directory = scratch_make();
    write_shards(context, directory, 5);
    moecl_model *model = open_gguf(context, directory, "m-00001-of-00003.gguf");
    struct record record = record_read("mixtral", 0);
    check_reference(context, model, 0, &record);
    free(record.x);
    free(record.y);
    free(record.ids);
    moecl_model_close(model);

    assert_refused(context, directory, "m-00002-of-00003.gguf", MOECL_BAD_FILE, "not the first of its 3 shards");
    move(directory, "m-00001-of-00003.gguf", "m.gguf");
    assert_refused(context, directory, "m.gguf", MOECL_BAD_FILE, "not named as the first of them");
    move(directory, "m.gguf", "m-00001-of-00003.gguf");
    move(directory, "m-00002-of-00003.gguf", "kept");
    assert_refused(context, directory, "m-00001-of-00003.gguf", MOECL_FILE_ERROR, "m-00002-of-00003.gguf");
    move(directory, "m-00003-of-00003.gguf", "m-00002-of-00003.gguf");
    assert_refused(context, directory, "m-00001-of-00003.gguf", MOECL_BAD_FILE, "it is not shard 1 of 3");
    write_shards(context, directory, 6);
    assert_refused(context, directory, "m-00001-of-00003.gguf", MOECL_BAD_FILE, "split.tensors.count");
    scratch_remove(directory);
}

/* ------------------------------------------------------------------------------------------- what is refused -- */

/* Writes mixtral's layer with `spoil` done to the file's parts, and looks how it is refused. */
static void refuse(moecl_context *context, void (*spoil)(struct gguf *gguf), moecl_status status, const char *words)
{
    char *directory = scratch_make();
    struct gguf gguf = {.version = 0};
    moecl_model *folder = open_folder(context, "mixtral");
    add_model(context, folder, fixture_of("mixtral"), &gguf);
    spoil(&gguf);
    gguf_finish_file(&gguf, directory, "m.gguf");
    moecl_model_close(folder);
    assert_refused(context, directory, "m.gguf", status, words);
    scratch_remove(directory);
}

/* Where `text` is in a part. */
static unsigned char *find(const struct gguf_part *part, const char *text)
{
    for (size_t i = 0; i + strlen(text) <= part->size; i++)
        if (memcmp(part->bytes + i, text, strlen(text)) == 0)
            return part->bytes + i;
    fail_msg("no \"%s\"", text);
    return NULL;
}

static void overwrite(const struct gguf_part *part, const char *text, const char *with)
{
    memcpy(find(part, text), with, strlen(with));
}

/* The type of the down projections, whose entry ends with it and the offset. */
static void set_type(struct gguf *gguf, uint32_t type)
{
    memcpy(find(&gguf->tensors, "ffn_down_exps.weight") + strlen("ffn_down_exps.weight") + 4 + 3 * 8, &type,
           sizeof type);
}

static void quantise(struct gguf *gguf)
{
    set_type(gguf, GGUF_TYPE_Q4_0);
}
static void make_integers(struct gguf *gguf)
{
    set_type(gguf, 26);
}
static void make_unknown(struct gguf *gguf)
{
    set_type(gguf, 77);
}
static void lose_a_tensor(struct gguf *gguf)
{
    overwrite(&gguf->tensors, "ffn_up_exps", "ffn_up_exqs");
}
static void lose_a_size(struct gguf *gguf)
{
    overwrite(&gguf->pairs, "llama.embedding_length", "llama.embedding_lengt_");
}
static void lose_the_width(struct gguf *gguf)
{
    overwrite(&gguf->pairs, "llama.feed_forward_length", "llama.feed_forward_lengt_");
}
static void lose_the_architecture(struct gguf *gguf)
{
    overwrite(&gguf->pairs, "general.architecture", "general.architect___");
}
static void rename_the_architecture(struct gguf *gguf)
{
    memcpy(find(&gguf->pairs, "architecture") + 12 + 4 + 8, "lama\x1b", 5);
}
static void have_many_layers(struct gguf *gguf)
{
    memset(find(&gguf->pairs, "llama.block_count") + strlen("llama.block_count") + 4, 0xff, 4);
}
static void have_other_sizes(struct gguf *gguf)
{
    *(find(&gguf->pairs, "llama.embedding_length") + strlen("llama.embedding_length") + 4) ^= 1;
}
static void have_an_unknown_score(struct gguf *gguf)
{
    gguf_pair(gguf, "llama.expert_gating_func", GGUF_U32, 9);
}
static void have_no_experts(struct gguf *gguf)
{
    overwrite(&gguf->pairs, "llama.expert_count", "llama.expert_cound");
}

static void refuses_bad_models(void **state)
{
    moecl_context *context = *state;
    refuse(context, quantise, MOECL_UNSUPPORTED, "\"blk.0.ffn_down_exps.weight\" is quantised (Q4_0)");
    refuse(context, make_integers, MOECL_BAD_FILE, "dtype \"I32\"");
    refuse(context, make_unknown, MOECL_BAD_FILE, "dtype \"type 77\"");
    refuse(context, lose_a_tensor, MOECL_BAD_FILE, "\"blk.0.ffn_up_exps.weight\" is missing");
    refuse(context, lose_a_size, MOECL_BAD_FILE, "\"embedding_length\" is missing");
    refuse(context, lose_the_width, MOECL_BAD_FILE, "\"intermediate\"");
    refuse(context, lose_the_architecture, MOECL_BAD_FILE, "\"general.architecture\" is nothing");
    refuse(context, rename_the_architecture, MOECL_UNKNOWN_MODEL, "\"lama?\"");
    refuse(context, have_many_layers, MOECL_BAD_FILE, "\"block_count\"");
    refuse(context, have_other_sizes, MOECL_BAD_FILE, "has the shape");
    refuse(context, have_an_unknown_score, MOECL_UNSUPPORTED, "\"9\" of \"expert_gating_func\"");
    refuse(context, have_no_experts, MOECL_INVALID_ARGUMENT, "it has no MoE layers");
}

/* Each allocation fails once: an error every time, and nothing is left. */
static void survives_lack_of_memory(void **state)
{
    moecl_context *context = *state;
    char *directory = scratch_make(), *path = scratch_path(directory, "m-00001-of-00003.gguf");
    size_t n = 0;
    write_shards(context, directory, 5);
    do {
        moecl_model *model = NULL;
        moecl_layer_options options;
        interception_start(++n);
        moecl_status status = moecl_model_open(context, path, NULL, &model);
        if (status == MOECL_OK)
            status = moecl_model_layer_options(model, 0, &options);
        moecl_model_close(model);
        interception_stop();
        assert_int_equal(status, interception.failed ? MOECL_OUT_OF_HOST_MEMORY : MOECL_OK);
        assert_int_equal(interception.memory, 0);
    } while (interception.failed);
    assert_true(n > 15);
    free(path);
    scratch_remove(directory);
}

/* A family described in JSON reads the file's own keys: an architecture that is in no table. */
static void takes_a_description(void **state)
{
    static const char description[] =
        "{\"model_types\": \"own\", \"prefixes\": \"blk.@.\", \"options\": {\"router.normalisation\": \"sum\"},"
        " \"needs\": {\"layers\": \"block_count\", \"hidden\": \"embedding_length\", \"experts\": \"expert_count\","
        " \"top_k\": \"expert_used_count\", \"intermediate\": \"feed_forward_length\"},"
        " \"tensors\": {\"router\": \"ffn_gate_inp.weight\", \"gate\": \"ffn_gate_exps.weight\","
        " \"up\": \"ffn_up_exps.weight\", \"down\": \"ffn_down_exps.weight\"}}";
    const struct fixture own = {.folder = "mixtral", .architecture = "own"};
    moecl_context *context = *state;
    char *directory = scratch_make(), *path = scratch_path(directory, "m.gguf");
    char *family = scratch_path(directory, "own.json");
    struct gguf gguf = {.version = 0};
    moecl_model *folder = open_folder(context, own.folder), *model = NULL;
    struct record record = record_read(own.folder, 0);

    add_model(context, folder, &own, &gguf);
    gguf_finish_file(&gguf, directory, "m.gguf");
    scratch_write(directory, "own.json", description, strlen(description));
    assert_int_equal(moecl_model_open(context, path, NULL, &model), MOECL_UNKNOWN_MODEL);
    ASSERT_OK(context, moecl_model_open(context, path, family, &model));
    check_reference(context, model, 0, &record);
    free(record.x);
    free(record.y);
    free(record.ids);
    moecl_model_close(model);
    moecl_model_close(folder);
    free(path);
    free(family);
    scratch_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(means_what_the_folder_does),
        cmocka_unit_test(computes_on_the_device),
        cmocka_unit_test(opens_shards),
        cmocka_unit_test(refuses_bad_models),
        cmocka_unit_test(survives_lack_of_memory),
        cmocka_unit_test(takes_a_description),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
