/* SPDX-License-Identifier: Apache-2.0 */
/* test_bad_model.c - each way in which a checkpoint directory can be wrong: the status and the sentence it gets. */
#include "check.h"

#include <moecl/model.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint.h"
#include "interception.h"
#include "scratch.h"

static const char config[] = "config.json";
static const char single[] = "model.safetensors";
static const char first_shard[] = "model-00001-of-00002.safetensors";
static const char second_shard[] = "model-00002-of-00002.safetensors";
static const char index_file[] = "model.safetensors.index.json";

/* What is done to a copy of a checkpoint. `name` is a file of it. */
enum deed {
    EDIT, /* the first `from` becomes `to` */
    DELETE,
    EMPTY,
    CUT,       /* its last byte */
    APPEND,    /* a byte */
    DIRECTORY, /* a directory takes its place */
    PIPE       /* so does a pipe */
};

struct spoiling {
    enum deed deed;
    const char *name, *from, *to;
    moecl_status status;
    const char *sentence;
};

static void spoil(const char *directory, const struct spoiling *spoiling)
{
    size_t size;
    char *path = scratch_path(directory, spoiling->name);
    char *bytes = scratch_read(directory, spoiling->name, &size);
    if (spoiling->deed == EDIT)
        checkpoint_edit(directory, spoiling->name, spoiling->from, spoiling->to, false);
    else if (spoiling->deed == EMPTY)
        scratch_write(directory, spoiling->name, "", 0);
    else if (spoiling->deed == CUT)
        scratch_write(directory, spoiling->name, bytes, size - 1);
    else if (spoiling->deed == APPEND)
        scratch_write(directory, spoiling->name, bytes, size + 1); /* a NUL is behind them */
    else
        assert_int_equal(remove(path), 0);
    if (spoiling->deed == DIRECTORY)
        assert_int_equal(mkdir(path, 0700), 0);
    if (spoiling->deed == PIPE)
        assert_int_equal(mkfifo(path, 0600), 0);
    free(bytes);
    free(path);
}

/* Opens the directory and asks for layer 0; whatever fails, fails with the status. */
static moecl_status use(moecl_context *context, const char *directory)
{
    moecl_model *model;
    moecl_layer_options options;
    moecl_status status = moecl_model_open(context, directory, NULL, &model);
    if (status != MOECL_OK) {
        assert_null(model);
        return status;
    }
    status = moecl_model_layer_options(model, 0, &options);
    moecl_model_close(model);
    return status;
}

static void assert_spoilings(const char *original, const struct spoiling *spoilings, size_t count, size_t shards)
{
    moecl_context *context;
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    for (size_t i = 0; i < count; i++) {
        char *directory = checkpoint_copy(original);
        if (shards > 0)
            checkpoint_split(directory, shards);
        assert_int_equal(use(context, directory), MOECL_OK);
        spoil(directory, &spoilings[i]);
        moecl_status status = use(context, directory);
        const char *sentence = moecl_context_error(context);
        if (status != spoilings[i].status || !strstr(sentence, spoilings[i].sentence))
            print_error("case %zu, %s: %s: \"%s\"\n", i, spoilings[i].from ? spoilings[i].from : "",
                        moecl_status_name(status), sentence);
        assert_int_equal(status, spoilings[i].status);
        assert_non_null(strstr(sentence, spoilings[i].sentence));
        assert_non_null(strstr(sentence, directory)); /* says where */
        scratch_remove(directory);
    }
    moecl_context_destroy(context);
}

static void test_config(void **state)
{
    (void)state;
    static const struct spoiling spoilings[] = {
        {DELETE, config, NULL, NULL, MOECL_FILE_ERROR, "config.json: No such file"},
        {DIRECTORY, config, NULL, NULL, MOECL_FILE_ERROR, "config.json: Is a directory"},
        {PIPE, config, NULL, NULL, MOECL_FILE_ERROR, "config.json: it is not a regular file"},
        {EMPTY, config, NULL, NULL, MOECL_BAD_FILE, "config.json: invalid JSON"},
        {CUT, config, NULL, NULL, MOECL_BAD_FILE, "config.json: invalid JSON"},
        {APPEND, config, NULL, NULL, MOECL_BAD_FILE, "config.json: invalid JSON"},
        {EDIT, config, "\"qwen2_moe\"", "\"unheard_of\"", MOECL_UNKNOWN_MODEL, "\"unheard_of\""},
        {EDIT, config, "\"num_experts_per_tok\": 4", "\"num_experts_per_tok\": 9", MOECL_BAD_FILE, "9 experts"},
        {EDIT, config, "\"num_experts\": 8", "\"num_experts\": 2000", MOECL_UNSUPPORTED, "2000 experts"},
        {EDIT, config, "\"num_experts\"", "\"number_of_experts\"", MOECL_BAD_FILE, "\"num_experts\" is missing"},
        {EDIT, config, "\"use_cache\"", "\"vocab_size\"", MOECL_BAD_FILE, "duplicate"},
        {EDIT, config, "\"silu\"", "\"mish\"", MOECL_UNSUPPORTED, "\"mish\""},
        {EDIT, config, "\"num_experts\": 8", "\"num_experts\": 9", MOECL_BAD_FILE,
         "\"model.layers.0.mlp.gate.weight\" has the shape [8, 64], expected [9, 64]"},
    };
    assert_spoilings(MOECL_TEST_DATA "/golden/qwen2_moe", spoilings, sizeof spoilings / sizeof spoilings[0], 0);
}

static void test_single_file(void **state)
{
    (void)state;
    static const struct spoiling spoilings[] = {
        {DELETE, single, NULL, NULL, MOECL_FILE_ERROR, "holds neither model.safetensors nor"},
        {DIRECTORY, single, NULL, NULL, MOECL_FILE_ERROR, "model.safetensors: Is a directory"},
        {PIPE, single, NULL, NULL, MOECL_FILE_ERROR, "not a regular file"},
        {EMPTY, single, NULL, NULL, MOECL_BAD_FILE, "0 bytes are too few"},
        {CUT, single, NULL, NULL, MOECL_BAD_FILE,
         "\"model.layers.0.mlp.shared_expert_gate.weight\": its data_offsets 247808 to 248064 do not lie"},
        {APPEND, single, NULL, NULL, MOECL_BAD_FILE, "1 bytes behind the last tensor"},
        {EDIT, single, "{\"__m", "{{__m", MOECL_BAD_FILE, "invalid JSON"},
        {EDIT, single, "experts.1.down_proj", "experts.0.down_proj", MOECL_BAD_FILE, "duplicate"},
        {EDIT, single, "[8192,16384]", "[8191,16383]", MOECL_BAD_FILE,
         "\"model.layers.0.mlp.experts.0.gate_proj.weight\": it overlaps"},
        {EDIT, single, "[8192,16384]", "[8193,16385]", MOECL_BAD_FILE,
         "\"model.layers.0.mlp.experts.0.gate_proj.weight\": there is a gap"},
        {EDIT, single, "248064]", "948064]", MOECL_BAD_FILE, "do not lie in the file's 248064 bytes"},
        {EDIT, single, "[8192,16384]", "[16384,8192]", MOECL_BAD_FILE, "16384 to 8192 do not lie"},
        {EDIT, single, "experts.3.up_proj", "experts.3.xx_proj", MOECL_BAD_FILE,
         "tensor \"model.layers.0.mlp.experts.3.up_proj.weight\" is missing"},
        {EDIT, single, "mlp.gate.weight", "mlp.gait.weight", MOECL_BAD_FILE,
         "tensor \"model.layers.0.mlp.gate.weight\" is missing"},
        {EDIT, single, "shared_expert_gate.weight", "shared_expert_gait.weight", MOECL_BAD_FILE,
         "shared_expert_gate.weight\" is missing"},
        {EDIT, single, "[64,32]", "[32,64]", MOECL_BAD_FILE,
         "experts.0.down_proj.weight\" has the shape [32, 64], expected [64, 32]"},
        {EDIT, single, "[64,32]", "[ 2048]", MOECL_BAD_FILE, "has the shape [2048], expected [64, 32]"},
        {EDIT, single, "[64,32]", "[64,33]", MOECL_BAD_FILE, "2112 elements of F32 do not fit its 8192 bytes"},
        {EDIT, single, "\"F32\"", "\"I32\"", MOECL_BAD_FILE,
         "experts.0.down_proj.weight\" has the dtype \"I32\", expected F32, F16 or BF16"},
        {EDIT, single, "\"F32\"", "\"Q32\"", MOECL_BAD_FILE, "has the dtype \"Q32\""},
        {EDIT, single, "\"F32\"", "\"F16\"", MOECL_BAD_FILE, "2048 elements of F16 do not fit its 8192 bytes"},
    };
    assert_spoilings(MOECL_TEST_DATA "/golden/qwen2_moe", spoilings, sizeof spoilings / sizeof spoilings[0], 0);
}

static void test_shards(void **state)
{
    (void)state;
    static const struct spoiling spoilings[] = {
        {DELETE, first_shard, NULL, NULL, MOECL_FILE_ERROR, "model-00001-of-00002.safetensors: No such file"},
        {DELETE, second_shard, NULL, NULL, MOECL_FILE_ERROR, "model-00002-of-00002.safetensors: No such file"},
        {DIRECTORY, second_shard, NULL, NULL, MOECL_FILE_ERROR, "model-00002-of-00002.safetensors: Is a directory"},
        {CUT, second_shard, NULL, NULL, MOECL_BAD_FILE, "model-00002-of-00002.safetensors"},
        {DELETE, index_file, NULL, NULL, MOECL_FILE_ERROR, "holds neither"},
        {EMPTY, index_file, NULL, NULL, MOECL_BAD_FILE, "index.json: invalid JSON"},
        {CUT, index_file, NULL, NULL, MOECL_BAD_FILE, "index.json: invalid JSON"},
        {EDIT, index_file, "experts.1.down_proj", "experts.0.down_proj", MOECL_BAD_FILE, "duplicate"},
        {EDIT, index_file, "\"weight_map\"", "\"weight_list\"", MOECL_BAD_FILE, "\"weight_map\" is nothing"},
        {EDIT, index_file, "\"weight_map\": {", "\"weight_map\": 1, \"x\": {", MOECL_BAD_FILE,
         "\"weight_map\" is an integer"},
        {EDIT, index_file, "\"model-00002-of-00002.safetensors\"", "7", MOECL_BAD_FILE, "is an integer"},
        {EDIT, index_file, "\"model-00002-of-00002.safetensors\"", "\"../x.safetensors\"", MOECL_BAD_FILE,
         "the shard \"../x.safetensors\", which is not the plain name"},
        {EDIT, index_file, "\"model-00002-of-00002.safetensors\"", "\"/dev/zero\"", MOECL_BAD_FILE, "\"/dev/zero\""},
        {EDIT, index_file, "\"model-00002-of-00002.safetensors\"", "\"..\"", MOECL_BAD_FILE, "\"..\""},
        {EDIT, index_file, "\"model-00002-of-00002.safetensors\"", "\"\"", MOECL_BAD_FILE, "\"\""},
        {EDIT, index_file, "\"model-00002-of-00002.safetensors\"", "\"model-00001-of-00002.safetensors\"",
         MOECL_BAD_FILE, "is not in its shard, \"model-00001-of-00002.safetensors\""},
        {EDIT, index_file, "experts.3.up_proj", "experts.9.up_proj", MOECL_BAD_FILE,
         "\"model.layers.0.mlp.experts.9.up_proj.weight\" is not in its shard"},
        {EDIT, second_shard, "up_proj", "xx_proj", MOECL_BAD_FILE, "is not in its shard"},
    };
    assert_spoilings(MOECL_TEST_DATA "/golden/qwen2_moe", spoilings, sizeof spoilings / sizeof spoilings[0], 2);
}

/* A tensor that no shard is said to have is missing, though a shard has it. */
static void test_unlisted_tensor(void **state)
{
    (void)state;
    moecl_context *context;
    char *directory = checkpoint_copy(MOECL_TEST_DATA "/golden/olmoe");
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    checkpoint_split(directory, 1);
    checkpoint_edit(directory, index_file, "\"model.layers.0.mlp.gate.weight\": \"model-00001-of-00001.safetensors\"",
                    "\"model.layers.0.mlp.experts.7.up_proj.weight\": \"model-00001-of-00001.safetensors\"", false);
    checkpoint_edit(directory, index_file,
                    "\"model.layers.0.mlp.experts.7.up_proj.weight\": \"model-00001-of-00001.safetensors\",", "",
                    false);
    assert_int_equal(use(context, directory), MOECL_BAD_FILE);
    assert_non_null(strstr(moecl_context_error(context), "\"model.layers.0.mlp.gate.weight\" is missing"));
    scratch_remove(directory);
    moecl_context_destroy(context);
}

/* Tensors of all experts in one, biases, tables. */
static void test_layouts(void **state)
{
    (void)state;
    static const struct spoiling fused[] = {
        {EDIT, single, "[8,32,64]", "[4,64,64]", MOECL_BAD_FILE,
         "experts.down_proj\" has the shape [4, 64, 64], expected [8, 64, 32] or [8, 32, 64]"},
        {EDIT, single, "experts.gate_up_proj\"", "experts.gate_up_prox\"", MOECL_BAD_FILE,
         "experts.gate_up_proj\" is missing"},
        {EDIT, single, "[8,64]", "[64,8]", MOECL_BAD_FILE, "down_proj_bias\" has the shape [64, 8], expected [8, 64]"},
        {EDIT, single, "down_proj_bias", "down_proj_bios", MOECL_BAD_FILE, "down_proj_bias\" is missing"},
        {EDIT, single, "router.bias", "router.bios", MOECL_BAD_FILE, "router.bias\" is missing"},
    };
    static const struct spoiling table[] = {
        {EDIT, single, "[128,3]", "[3,128]", MOECL_BAD_FILE, "has the shape [3, 128], expected [tokens, 3]"},
        {EDIT, single, "\"I64\"", "\"F64\"", MOECL_BAD_FILE, "has the dtype \"F64\", expected I64 or I32"},
        {EDIT, single, "tid2eid", "tid2eyd", MOECL_BAD_FILE, "gate.tid2eid\" is missing"},
    };
    static const struct spoiling flat[] = {
        {EDIT, single, "[256,64]", "[64,256]", MOECL_BAD_FILE, "[64, 256], expected [8, "},
    };
    assert_spoilings(MOECL_TEST_DATA "/golden/gpt_oss", fused, sizeof fused / sizeof fused[0], 0);
    assert_spoilings(MOECL_TEST_DATA "/golden/deepseek_v4", table, sizeof table / sizeof table[0], 0);
    assert_spoilings(MOECL_TEST_DATA "/golden/dbrx", flat, sizeof flat / sizeof flat[0], 0);
}

/* An id in a table that no expert has. */
static void test_table_entries(void **state)
{
    (void)state;
    static const int64_t wrong[] = {8, -1, INT64_MAX, INT64_MIN, (int64_t)1 << 32};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char *directory = checkpoint_copy(MOECL_TEST_DATA "/golden/deepseek_v4");
        struct tensors tensors = tensors_read(directory, single);
        json_int_t begin, end;
        size_t size;
        moecl_context *context;
        char *bytes = scratch_read(directory, single, &size);
        const json_t *entry = json_object_get(tensors.header, "model.layers.0.ffn.gate.tid2eid");
        assert_int_equal(json_unpack((json_t *)(uintptr_t)entry, "{s:[I,I]}", "data_offsets", &begin, &end), 0);
        memcpy(bytes + (tensors.data - tensors.bytes) + begin + (json_int_t)sizeof wrong[i] * 5, &wrong[i],
               sizeof wrong[i]);
        scratch_write(directory, single, bytes, size);
        assert_int_equal(moecl_context_create(&context), MOECL_OK);
        assert_int_equal(use(context, directory), MOECL_BAD_FILE);
        assert_non_null(strstr(moecl_context_error(context), "gate.tid2eid\": entry 5 is "));
        moecl_context_destroy(context);
        tensors_free(&tensors);
        free(bytes);
        scratch_remove(directory);
    }
}

static void test_directory(void **state)
{
    (void)state;
    moecl_context *context;
    char *directory = scratch_make();
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    assert_int_equal(use(context, directory), MOECL_FILE_ERROR);
    assert_non_null(strstr(moecl_context_error(context), "config.json: No such file"));
    assert_int_equal(use(context, "/nowhere/at/all"), MOECL_FILE_ERROR);
    assert_non_null(strstr(moecl_context_error(context), "/nowhere/at/all/config.json"));
    /* a file must be a GGUF file */
    assert_int_equal(use(context, MOECL_TEST_DATA "/golden/olmoe/config.json"), MOECL_BAD_FILE);
    assert_non_null(strstr(moecl_context_error(context), "no GGUF file"));
    scratch_remove(directory);
    moecl_context_destroy(context);
}

/* Each allocation fails once: an error every time, and nothing is left. */
static void test_out_of_memory(void **state)
{
    (void)state;
    char *directory = checkpoint_copy(MOECL_TEST_DATA "/golden/qwen2_moe");
    size_t n = 0;
    checkpoint_split(directory, 2);
    do {
        moecl_context *context;
        assert_int_equal(moecl_context_create(&context), MOECL_OK);
        interception_start(++n);
        moecl_status status = use(context, directory);
        interception_stop();
        assert_int_equal(status, interception.failed ? MOECL_OUT_OF_HOST_MEMORY : MOECL_OK);
        if (interception.failed)
            assert_non_null(strstr(moecl_context_error(context), "no memory"));
        assert_int_equal(interception.memory, 0);
        moecl_context_destroy(context);
    } while (interception.failed);
    assert_true(n > 10);
    scratch_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),    cmocka_unit_test(test_single_file),
        cmocka_unit_test(test_shards),    cmocka_unit_test(test_unlisted_tensor),
        cmocka_unit_test(test_directory), cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_layouts),   cmocka_unit_test(test_table_entries),
    };
    return cmocka_run_group_tests_name("bad_model", tests, NULL, NULL);
}
