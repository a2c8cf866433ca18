/* SPDX-License-Identifier: Apache-2.0 */
/* test_family.c - config.json as the families' rows read it, and the tensor names they give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "model/config.h"

/* A config that is right, of which the cases change something. */
static const char qwen2_moe[] =
    "{\"model_type\":\"qwen2_moe\",\"num_hidden_layers\":8,\"hidden_size\":64,\"num_experts\":16,"
    "\"num_experts_per_tok\":4,\"moe_intermediate_size\":32,\"shared_expert_intermediate_size\":96,"
    "\"intermediate_size\":1000,\"hidden_act\":\"silu\",\"norm_topk_prob\":true}";
static const char olmoe[] = "{\"model_type\":\"olmoe\",\"num_hidden_layers\":8,\"hidden_size\":64,\"num_experts\":16,"
                            "\"num_experts_per_tok\":4,\"intermediate_size\":32}";
static const char qwen3_moe[] =
    "{\"model_type\":\"qwen3_moe\",\"num_hidden_layers\":8,\"hidden_size\":64,\"num_local_experts\":16,"
    "\"num_experts_per_tok\":4,\"moe_intermediate_size\":32,\"intermediate_size\":1000}";
static const char mixtral[] = "{\"model_type\":\"mixtral\",\"num_hidden_layers\":8,\"hidden_size\":64,"
                              "\"num_local_experts\":16,\"num_experts_per_tok\":4,\"intermediate_size\":32}";

static moecl_status read_text(const char *text, struct moecl_error *error, struct moecl_config *config)
{
    *error = (struct moecl_error){.sentence = ""};
    return moecl_config_read(error, "some/config.json", text, strlen(text), NULL, config);
}

/* Reads `base` with the members of the object `change` in place of its own. A member "-" is taken out. */
static moecl_status read_changed(const char *base, const char *change, struct moecl_error *error,
                                 struct moecl_config *config)
{
    json_t *root = json_loads(base, 0, NULL), *members = json_loads(change, 0, NULL);
    assert_non_null(root);
    assert_non_null(members);
    assert_int_equal(json_object_update(root, members), 0);
    const char *key;
    json_t *value;
    json_object_foreach(members, key, value) if (json_is_string(value) && strcmp(json_string_value(value), "-") == 0)
        assert_int_equal(json_object_del(root, key), 0);
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    moecl_status status = read_text(text, error, config);
    free(text);
    json_decref(root);
    json_decref(members);
    return status;
}

static void read_right(const char *base, const char *change, struct moecl_config *config)
{
    struct moecl_error error;
    moecl_status status = read_changed(base, change, &error, config);
    if (status != MOECL_OK)
        print_error("%s: %s\n", change, error.sentence);
    assert_int_equal(status, MOECL_OK);
}

/* --------------------------------------------------------------------------------------------- what is read -- */

static void test_reads_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text;
        size_t shared_intermediate;
        bool normalise;
    } cases[] = {
        {"mixtral", mixtral, 0, true},
        {"qwen2_moe", qwen2_moe, 96, true},
        {"qwen3_moe", qwen3_moe, 0, false},
        {"olmoe", olmoe, 0, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moecl_config config;
        read_right(cases[i].text, "{}", &config);
        assert_string_equal(config.family->model_types[0], cases[i].name);
        assert_string_equal(config.model_type, cases[i].name);
        assert_int_equal(config.layers, 8);
        for (size_t layer = 0; layer < 8; layer++) {
            const moecl_layer_options *options = &config.layer[layer].options;
            assert_true(config.layer[layer].moe);
            assert_int_equal(options->hidden, 64);
            assert_int_equal(options->experts, 16);
            assert_int_equal(options->top_k, 4);
            assert_int_equal(options->intermediate, 32);
            assert_int_equal(options->shared_intermediate, cases[i].shared_intermediate);
            assert_int_equal(options->router.normalisation, cases[i].normalise);
        }
        moecl_config_free(&config);
    }
}

static void test_normalise(void **state)
{
    (void)state;
    static const struct {
        const char *base, *change;
        bool expected;
    } cases[] = {
        {qwen3_moe, "{\"norm_topk_prob\":true}", true},
        {qwen3_moe, "{\"norm_topk_prob\":false}", false},
        {qwen3_moe, "{\"norm_topk_prob\":null}", false},
        {qwen2_moe, "{\"norm_topk_prob\":\"-\"}", false},
        {olmoe, "{\"norm_topk_prob\":true}", true},
        {mixtral, "{\"norm_topk_prob\":false}", true}, /* not a key of Mixtral's, which always normalises */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moecl_config config;
        read_right(cases[i].base, cases[i].change, &config);
        assert_int_equal(config.layer[0].options.router.normalisation,
                         cases[i].expected ? MOECL_NORMALISATION_SUM : MOECL_NORMALISATION_NONE);
        moecl_config_free(&config);
    }
}

static void test_spellings(void **state)
{
    (void)state;
    static const char *const bases[] = {mixtral, qwen2_moe, qwen3_moe, olmoe};
    static const char *const changes[] = {
        "{\"num_experts\":12,\"num_local_experts\":\"-\"}",
        "{\"num_local_experts\":12,\"num_experts\":\"-\"}",
        "{\"num_local_experts\":12,\"num_experts\":12}",
        "{\"num_local_experts\":12,\"num_experts\":null}",
    };
    for (size_t base = 0; base < sizeof bases / sizeof bases[0]; base++)
        for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
            struct moecl_config config;
            read_right(bases[base], changes[i], &config);
            assert_int_equal(config.layer[0].options.experts, 12);
            moecl_config_free(&config);
        }
}

static void test_dense_layers(void **state)
{
    (void)state;
    static const struct {
        const char *base, *change, *layers; /* m: MoE, d: dense */
    } cases[] = {
        {qwen2_moe, "{\"decoder_sparse_step\":1,\"mlp_only_layers\":[]}", "mmmmmmmm"},
        {qwen2_moe, "{\"decoder_sparse_step\":2}", "dmdmdmdm"},
        {qwen2_moe, "{\"decoder_sparse_step\":3,\"mlp_only_layers\":null}", "ddmddmdd"},
        {qwen3_moe, "{\"mlp_only_layers\":[0,7,7,3]}", "dmmdmmmd"},
        {qwen3_moe, "{\"mlp_only_layers\":[1,8,9223372036854775807],\"decoder_sparse_step\":2}", "dddmdmdm"},
        {qwen3_moe, "{\"decoder_sparse_step\":9}", "dddddddd"},
        {mixtral, "{\"mlp_only_layers\":[0],\"decoder_sparse_step\":2}", "mmmmmmmm"}, /* not keys of Mixtral's */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moecl_config config;
        read_right(cases[i].base, cases[i].change, &config);
        for (size_t layer = 0; layer < 8; layer++)
            assert_int_equal(config.layer[layer].moe, cases[i].layers[layer] == 'm');
        moecl_config_free(&config);
    }
}

static void test_activations(void **state)
{
    (void)state;
    static const struct {
        const char *change;
        moecl_activation expected;
    } cases[] = {
        {"{}", MOECL_ACTIVATION_SILU},
        {"{\"hidden_act\":null}", MOECL_ACTIVATION_SILU},
        {"{\"hidden_act\":\"silu\"}", MOECL_ACTIVATION_SILU},
        {"{\"hidden_act\":\"swish\"}", MOECL_ACTIVATION_SILU},
        {"{\"hidden_act\":\"gelu\"}", MOECL_ACTIVATION_GELU},
        {"{\"hidden_act\":\"gelu_new\"}", MOECL_ACTIVATION_GELU_TANH},
        {"{\"hidden_act\":\"gelu_pytorch_tanh\"}", MOECL_ACTIVATION_GELU_TANH},
        {"{\"hidden_act\":\"relu\"}", MOECL_ACTIVATION_RELU},
        {"{\"hidden_act\":\"relu2\"}", MOECL_ACTIVATION_RELU_SQUARED},
        {"{\"hidden_act\":\"linear\"}", MOECL_ACTIVATION_IDENTITY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moecl_config config;
        read_right(qwen2_moe, cases[i].change, &config);
        assert_int_equal(config.layer[0].options.function.activation, cases[i].expected);
        assert_int_equal(config.layer[0].options.shared_function.activation, cases[i].expected);
        moecl_config_free(&config);
    }
}

static void test_tensor_names(void **state)
{
    (void)state;
    static const struct {
        const char *base;
        enum moecl_role role;
        const char *first, *second;
    } cases[] = {
        {mixtral, MOECL_ROLE_ROUTER, "model.layers.5.block_sparse_moe.gate.weight",
         "layers.5.block_sparse_moe.gate.weight"},
        {mixtral, MOECL_ROLE_GATE, "model.layers.5.block_sparse_moe.experts.11.w1.weight",
         "layers.5.block_sparse_moe.experts.11.w1.weight"},
        {mixtral, MOECL_ROLE_UP, "model.layers.5.block_sparse_moe.experts.11.w3.weight",
         "layers.5.block_sparse_moe.experts.11.w3.weight"},
        {mixtral, MOECL_ROLE_DOWN, "model.layers.5.block_sparse_moe.experts.11.w2.weight",
         "layers.5.block_sparse_moe.experts.11.w2.weight"},
        {mixtral, MOECL_ROLE_SHARED_UP, NULL, NULL},
        {qwen3_moe, MOECL_ROLE_DOWN, "model.layers.5.mlp.experts.11.down_proj.weight",
         "layers.5.mlp.experts.11.down_proj.weight"},
        {qwen2_moe, MOECL_ROLE_SHARED_SCALE, "model.layers.5.mlp.shared_expert_gate.weight",
         "layers.5.mlp.shared_expert_gate.weight"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moecl_config config;
        char name[100];
        const char *const expected[2] = {cases[i].first, cases[i].second};
        read_right(cases[i].base, "{}", &config);
        for (size_t attempt = 0; attempt < 2; attempt++) {
            bool found = moecl_family_tensor_name(config.family, cases[i].role, 5, 11, attempt, name, sizeof name);
            assert_int_equal(found, expected[attempt] != NULL);
            if (found)
                assert_string_equal(name, expected[attempt]);
        }
        size_t attempts = 0;
        while (moecl_family_tensor_name(config.family, cases[i].role, 5, 11, attempts, name, sizeof name))
            attempts++;
        assert_true(attempts <= (size_t)(MOECL_SPELLINGS * MOECL_SPELLINGS));
        assert_int_equal(attempts > 0, cases[i].first != NULL);
        moecl_config_free(&config);
    }
}

/* ------------------------------------------------------------------------------------------- what is refused -- */

static void assert_refused(const char *what, moecl_status status, moecl_status expected, const char *sentence,
                           const struct moecl_error *error, const struct moecl_config *config)
{
    if (status != expected || !strstr(error->sentence, sentence))
        print_error("%s: %d, \"%s\"\n", what, (int)status, error->sentence);
    assert_int_equal(status, expected);
    assert_non_null(strstr(error->sentence, sentence));
    assert_non_null(strstr(error->sentence, "some/config.json"));
    assert_null(config->layer);
}

static void test_refuses_changes(void **state)
{
    (void)state;
    static const struct {
        const char *change;
        moecl_status status;
        const char *sentence;
    } cases[] = {
        {"{\"model_type\":\"-\"}", MOECL_BAD_FILE, "\"model_type\" is nothing"},
        {"{\"model_type\":3}", MOECL_BAD_FILE, "\"model_type\" is an integer"},
        {"{\"model_type\":\"llama\"}", MOECL_UNKNOWN_MODEL, "\"llama\" is of no known family: mixtral, qwen2_moe"},
        {"{\"model_type\":\"\"}", MOECL_UNKNOWN_MODEL, "\"\" is of no known family"},
        {"{\"model_type\":\"\\u001b[0m\"}", MOECL_UNKNOWN_MODEL, "\"?[0m\""},
        {"{\"hidden_act\":\"mish\"}", MOECL_UNSUPPORTED, "\"mish\" of \"hidden_act\""},
        {"{\"hidden_act\":1}", MOECL_BAD_FILE, "\"hidden_act\" is an integer"},
        {"{\"quantization_config\":{\"quant_method\":\"fp8\"}}", MOECL_UNSUPPORTED, "quant_method \"fp8\""},
        {"{\"quantization_config\":7}", MOECL_UNSUPPORTED, "quantised"},
        {"{\"num_hidden_layers\":\"-\"}", MOECL_BAD_FILE, "\"num_hidden_layers\" is missing"},
        {"{\"num_hidden_layers\":0}", MOECL_BAD_FILE, "expected 1 to"},
        {"{\"num_hidden_layers\":1000000000000}", MOECL_BAD_FILE, "expected 1 to"},
        {"{\"hidden_size\":\"-\"}", MOECL_BAD_FILE, "\"hidden_size\" is missing"},
        {"{\"hidden_size\":\"64\"}", MOECL_BAD_FILE, "\"hidden_size\" is a string"},
        {"{\"hidden_size\":64.0}", MOECL_BAD_FILE, "\"hidden_size\" is a fraction"},
        {"{\"hidden_size\":-64}", MOECL_BAD_FILE, "\"hidden_size\" is -64"},
        {"{\"hidden_size\":9223372036854775807}", MOECL_BAD_FILE, "9223372036854775807"},
        {"{\"hidden_size\":[64]}", MOECL_BAD_FILE, "\"hidden_size\" has no entry for layer 1"},
        {"{\"hidden_size\":null}", MOECL_BAD_FILE, "\"hidden_size\" is missing"},
        {"{\"num_experts\":\"-\"}", MOECL_BAD_FILE,
         "\"num_experts\" is missing (also spelled \"num_local_experts\", \"n_routed_experts\")"},
        {"{\"num_local_experts\":17}", MOECL_BAD_FILE, "\"num_experts\" and \"num_local_experts\""},
        {"{\"num_experts\":0}", MOECL_BAD_FILE, "\"num_experts\" is 0"},
        {"{\"num_experts\":1025}", MOECL_UNSUPPORTED, "1025 experts"},
        {"{\"num_experts\":true}", MOECL_BAD_FILE, "\"num_experts\" is a boolean"},
        {"{\"num_experts_per_tok\":\"-\"}", MOECL_BAD_FILE, "\"num_experts_per_tok\" is missing"},
        {"{\"num_experts_per_tok\":17}", MOECL_BAD_FILE, "17 experts for each token, of 16"},
        {"{\"num_experts_per_tok\":33,\"num_experts\":64}", MOECL_UNSUPPORTED, "33 for each token"},
        {"{\"moe_intermediate_size\":\"-\"}", MOECL_BAD_FILE, "\"moe_intermediate_size\" is missing"},
        {"{\"shared_expert_intermediate_size\":\"-\"}", MOECL_BAD_FILE, "\"shared_expert_intermediate_size\""},
        {"{\"norm_topk_prob\":\"yes\"}", MOECL_BAD_FILE, "\"norm_topk_prob\" is a string"},
        {"{\"norm_topk_prob\":1}", MOECL_BAD_FILE, "\"norm_topk_prob\" is an integer"},
        {"{\"decoder_sparse_step\":0}", MOECL_BAD_FILE, "\"decoder_sparse_step\" is 0"},
        {"{\"decoder_sparse_step\":\"2\"}", MOECL_BAD_FILE, "\"decoder_sparse_step\" is a string"},
        {"{\"mlp_only_layers\":3}", MOECL_BAD_FILE, "\"mlp_only_layers\" is an integer"},
        {"{\"mlp_only_layers\":[0,-1]}", MOECL_BAD_FILE, "entry 1 of \"mlp_only_layers\""},
        {"{\"mlp_only_layers\":[\"0\"]}", MOECL_BAD_FILE, "entry 0 of \"mlp_only_layers\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moecl_error error;
        struct moecl_config config;
        moecl_status status = read_changed(qwen2_moe, cases[i].change, &error, &config);
        assert_refused(cases[i].change, status, cases[i].status, cases[i].sentence, &error, &config);
    }
}

static void test_refuses_texts(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"", "invalid JSON in line 1"},
        {"nonsense", "invalid JSON"},
        {"[]", "the JSON is an array, expected an object"},
        {"3", "invalid JSON"},
        {"null", "invalid JSON"},
        {"{\"model_type\":\"olmoe\",\n\"model_type\":\"olmoe\"}", "invalid JSON in line 2"},
        {"{\"model_type\":\"olmoe\"} x", "invalid JSON"},
        {"{\"model_type\":\"ol\xe4moe\"}", "invalid JSON"},
        {"{\"model_type\":\"ol\\ud800moe\"}", "invalid JSON"},
        {"{\"model_type\":\"olmoe\\u0000\"}", "invalid JSON"},
        {"{\"model_type\":\"olmoe\",\"hidden_size\":99999999999999999999}", "invalid JSON"},
        {"{\"model_type\":\"olmoe\",\"hidden_size\":1e999}", "invalid JSON"},
        {"{\"model_type\":\"olmoe\",\"hidden_size\":NaN}", "invalid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moecl_error error;
        struct moecl_config config;
        moecl_status status = read_text(cases[i].text, &error, &config);
        assert_refused(cases[i].text, status, MOECL_BAD_FILE, cases[i].sentence, &error, &config);
    }
}

static void test_refuses_deep_nesting(void **state)
{
    (void)state;
    struct moecl_error error;
    struct moecl_config config;
    enum { DEPTH = 1000000 };
    char *text = malloc(5 * DEPTH + 1);
    assert_non_null(text);
    for (size_t i = 0; i < DEPTH; i++)
        memcpy(text + 5 * i, "{\"a\":", 5);
    text[5 * DEPTH] = '\0';
    moecl_status status = read_text(text, &error, &config);
    assert_refused("deep nesting", status, MOECL_BAD_FILE, "invalid JSON", &error, &config);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_sizes),
        cmocka_unit_test(test_normalise),
        cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_dense_layers),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_tensor_names),
        cmocka_unit_test(test_refuses_changes),
        cmocka_unit_test(test_refuses_texts),
        cmocka_unit_test(test_refuses_deep_nesting),
    };
    return cmocka_run_group_tests_name("family", tests, NULL, NULL);
}
