/* SPDX-License-Identifier: Apache-2.0 */
/* test_rows.c - the table of families: its rows are whole, and read the config.json of a golden folder, changed here
 * and there, as the family's own library does. */
#include "check.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/config.h"
#include "scratch.h"

/* Takes the members of `change` into `object`; "-" takes one out. */
static void update(json_t *object, const json_t *change)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)change, key, value)
    {
        if (json_is_string(value) && strcmp(json_string_value(value), "-") == 0)
            assert_int_equal(json_object_del(object, key), 0);
        else
            assert_int_equal(json_object_set(object, key, value), 0);
    }
}

/* Reads a golden folder's config.json with the members of `change`, which go where the language model's numbers are. */
static moecl_status read_changed(const char *folder, const char *change, struct moecl_error *error,
                                 struct moecl_config *config)
{
    char *directory = scratch_path(MOECL_TEST_DATA "/golden", folder);
    size_t size;
    char *text = scratch_read(directory, "config.json", &size);
    json_t *root = json_loads(text, 0, NULL), *members = json_loads(change, 0, NULL);
    assert_non_null(root);
    assert_non_null(members);
    json_t *inner = json_object_get(root, "text_config");
    update(json_is_object(inner) ? inner : root, members);
    free(text);
    text = json_dumps(root, 0);
    *error = (struct moecl_error){.sentence = ""};
    const moecl_status status = moecl_config_read(error, "config.json", text, strlen(text), NULL, config);
    free(text);
    free(directory);
    json_decref(root);
    json_decref(members);
    return status;
}

static void read_right(const char *folder, const char *change, struct moecl_config *config)
{
    struct moecl_error error;
    if (read_changed(folder, change, &error, config) != MOECL_OK)
        fail_msg("%s, %s: \"%s\"", folder, change, error.sentence);
}

/* ------------------------------------------------------------------------------------------------- the table -- */

/* What the compiler cannot see of a row: that every member is one, and every role that options ask for has a name. */
static void test_rows_are_whole(void **state)
{
    (void)state;
    const struct moecl_family *family;
    size_t i = 0;
    for (; (family = moecl_family_row(i)); i++) {
        assert_ptr_equal(moecl_family_find(family->model_types[0]), family); /* no other row has its name */
        if (family->refusal)
            continue;
        const struct moecl_tensor_names *tensors = family->tensors;
        const moecl_layer_options *options = &family->base.options;
        assert_non_null(tensors[MOECL_ROLE_ROUTER].names[0]);
        assert_non_null(tensors[MOECL_ROLE_DOWN].names[0]);
        assert_true(tensors[MOECL_ROLE_GATE_UP].names[0] || tensors[MOECL_ROLE_UP].names[0]);
        assert_true(!options->router.selection_biased || tensors[MOECL_ROLE_SELECTION_BIAS].names[0]);
        assert_true(!options->router.biased || tensors[MOECL_ROLE_ROUTER_BIAS].names[0]);
        assert_true(!options->function.biased || tensors[MOECL_ROLE_DOWN_BIAS].names[0]);
        assert_true(!options->output_biased || tensors[MOECL_ROLE_OUTPUT_BIAS].names[0]);
        assert_true(!options->shared_gate || tensors[MOECL_ROLE_SHARED_SCALE].names[0]);
        size_t sources = 0, cases = 0;
        while (sources < MOECL_FAMILY_SOURCES && family->sources[sources].keys[0])
            assert_non_null(moecl_member_at(family->sources[sources++].member));
        while (cases < MOECL_FAMILY_CASES && !moecl_case_is_end(&family->cases[cases]))
            assert_non_null(moecl_member_at(family->cases[cases++].member));
        assert_true(sources < MOECL_FAMILY_SOURCES);
        assert_true(cases < MOECL_FAMILY_CASES);
    }
    assert_true(i > 0);
}

/* ------------------------------------------------------------------------------------------------ MoE layers -- */

static void test_moe_layers(void **state)
{
    (void)state;
#define EIGHT    "\"num_hidden_layers\":8"
#define NO_TYPES ",\"mlp_layer_types\":\"-\""
    static const struct {
        const char *folder, *change, *layers; /* m: MoE, d: dense */
    } cases[] = {
        {"deepseek_v3", "{" EIGHT "}", "dmmmmmmm"},
        {"deepseek_v3", "{" EIGHT ",\"first_k_dense_replace\":\"-\"}", "dddmmmmm"},
        {"deepseek_v3", "{" EIGHT ",\"first_k_dense_replace\":3,\"moe_layer_freq\":2}", "ddddmdmd"},
        {"deepseek_v3", "{\"num_hidden_layers\":2,\"mlp_layer_types\":[\"sparse\",\"dense\"]}", "md"},
        {"deepseek_v2", "{" EIGHT ",\"first_k_dense_replace\":null}", "mmmmmmmm"},
        {"bailing_hybrid", "{" EIGHT NO_TYPES "}", "ddmmmmmm"},
        {"glm4_moe", "{" EIGHT ",\"first_k_dense_replace\":\"-\"}", "dmmmmmmm"},
        {"dots1", "{" EIGHT ",\"first_k_dense_replace\":\"-\"}", "mmmmmmmm"},
        {"mistral4-wrapped", "{" EIGHT ",\"first_k_dense_replace\":2}", "ddmmmmmm"},
        {"exaone_moe", "{" EIGHT NO_TYPES ",\"first_k_dense_replace\":\"-\"}", "dmmmmmmm"},
        {"kimi_linear", "{" EIGHT NO_TYPES ",\"first_k_dense_replace\":2,\"moe_layer_freq\":1}", "ddmmmmmm"},
        {"hy_v3", "{" EIGHT NO_TYPES "}", "dmmmmmmm"},
        {"mimo_v2_flash", "{\"num_hidden_layers\":4" NO_TYPES ",\"moe_layer_freq\":[0,1,0,1]}", "dmdm"},
        {"mimo_v2_flash", "{" EIGHT NO_TYPES "}", "dmmmmmmm"},
        {"minimax_m3", "{\"num_hidden_layers\":4" NO_TYPES ",\"moe_layer_freq\":[0,0,1,1]}", "ddmm"},
        {"minimax_m3", "{" EIGHT NO_TYPES "}", "mmmmmmmm"},
        {"laguna", "{" EIGHT NO_TYPES "}", "dmmmmmmm"},
        {"step3p7",
         "{" EIGHT NO_TYPES ",\"moe_layers_enum\":\"3,5,7\",\"swiglu_limits\":null,"
         "\"swiglu_limits_shared\":null}",
         "dddmdmdm"},
        {"afmoe", "{" EIGHT ",\"num_dense_layers\":2}", "ddmmmmmm"},
        {"lfm2_moe", "{" EIGHT ",\"num_dense_layers\":\"-\"}", "ddmmmmmm"},
        {"solar_open", "{" EIGHT "}", "mmmmmmmm"},
        {"cohere2_moe", "{" EIGHT NO_TYPES ",\"first_k_dense_replace\":1}", "dmmmmmmm"},
        {"ernie4_5_moe", "{" EIGHT ",\"moe_layer_interval\":2,\"moe_layer_end_index\":-1}", "dmdmdmdm"},
        {"ernie4_5_moe", "{" EIGHT ",\"moe_layer_interval\":1,\"moe_layer_end_index\":4}", "dmmmmddd"},
        {"jamba", "{" EIGHT ",\"expert_layer_period\":\"-\",\"expert_layer_offset\":\"-\"}", "dmdmdmdm"},
        {"jamba", "{" EIGHT ",\"expert_layer_period\":4,\"expert_layer_offset\":2}", "ddmdddmd"},
        {"llama4", "{" EIGHT ",\"moe_layers\":[1,6]}", "dmddddmd"},
        {"llama4", "{" EIGHT ",\"moe_layers\":null,\"interleave_moe_layer_step\":4}", "dddmdddm"},
        {"nemotron_h", "{\"layers_block_type\":[\"mamba\",\"moe\",\"attention\",\"moe\"]}", "dmdm"},
        {"nemotron_h", "{\"layers_block_type\":\"-\",\"hybrid_override_pattern\":\"ME*E-\"}", "dmdmd"},
        {"switch_transformers", "{\"num_layers\":8,\"encoder_sparse_step\":2}", "dmdmdmdm"},
        {"switch_transformers", "{\"num_layers\":8,\"encoder_sparse_step\":1}", "mmmmmmmm"},
        {"nllb_moe", "{\"encoder_layers\":8,\"encoder_sparse_step\":\"-\"}", "dddmdddm"},
        {"gemma4", "{" EIGHT ",\"enable_moe_block\":false,\"num_experts\":null}", "dddddddd"},
        {"gemma4", "{" EIGHT ",\"enable_moe_block\":true}", "mmmmmmmm"},
        {"qwen3_5_moe", "{" EIGHT "}", "mmmmmmmm"},
        {"qwen3_vl_moe", "{" EIGHT ",\"decoder_sparse_step\":2}", "dmdmdmdm"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moecl_config config;
        char layers[16] = "";
        read_right(cases[i].folder, cases[i].change, &config);
        for (size_t layer = 0; layer < config.layers && layer < sizeof layers - 1; layer++)
            layers[layer] = config.layer[layer].moe ? 'm' : 'd';
        if (strcmp(layers, cases[i].layers) != 0)
            fail_msg("%s, %s: %s, expected %s", cases[i].folder, cases[i].change, layers, cases[i].layers);
        moecl_config_free(&config);
    }
}

/* --------------------------------------------------------------------------------------------------- options -- */

static void test_options(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *change;
        size_t layer;
        const char *member;
        double expected;
    } cases[] = {
        {"deepseek_v3", "{\"routed_scaling_factor\":null}", 1, "router.scale", 2.5},
        {"deepseek_v3", "{\"n_group\":1,\"topk_group\":1}", 1, "router.groups", 0},
        {"deepseek_v3", "{\"n_shared_experts\":3}", 1, "shared_intermediate", 96},
        {"deepseek_v3", "{\"n_shared_experts\":0}", 1, "shared_intermediate", 0},
        {"deepseek_v3", "{\"hidden_act\":\"gelu\"}", 1, "shared_function.activation", MOECL_ACTIVATION_GELU},
        {"deepseek_v2-group", "{\"topk_method\":\"greedy\"}", 1, "router.groups", 0},
        {"deepseek_v2-group", "{\"topk_method\":null}", 1, "router.groups", 0},
        {"deepseek_v2-group", "{\"norm_topk_prob\":true}", 1, "router.normalisation", MOECL_NORMALISATION_NONE},
        {"deepseek_v4", "{\"mlp_layer_types\":\"-\",\"num_hash_layers\":2}", 1, "router.selection",
         MOECL_SELECTION_TABLE},
        {"deepseek_v4", "{\"mlp_layer_types\":\"-\",\"num_hash_layers\":1}", 1, "router.selection",
         MOECL_SELECTION_TOP_K},
        {"deepseek_v4", "{\"mlp_layer_types\":\"-\",\"num_hash_layers\":1}", 0, "router.selection_biased", 0},
        {"deepseek_v4", "{\"swiglu_limit\":0}", 1, "function.clamp", MOECL_CLAMP_NONE},
        {"deepseek_v4", "{\"swiglu_limit\":2.5}", 1, "shared_function.limit", 2.5},
        {"mimo_v2_flash-nulls", "{}", 1, "router.scale", 0},
        {"exaone_moe", "{\"routed_scaling_factor\":\"-\"}", 1, "router.scale", 2.5},
        {"kimi_linear", "{\"moe_renormalize\":false}", 1, "router.normalisation", MOECL_NORMALISATION_NONE},
        {"dots1", "{\"norm_topk_prob\":\"-\"}", 1, "router.normalisation", MOECL_NORMALISATION_NONE},
        {"mistral4", "{}", 1, "router.group_mask", MOECL_GROUP_MASK_ZERO},
        {"cohere2_moe", "{\"shared_expert_combination_strategy\":\"sum\"}", 1, "router.scale", 1},
        {"cohere2_moe", "{\"num_shared_experts\":\"-\"}", 1, "router.scale", 1},
        {"cohere2_moe", "{\"expert_selection_fn\":\"-\"}", 1, "router.weight", MOECL_WEIGHT_SOFTMAX},
        {"cohere2_moe", "{\"expert_selection_fn\":\"-\"}", 1, "router.normalisation", MOECL_NORMALISATION_NONE},
        {"cohere2_moe", "{\"norm_topk_prob\":\"-\"}", 1, "router.normalisation", MOECL_NORMALISATION_SUM},
        {"dbrx", "{\"ffn_config\":{\"moe_num_experts\":8,\"moe_top_k\":4,\"ffn_hidden_size\":32}}", 0, "router.power",
         1},
        {"dbrx",
         "{\"ffn_config\":{\"moe_num_experts\":8,\"moe_top_k\":4,\"ffn_hidden_size\":32,"
         "\"moe_normalize_expert_weights\":2}}",
         0, "router.power", 2},
        {"dbrx-nonorm", "{}", 0, "router.normalisation", MOECL_NORMALISATION_NONE},
        {"lfm2_moe", "{\"use_expert_bias\":false}", 1, "router.selection_biased", 0},
        {"hy_v3", "{\"mlp_bias\":true}", 1, "shared_function.biased", 1},
        {"ernie4_5_moe", "{\"use_bias\":true}", 1, "shared_function.biased", 1},
        {"ernie4_5_moe", "{\"moe_norm_min\":0.5}", 1, "router.epsilon", 0.5},
        {"hunyuan_v1_moe", "{\"moe_topk\":[3]}", 0, "top_k", 3},
        {"laguna", "{\"moe_router_logit_softcapping\":30}", 1, "router.softcap", 30},
        {"laguna", "{\"moe_apply_router_weight_on_input\":true}", 1, "router.weight_on_input", 1},
        {"switch_transformers", "{\"expert_capacity\":5}", 0, "router.capacity.value", 5},
        {"switch_transformers", "{\"router_bias\":true}", 0, "router.biased", 1},
        {"nllb_moe", "{\"moe_token_dropout\":0.5}", 0, "router.scale", 0.5},
        {"nllb_moe", "{\"normalize_router_prob_before_dropping\":true}", 0, "router.capacity.normalise_after", 0},
        {"gemma4", "{\"rms_norm_eps\":0.25}", 0, "router_input.epsilon", 0.25},
        {"gemma4", "{\"hidden_size\":16}", 0, "router_input.scale", 0.25},
        {"gpt_oss", "{\"hidden_act\":\"mish\"}", 0, "function.activation", MOECL_ACTIVATION_SILU},
        {"gpt_oss", "{\"swiglu_limit\":5,\"swiglu_alpha\":1.5}", 0, "function.alpha", 1.5},
        {"step3p7", "{}", 1, "function.clamp", MOECL_CLAMP_NONE},
        {"step3p7", "{}", 2, "function.limit", 1.5},
        {"step3p7", "{}", 2, "shared_function.limit", 2},
        {"step3p7", "{\"swiglu_limits\":null}", 2, "shared_function.clamp", MOECL_CLAMP_AFTER},
        {"nemotron_h", "{\"moe_latent_size\":16}", 0, "latent", 16},
        {"granitemoeshared", "{\"shared_intermediate_size\":0}", 0, "shared_intermediate", 0},
        {"longcat_flash", "{\"zero_expert_num\":2}", 0, "router.zero_experts", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moecl_config config;
        read_right(cases[i].folder, cases[i].change, &config);
        const struct moecl_reading reading = {.options = config.layer[cases[i].layer].options};
        const double got = moecl_member_get(moecl_member_named(cases[i].member), &reading);
        assert_true(config.layer[cases[i].layer].moe);
        if (fabs(got - cases[i].expected) > 1e-6)
            fail_msg("%s, %s: %s is %g, expected %g", cases[i].folder, cases[i].change, cases[i].member, got,
                     cases[i].expected);
        moecl_config_free(&config);
    }
}

/* ------------------------------------------------------------------------------------------- what is refused -- */

static void test_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *change;
        moecl_status status;
        const char *sentence;
    } cases[] = {
        {"deepseek_v2", "{\"topk_method\":\"noaux_tc\"}", MOECL_UNSUPPORTED, "\"noaux_tc\" of \"topk_method\""},
        {"cohere2_moe", "{\"expert_selection_fn\":\"relu\"}", MOECL_UNSUPPORTED, "\"relu\" of \"expert_selection_fn\""},
        {"laguna", "{\"mlp_layer_types\":[\"dense\",\"novel\"]}", MOECL_UNSUPPORTED,
         "\"novel\" of \"mlp_layer_types\""},
        {"laguna", "{\"mlp_layer_types\":[\"dense\"]}", MOECL_BAD_FILE, "no entry for layer 1"},
        {"laguna", "{\"mlp_layer_types\":[\"dense\",3]}", MOECL_BAD_FILE, "\"mlp_layer_types\" is an integer"},
        {"nllb_moe", "{\"batch_prioritized_routing\":true}", MOECL_UNSUPPORTED, "batch_prioritized_routing"},
        {"nllb_moe", "{\"second_expert_policy\":\"sampling\"}", MOECL_UNSUPPORTED, "second_expert_policy"},
        {"nllb_moe", "{\"moe_token_dropout\":2}", MOECL_BAD_FILE, "\"moe_token_dropout\" is out of range"},
        {"nllb_moe", "{\"moe_eval_capacity_token_fraction\":-1}", MOECL_BAD_FILE, "is -1, expected a number"},
        {"nllb_moe", "{\"encoder_sparse_step\":0}", MOECL_BAD_FILE, "\"encoder_sparse_step\" is 0"},
        {"nemotron_h", "{\"mlp_bias\":true}", MOECL_UNSUPPORTED, "mlp_bias"},
        {"nemotron_h", "{\"num_hidden_layers\":7}", MOECL_BAD_FILE, "speaks of 1 layers, expected 7"},
        {"nemotron_h", "{\"hybrid_override_pattern\":3}", MOECL_BAD_FILE, "speaks of 3 layers, expected 1"},
        {"deepseek_v3", "{\"n_group\":3}", MOECL_BAD_FILE, "2 of 3 groups of experts, of 16"},
        {"deepseek_v3", "{\"topk_group\":5}", MOECL_BAD_FILE, "5 of 4 groups"},
        {"deepseek_v3", "{\"topk_group\":0}", MOECL_BAD_FILE, "0 of 4 groups"},
        {"deepseek_v3", "{\"n_shared_experts\":2147483647}", MOECL_BAD_FILE, "2147483647 shared experts"},
        {"deepseek_v3", "{\"routed_scaling_factor\":\"2\"}", MOECL_BAD_FILE, "is a string, expected a number"},
        {"deepseek_v3", "{\"routed_scaling_factor\":-2.5}", MOECL_BAD_FILE, "is -2.5, expected a number"},
        {"deepseek_v3", "{\"routed_scaling_factor\":1e300}", MOECL_BAD_FILE, "is 1e+300"},
        {"lfm2_moe", "{\"use_expert_bias\":3}", MOECL_BAD_FILE, "\"use_expert_bias\" is an integer"},
        {"lfm2_moe", "{\"num_dense_layers\":-1}", MOECL_BAD_FILE, "\"num_dense_layers\" is -1"},
        {"step3p7", "{\"swiglu_limits\":[0,0]}", MOECL_BAD_FILE, "\"swiglu_limits\" has no entry for layer 2"},
        {"step3p7", "{\"mlp_layer_types\":null,\"moe_layers_enum\":\"1;2\"}", MOECL_BAD_FILE, "no list of layers"},
        {"jamba", "{\"expert_layer_offset\":-1}", MOECL_BAD_FILE, "\"expert_layer_offset\" is -1"},
        {"longcat_flash", "{\"zero_expert_num\":2000}", MOECL_UNSUPPORTED, "2008 experts"},
        {"aria", "{\"moe_num_experts\":\"-\"}", MOECL_BAD_FILE, "\"moe_num_experts\" is missing"},
        {"aria", "{\"quantization_config\":{\"quant_method\":\"awq\"}}", MOECL_UNSUPPORTED, "\"awq\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moecl_error error;
        struct moecl_config config;
        const moecl_status status = read_changed(cases[i].folder, cases[i].change, &error, &config);
        if (status != cases[i].status || !strstr(error.sentence, cases[i].sentence))
            fail_msg("%s, %s: %s: \"%s\"", cases[i].folder, cases[i].change, moecl_status_name(status), error.sentence);
        moecl_config_free(&config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_whole),
        cmocka_unit_test(test_moe_layers),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests_name("rows", tests, NULL, NULL);
}
