/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_family.c - the table of architectures, and a GGUF file's pairs as a config. The keys, the names and what is
 * fixed for an architecture are those of llama.cpp; what is computed is what the model was trained with, which is its
 * family's. */
#include "gguf_family.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "json.h"

/* ------------------------------------------------------------------------------------------------- the table -- */

#define AT(path)     offsetof(struct moecl_reading, path)
#define OPTION(path) AT(options.path)

/* The lists of layers that have a tensor. */
#define HAS_ROUTER "layers_with_router"
#define HAS_BIAS   "layers_with_selection_bias"

/* An architecture is as the family `like`, but for its keys and names. */
struct architecture {
    const char *name, *like;
    bool norm_told; /* whether weights are normalised is told by a pair; else it is as in the family */
    bool bias_told; /* a selection bias is there where its tensor is */
    bool told;      /* a layer is an MoE layer where its router is; else the pairs tell */
    size_t shared_experts;
    bool softmax; /* without an "expert_gating_func", and as DeepSeek-V2 */
    bool clamped; /* where pairs give limits */
    bool normed;  /* its inputs are normalised as Gemma 4's */
};

static const struct architecture architectures[] = {
    {.name = "llama", .like = "mixtral"},
    {.name = "llama4", .like = "llama4", .shared_experts = 1},
    {.name = "qwen2moe", .like = "qwen2_moe"},
    {.name = "qwen3moe", .like = "qwen3_vl_moe"},
    {.name = "qwen3vlmoe", .like = "qwen3_vl_moe"},
    {.name = "qwen3next", .like = "qwen3_next"},
    {.name = "qwen35moe", .like = "qwen3_5_moe"},
    {.name = "olmoe", .like = "olmoe"},
    {.name = "dbrx", .like = "dbrx"},
    {.name = "phimoe", .like = "phimoe"},
    {.name = "jamba", .like = "jamba", .told = true},
    {.name = "granitemoe", .like = "granitemoeshared"},
    {.name = "granitehybrid", .like = "granitemoehybrid"},
    {.name = "gpt-oss", .like = "gpt_oss"},
    {.name = "deepseek", .like = "deepseek_v2"},
    {.name = "deepseek2", .like = "deepseek_v3", .norm_told = true, .bias_told = true, .softmax = true},
    {.name = "glm4moe", .like = "glm4_moe", .norm_told = true, .bias_told = true},
    {.name = "dots1", .like = "dots1", .norm_told = true, .bias_told = true},
    {.name = "bailingmoe", .like = "deepseek_v2", .norm_told = true},
    {.name = "bailingmoe2", .like = "bailing_hybrid", .norm_told = true, .bias_told = true},
    {.name = "afmoe", .like = "afmoe", .norm_told = true, .bias_told = true},
    {.name = "ernie4_5-moe", .like = "ernie4_5_moe", .bias_told = true},
    {.name = "hunyuan-moe", .like = "hunyuan_v1_moe"},
    {.name = "lfm2moe", .like = "lfm2_moe"},
    {.name = "minimax-m2", .like = "minimax_m2"},
    {.name = "exaone-moe", .like = "exaone_moe", .norm_told = true, .bias_told = true, .told = true},
    {.name = "kimi-linear", .like = "kimi_linear"},
    {.name = "laguna", .like = "laguna", .norm_told = true},
    {.name = "mimo2", .like = "mimo_v2_flash", .bias_told = true, .told = true},
    {.name = "step35", .like = "step3p7", .norm_told = true, .bias_told = true, .told = true, .clamped = true},
    {.name = "arctic", .like = "mixtral"}, /* the MoE part of a block, that has a dense one beside it */
    {.name = "gemma4", .like = "gemma4", .told = true, .normed = true},
    {.name = "nemotron_h_moe", .like = "nemotron_h", .norm_told = true, .bias_told = true, .told = true},
};
enum { ARCHITECTURES = sizeof architectures / sizeof architectures[0] };

const char *moecl_gguf_architecture(size_t index)
{
    return index < ARCHITECTURES ? architectures[index].name : NULL;
}

/* ------------------------------------------------------------------------------------- what all have in common -- */

#define NEEDS(path, key)                                                                                               \
    {                                                                                                                  \
        .member = OPTION(path), .needed = true, .keys = { key }                                                        \
    }
#define TAKES(path, key)                                                                                               \
    {                                                                                                                  \
        .member = OPTION(path), .keys = { key }                                                                        \
    }
static const struct moecl_source sources[] = {
    {.member = AT(layers), .needed = true, .keys = {"block_count"}},
    NEEDS(hidden, "embedding_length"),
    NEEDS(experts, "expert_count"),
    NEEDS(top_k, "expert_used_count"),
    TAKES(intermediate, "feed_forward_length"), /* where the experts have no width of their own */
    TAKES(intermediate, "expert_feed_forward_length"),
    {.member = AT(shared_experts), .keys = {"expert_shared_count"}},
    TAKES(shared_intermediate, "expert_shared_feed_forward_length"),
    TAKES(router.scale, "expert_weights_scale"),
    TAKES(router.groups, "expert_group_count"),
    TAKES(router.top_groups, "expert_group_used_count"),
    TAKES(latent, "moe_latent_size"),
    TAKES(function.limit, "swiglu_clamp_exp"), /* lists, 0 where there is no clamp */
    TAKES(shared_function.limit, "swiglu_clamp_shexp"),
};
static const struct moecl_source norm_sources[] = {
    TAKES(router_input.epsilon, "attention.layer_norm_rms_epsilon"),
    TAKES(expert_input.epsilon, "attention.layer_norm_rms_epsilon"),
    {.member = OPTION(router_input.scale), .conversion = MOECL_INVERSE_ROOT, .keys = {"embedding_length"}},
};
#define COUNT(rows) (sizeof(rows) / sizeof(rows)[0])
_Static_assert(COUNT(sources) + COUNT(norm_sources) < MOECL_FAMILY_SOURCES, "a family holds them and an end");

#define IS(key, text, path, result)                                                                                    \
    {                                                                                                                  \
        .keys = {key}, .value = (text), .member = OPTION(path), .to = (result)                                         \
    }
#define DENSE(how, ...)                                                                                                \
    {                                                                                                                  \
        .condition = MOECL_##how, .member = AT(dense), .to = true, __VA_ARGS__                                         \
    }
#define GATING "expert_gating_func"

static const struct moecl_case common_cases[] = {
    DENSE(IS, .keys = {"expert_count"}, .value = "0", .or_absent = true),
    IS(GATING, "softmax", router.score, MOECL_SCORE_SOFTMAX),
    IS(GATING, "sigmoid", router.score, MOECL_SCORE_SIGMOID),
    IS(GATING, "softmax-weight", router.score, MOECL_SCORE_LOGIT),
    IS(GATING, "softmax-weight", router.weight, MOECL_WEIGHT_SOFTMAX),
    IS(GATING, "sqrt-softplus", router.score, MOECL_SCORE_SQRT_SOFTPLUS),
};
/* The shared expert's clamp is its own; it does not go by that of the others. */
static const struct moecl_case clamp_cases[] = {
    {.keys = {"swiglu_clamp_shexp"}, .value = "0", .or_absent = true, .member = OPTION(shared_function.limit)},
    {.condition = MOECL_ALWAYS, .member = OPTION(shared_function.clamp), .to = MOECL_CLAMP_AFTER},
};
static const struct moecl_case layer_cases[] = {
    DENSE(BELOW, .keys = {"leading_dense_block_count"}),
    DENSE(OFF_STEP, .keys = {"interleave_moe_layer_step"}, .otherwise = 1, .phase = -1),
};
static const struct moecl_case router_cases[] = {DENSE(UNLISTED, .keys = {HAS_ROUTER})};
static const struct moecl_case norm_cases[] = {
    IS("expert_weights_norm", "true", router.normalisation, MOECL_NORMALISATION_SUM),
    IS("expert_weights_norm", "false", router.normalisation, MOECL_NORMALISATION_NONE),
};
static const struct moecl_case bias_cases[] = {
    {.condition = MOECL_UNLISTED, .keys = {HAS_BIAS}, .member = OPTION(router.selection_biased), .to = false}};
/* A router that is DeepSeek-V2's where its score is a softmax, DeepSeek-V3's where it is not. */
#define OF_SOFTMAX(path, result)                                                                                       \
    {                                                                                                                  \
        .keys = {GATING}, .value = "softmax", .or_absent = true, .member = OPTION(path), .to = (result)                \
    }
static const struct moecl_case softmax_cases[] = {
    OF_SOFTMAX(router.score, MOECL_SCORE_SOFTMAX),
    OF_SOFTMAX(router.group_score, MOECL_GROUP_SCORE_LARGEST),
    OF_SOFTMAX(router.group_mask, MOECL_GROUP_MASK_ZERO),
};

#define TENSOR(role, ...) [MOECL_ROLE_##role] = {.names = {__VA_ARGS__}}
static const struct moecl_tensor_names tensors[MOECL_ROLE_COUNT] = {
    TENSOR(ROUTER, "ffn_gate_inp.weight"),
    TENSOR(ROUTER_BIAS, "ffn_gate_inp.bias"),
    TENSOR(SELECTION_BIAS, "exp_probs_b.bias"),
    TENSOR(EXPERT_SCALE, "ffn_down_exps.scale"),
    TENSOR(ROUTER_NORM, "ffn_gate_inp.scale"),
    TENSOR(EXPERT_NORM, "pre_ffw_norm_2.weight"),
    TENSOR(GATE_UP, "ffn_gate_up_exps.weight"),
    TENSOR(GATE, "ffn_gate_exps.weight", "ffn_gate.#.weight"), /* those with '#' in files of before April 2024 */
    TENSOR(UP, "ffn_up_exps.weight", "ffn_up.#.weight"),
    TENSOR(DOWN, "ffn_down_exps.weight", "ffn_down.#.weight"),
    TENSOR(GATE_UP_BIAS, "ffn_gate_up_exps.bias"),
    TENSOR(GATE_BIAS, "ffn_gate_exps.bias"),
    TENSOR(UP_BIAS, "ffn_up_exps.bias"),
    TENSOR(DOWN_BIAS, "ffn_down_exps.bias"),
    TENSOR(SHARED_GATE, "ffn_gate_shexp.weight"),
    TENSOR(SHARED_UP, "ffn_up_shexp.weight"),
    TENSOR(SHARED_DOWN, "ffn_down_shexp.weight"),
    TENSOR(SHARED_SCALE, "ffn_gate_inp_shexp.weight"),
    TENSOR(LATENT_DOWN, "ffn_latent_down.weight"),
    TENSOR(LATENT_UP, "ffn_latent_up.weight"),
};

/* -------------------------------------------------------------------------------------------------- a family -- */

static void add_cases(struct moecl_family *family, const struct moecl_case *cases, size_t count)
{
    size_t end = 0;
    while (!moecl_case_is_end(&family->cases[end]))
        end++;
    memcpy(&family->cases[end], cases, count * sizeof *cases);
}
_Static_assert(COUNT(common_cases) + COUNT(layer_cases) + COUNT(norm_cases) + COUNT(bias_cases) + COUNT(softmax_cases) +
                       COUNT(clamp_cases) <
                   MOECL_FAMILY_CASES,
               "a family holds them and an end");

static void make_family(const struct architecture *architecture, struct moecl_family *family)
{
    const struct moecl_family *like = moecl_family_find(architecture->like);

    *family = (struct moecl_family){
        .model_types = {architecture->name}, .prefixes = {"blk.@."}, .base = like->base, .fixed_activation = true};
    family->base.shared_experts = architecture->shared_experts;
    family->base.options.router.scale = 0.0F;
    family->base.options.router.groups = family->base.options.router.top_groups = 0;
    memcpy(family->sources, sources, sizeof sources);
    if (architecture->normed)
        memcpy(&family->sources[COUNT(sources)], norm_sources, sizeof norm_sources);
    memcpy(family->tensors, tensors, sizeof tensors);
    add_cases(family, common_cases, COUNT(common_cases));
    if (architecture->told)
        add_cases(family, router_cases, COUNT(router_cases));
    else
        add_cases(family, layer_cases, COUNT(layer_cases));
    if (architecture->norm_told) {
        family->base.options.router.normalisation = MOECL_NORMALISATION_NONE;
        add_cases(family, norm_cases, COUNT(norm_cases));
    }
    if (architecture->bias_told)
        add_cases(family, bias_cases, COUNT(bias_cases));
    if (architecture->clamped)
        add_cases(family, clamp_cases, COUNT(clamp_cases));
    if (architecture->softmax)
        add_cases(family, softmax_cases, COUNT(softmax_cases));
}

bool moecl_gguf_family(const char *name, struct moecl_family *family)
{
    for (size_t i = 0; i < ARCHITECTURES; i++)
        if (strcmp(architectures[i].name, name) == 0) {
            make_family(&architectures[i], family);
            return true;
        }
    return false;
}

/* --------------------------------------------------------------------------------------------- pairs as a config -- */

/* "expert_gating_func" in words: a number of no meaning is one that no family knows. 0 says nothing. */
static json_t *gating_in_words(json_int_t number)
{
    static const char *const words[] = {NULL, "softmax", "sigmoid", "softmax-weight", "sqrt-softplus"};
    if (number > 0 && (size_t)number < sizeof words / sizeof words[0])
        return json_string(words[number]);
    return number == 0 ? json_null() : json_sprintf("%" JSON_INTEGER_FORMAT, number);
}

/* The pairs of the architecture, without its name and a dot before each. */
static int copy_pairs(const json_t *pairs, const char *architecture, json_t *config)
{
    const size_t length = strlen(architecture);
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)pairs, key, value)
    {
        if (strncmp(key, architecture, length) != 0 || key[length] != '.')
            continue;
        if (json_object_set(config, key + length + 1, value) != 0)
            return -1;
    }
    value = json_object_get(config, GATING);
    if (json_is_integer(value))
        return json_object_set_new(config, GATING, gating_in_words(json_integer_value(value)));
    return 0;
}

static int list_layers(const struct moecl_checkpoint *checkpoint, size_t layers, const char *tensor, const char *key,
                       json_t *config)
{
    char name[128];
    json_t *list = json_array();
    for (size_t layer = 0; list && layer < layers; layer++) {
        (void)snprintf(name, sizeof name, "blk.%zu.%s", layer, tensor);
        if (moecl_checkpoint_find(checkpoint, name) &&
            json_array_append_new(list, json_integer((json_int_t)layer)) != 0)
            break;
    }
    return json_object_set_new(config, key, list);
}

moecl_status moecl_gguf_config(struct moecl_error *error, const char *path, const json_t *pairs,
                               const struct moecl_checkpoint *checkpoint, json_t **config)
{
    const json_int_t most_layers = 4096; /* a config of more is refused */
    moecl_status status = MOECL_OK;
    const json_t *architecture = json_object_get(pairs, "general.architecture");
    const char *name = json_string_value(architecture);

    *config = json_object();
    if (!name)
        FAIL(error, MOECL_BAD_FILE, "%s: \"general.architecture\" is %s, expected a string", path,
             moecl_json_kind(architecture));
    if (copy_pairs(pairs, name, *config) != 0)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for its pairs", path);
    json_int_t layers = json_integer_value(json_object_get(*config, "block_count"));
    layers = layers < 0 ? 0 : layers > most_layers ? most_layers : layers;
    if (json_object_set_new(*config, "model_type", json_string(name)) != 0 ||
        list_layers(checkpoint, (size_t)layers, "ffn_gate_inp.weight", HAS_ROUTER, *config) != 0 ||
        list_layers(checkpoint, (size_t)layers, "exp_probs_b.bias", HAS_BIAS, *config) != 0)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for its pairs", path);
out:
    return status;
}
