/* SPDX-License-Identifier: Apache-2.0 */
/* families.c - the table of model families, a row a family; family.h says what the members mean. What a family computes
 * is from its modelling file in the transformers library; the golden folders of tests/data hold rows to it. */
#include "family.h"

/* ------------------------------------------------------------------------------------- what rows are made of -- */

#define AT(path)     offsetof(struct moecl_reading, path)
#define OPTION(path) AT(options.path)

/* Sources: a number that config.json must have, one that it may have. */
#define NEEDS(path, ...)                                                                                               \
    {                                                                                                                  \
        .member = OPTION(path), .needed = true, .keys = { __VA_ARGS__ }                                                \
    }
#define TAKES(path, ...)                                                                                               \
    {                                                                                                                  \
        .member = OPTION(path), .keys = { __VA_ARGS__ }                                                                \
    }
#define CONVERTS(path, how, ...)                                                                                       \
    {                                                                                                                  \
        .member = OPTION(path), .conversion = MOECL_##how, .keys = { __VA_ARGS__ }                                     \
    }
#define LAYERS(...)                                                                                                    \
    {                                                                                                                  \
        .member = AT(layers), .needed = true, .keys = { __VA_ARGS__ }                                                  \
    }
/* The shared expert is as wide as so many experts. */
#define SHARED_EXPERTS(...)                                                                                            \
    {                                                                                                                  \
        .member = AT(shared_experts), .keys = { __VA_ARGS__ }                                                          \
    }

/* Cases: member = to, where ... */
#define IS(key, text, path, result)                                                                                    \
    {                                                                                                                  \
        .keys = {key}, .value = (text), .member = OPTION(path), .to = (result)                                         \
    }
#define KNOWN(key, text)                                                                                               \
    {                                                                                                                  \
        .keys = {key}, .value = (text), .member = AT(nothing), .to = true                                              \
    }
#define REFUSED(key, text)                                                                                             \
    {                                                                                                                  \
        .keys = {key}, .value = (text), .member = AT(unsupported), .to = true                                          \
    }
#define ALWAYS(path, result)                                                                                           \
    {                                                                                                                  \
        .condition = MOECL_ALWAYS, .member = OPTION(path), .to = (result)                                              \
    }
#define NORMALISES(...)                                                                                                \
    {.keys = {__VA_ARGS__}, .value = "true", .member = OPTION(router.normalisation), .to = MOECL_NORMALISATION_SUM},   \
    {                                                                                                                  \
        .keys = {__VA_ARGS__}, .value = "false", .member = OPTION(router.normalisation),                               \
        .to = MOECL_NORMALISATION_NONE                                                                                 \
    }

/* Layers that are dense. */
#define DENSE(how, ...)                                                                                                \
    {                                                                                                                  \
        .condition = MOECL_##how, .member = AT(dense), .to = true, __VA_ARGS__                                         \
    }
#define DENSE_WHERE(key, text)   DENSE(IS, .keys = {key}, .value = (text))
#define LAYER_TYPES              DENSE_WHERE("mlp_layer_types", "dense"), KNOWN("mlp_layer_types", "sparse")
#define FIRST_DENSE(key, number) DENSE(BELOW, .keys = {key}, .otherwise = (number), .unless = "mlp_layer_types")
#define DEEPSEEK_LAYERS(number)                                                                                        \
    LAYER_TYPES, FIRST_DENSE("first_k_dense_replace", number),                                                         \
        DENSE(OFF_STEP, .keys = {"moe_layer_freq"}, .otherwise = 1, .phase = 0, .unless = "mlp_layer_types")
#define QWEN_LAYERS                                                                                                    \
    DENSE(LISTED, .keys = {"mlp_only_layers"}),                                                                        \
        DENSE(OFF_STEP, .keys = {"decoder_sparse_step"}, .otherwise = 1, .phase = -1)

/* Tensors. Behind a family's published names come those under which the transformers library saves what it holds in
 * memory, where these are others: RESAVED. */
#define RESAVED           "mlp."
#define TENSOR(role, ...) [MOECL_ROLE_##role] = {.names = {__VA_ARGS__}}
#define EXPERTS(block, gate, up, down)                                                                                 \
    TENSOR(GATE_UP, block "experts.gate_up_proj", RESAVED "experts.gate_up_proj"),                                     \
        TENSOR(GATE, block "experts.#." gate ".weight"), TENSOR(UP, block "experts.#." up ".weight"),                  \
        TENSOR(DOWN, block "experts.#." down ".weight", block "experts.down_proj", RESAVED "experts.down_proj")
#define PROJECTIONS(block) EXPERTS(block, "gate_proj", "up_proj", "down_proj")
#define W_MATRICES(block)  EXPERTS(block, "w1", "w3", "w2")
#define LINEARS(block)                                                                                                 \
    TENSOR(ROUTER, block "router.layer.weight", block "router.weight"),                                                \
        TENSOR(GATE_UP, block "input_linear.weight", block "experts.gate_up_proj"),                                    \
        TENSOR(DOWN, block "output_linear.weight", block "experts.down_proj")
#define ROUTER(...)         TENSOR(ROUTER, __VA_ARGS__, RESAVED "gate.weight")
#define SELECTION_BIAS(...) TENSOR(SELECTION_BIAS, __VA_ARGS__, RESAVED "gate.e_score_correction_bias")
#define SHARED_GATED(expert, gate, up, down)                                                                           \
    TENSOR(SHARED_GATE, expert gate ".weight", RESAVED "shared_experts.gate_proj.weight"),                             \
        TENSOR(SHARED_UP, expert up ".weight", RESAVED "shared_experts.up_proj.weight"),                               \
        TENSOR(SHARED_DOWN, expert down ".weight", RESAVED "shared_experts.down_proj.weight")
#define SHARED(expert) SHARED_GATED(expert, "gate_proj", "up_proj", "down_proj")
#define SHARED_BIASES(expert)                                                                                          \
    TENSOR(SHARED_GATE_BIAS, expert "gate_proj.bias", RESAVED "shared_experts.gate_proj.bias"),                        \
        TENSOR(SHARED_UP_BIAS, expert "up_proj.bias", RESAVED "shared_experts.up_proj.bias"),                          \
        TENSOR(SHARED_DOWN_BIAS, expert "down_proj.bias", RESAVED "shared_experts.down_proj.bias")
#define SHARED_LINEARS                                                                                                 \
    TENSOR(SHARED_GATE_UP, "shared_mlp.input_linear.weight"), TENSOR(SHARED_DOWN, "shared_mlp.output_linear.weight")
#define QWEN_TENSORS     ROUTER("mlp.gate.weight"), PROJECTIONS("mlp.")
#define QWEN_SHARED      SHARED("mlp.shared_expert."), TENSOR(SHARED_SCALE, "mlp.shared_expert_gate.weight")
#define MIXTRAL_TENSORS  ROUTER("block_sparse_moe.gate.weight"), W_MATRICES("block_sparse_moe.")
#define DEEPSEEK_BIAS    SELECTION_BIAS("mlp.gate.e_score_correction_bias")
#define DEEPSEEK_TENSORS QWEN_TENSORS, SHARED("mlp.shared_experts.")

/* Routers. */
#define SOFTMAX_SUM        .router = {.normalisation = MOECL_NORMALISATION_SUM}
#define TOP_LOGITS         .score = MOECL_SCORE_LOGIT, .weight = MOECL_WEIGHT_SOFTMAX
#define BIASED_SIGMOID     .score = MOECL_SCORE_SIGMOID, .selection_biased = true
#define BIASED_SIGMOID_SUM BIASED_SIGMOID, .normalisation = MOECL_NORMALISATION_SUM
#define DEEPSEEK_ROUTER    BIASED_SIGMOID_SUM, .epsilon = 1e-20F, .group_score = MOECL_GROUP_SCORE_SUM_OF_TWO
#define DEEPSEEK_GROUPS    TAKES(router.groups, "n_group"), TAKES(router.top_groups, "topk_group")
#define ROUTED_SCALE       TAKES(router.scale, "routed_scaling_factor")
#define DEEPSEEK_SOURCES   DEEPSEEK_GROUPS, ROUTED_SCALE, SHARED_EXPERTS("n_shared_experts")

#define SWIGLU_OAI                                                                                                     \
    .function = {.activation = MOECL_ACTIVATION_SILU,                                                                  \
                 .alpha = 1.702F,                                                                                      \
                 .clamp = MOECL_CLAMP_BEFORE,                                                                          \
                 .limit = 7.0F,                                                                                        \
                 .up_offset = 1.0F}
#define SWIGLU_OAI_SOURCES TAKES(function.alpha, "swiglu_alpha"), TAKES(function.limit, "swiglu_limit")

/* Models of two stacks: one row for each, since a layer's number is that in its stack. A model's own row is that of its
 * encoder; its decoder is read as a description says that is like the other row. */
#define SWITCH_STACK(stack, block, layers)                                                                             \
    .prefixes = {stack ".block.@.layer." block "."},                                                                   \
    .base.options = {.top_k = 1,                                                                                       \
                     .router.capacity = {.kind = MOECL_CAPACITY_FIXED, .value = 64.0F},                                \
                     .function = {.ungated = true, .activation = MOECL_ACTIVATION_RELU}},                              \
    .sources = {LAYERS(layers),                                                                                        \
                NEEDS(hidden, "d_model"),                                                                              \
                NEEDS(intermediate, "d_ff"),                                                                           \
                TAKES(router.capacity.value, "expert_capacity"),                                                       \
                TAKES(router.input_jitter, "router_jitter_noise"),                                                     \
                TAKES(function.activation, "dense_act_fn")},                                                           \
    .cases = {IS("router_bias", "true", router.biased, true),                                                          \
              DENSE(OFF_STEP, .keys = {stack "_sparse_step"}, .otherwise = 1, .phase = 1)},                            \
    .tensors = {ROUTER("mlp.router.classifier.weight"), TENSOR(ROUTER_BIAS, "mlp.router.classifier.bias"),             \
                TENSOR(UP, "mlp.experts.expert_#.wi.weight"), TENSOR(DOWN, "mlp.experts.expert_#.wo.weight")}
#define NLLB_STACK(stack)                                                                                              \
    .prefixes = {"model." stack ".layers.@.", stack ".layers.@."},                                                     \
    .base.options = {.top_k = 2,                                                                                       \
                     .router = {.normalisation = MOECL_NORMALISATION_LARGER_SUM,                                       \
                                .epsilon = 1.1920929e-07F,                                                             \
                                .scale = 0.8F,                                                                         \
                                .capacity = {.kind = MOECL_CAPACITY_FRACTION,                                          \
                                             .value = 1.0F,                                                            \
                                             .order = MOECL_CAPACITY_ORDER_CHOICE,                                     \
                                             .normalise_after = true}},                                                \
                     .function = {.ungated = true, .biased = true, .activation = MOECL_ACTIVATION_RELU}},              \
    .sources = {LAYERS(stack "_layers"),                                                                               \
                NEEDS(hidden, "d_model"),                                                                              \
                NEEDS(intermediate, stack "_ffn_dim"),                                                                 \
                TAKES(router.capacity.value, "moe_eval_capacity_token_fraction"),                                      \
                CONVERTS(router.scale, ONE_MINUS, "moe_token_dropout"),                                                \
                TAKES(function.activation, "activation_function")},                                                    \
    .cases = {IS("router_bias", "true", router.biased, true),                                                          \
              IS("normalize_router_prob_before_dropping", "true", router.capacity.normalise_after, false),             \
              KNOWN("second_expert_policy", "all"), REFUSED("batch_prioritized_routing", "true"),                      \
              DENSE(OFF_STEP, .keys = {stack "_sparse_step"}, .otherwise = 4, .phase = -1)},                           \
    .tensors = {ROUTER("ffn.router.classifier.weight"),          TENSOR(ROUTER_BIAS, "ffn.router.classifier.bias"),    \
                TENSOR(UP, "ffn.experts.expert_#.fc1.weight"),   TENSOR(UP_BIAS, "ffn.experts.expert_#.fc1.bias"),     \
                TENSOR(DOWN, "ffn.experts.expert_#.fc2.weight"), TENSOR(DOWN_BIAS, "ffn.experts.expert_#.fc2.bias")}

/* ------------------------------------------------------------------------------------------------- the table -- */

static const struct moecl_family families[] = {
    {
        .model_types = {"mixtral"},
        .base.options = {SOFTMAX_SUM},
        .sources = {NEEDS(intermediate, "intermediate_size")},
        .tensors = {MIXTRAL_TENSORS},
    },
    {
        .model_types = {"qwen2_moe"},
        .base.options = {.shared_gate = MOECL_SHARED_GATE_SIGMOID},
        .sources = {NEEDS(shared_intermediate, "shared_expert_intermediate_size")},
        .cases = {NORMALISES("norm_topk_prob"), QWEN_LAYERS},
        .tensors = {QWEN_TENSORS, QWEN_SHARED},
    },
    {
        .model_types = {"qwen3_moe"},
        .cases = {NORMALISES("norm_topk_prob"), QWEN_LAYERS},
        .tensors = {QWEN_TENSORS},
    },
    {
        .model_types = {"olmoe"},
        .sources = {NEEDS(intermediate, "intermediate_size")},
        .cases = {NORMALISES("norm_topk_prob")},
        .tensors = {QWEN_TENSORS},
    },
    {
        .model_types = {"flex_olmo"},
        .sources = {NEEDS(intermediate, "intermediate_size")},
        .cases = {NORMALISES("norm_topk_prob")},
        .tensors = {QWEN_TENSORS},
    },
    {
        .model_types = {"qwen3_next"},
        .base.options = {SOFTMAX_SUM, .shared_gate = MOECL_SHARED_GATE_SIGMOID},
        .sources = {NEEDS(shared_intermediate, "shared_expert_intermediate_size")},
        .cases = {NORMALISES("norm_topk_prob"), QWEN_LAYERS},
        .tensors = {QWEN_TENSORS, QWEN_SHARED},
    },
    {
        .model_types = {"qwen3_5_moe", "qwen3_5_moe_text"},
        .base.options = {SOFTMAX_SUM, .shared_gate = MOECL_SHARED_GATE_SIGMOID},
        .sources = {NEEDS(shared_intermediate, "shared_expert_intermediate_size")},
        .tensors = {QWEN_TENSORS, QWEN_SHARED},
    },
    {
        .model_types = {"qwen3_vl_moe", "qwen3_vl_moe_text"},
        .base.options = {SOFTMAX_SUM},
        .cases = {QWEN_LAYERS},
        .tensors = {QWEN_TENSORS},
    },
    {
        .model_types = {"minimax"},
        .base.options = {SOFTMAX_SUM},
        .sources = {NEEDS(intermediate, "intermediate_size")},
        .tensors = {MIXTRAL_TENSORS},
    },
    {
        .model_types = {"minimax_m2"},
        .base.options.router = {BIASED_SIGMOID_SUM},
        .sources = {NEEDS(intermediate, "intermediate_size")},
        .tensors = {MIXTRAL_TENSORS,
                    SELECTION_BIAS("block_sparse_moe.e_score_correction_bias", "mlp.e_score_correction_bias")},
    },
    {
        .model_types = {"minimax_m3_vl", "minimax_m3_vl_text"},
        .base.options = {.router = {BIASED_SIGMOID_SUM, .scale = 2.0F}, SWIGLU_OAI},
        .fixed_activation = true,
        .sources = {NEEDS(intermediate, "intermediate_size"), NEEDS(shared_intermediate, "shared_intermediate_size"),
                    ROUTED_SCALE, SWIGLU_OAI_SOURCES},
        .cases = {LAYER_TYPES, DENSE(IS, .keys = {"moe_layer_freq"}, .value = "0", .unless = "mlp_layer_types")},
        .tensors = {MIXTRAL_TENSORS, SELECTION_BIAS("block_sparse_moe.e_score_correction_bias"),
                    TENSOR(SHARED_GATE_UP, "mlp.shared_experts.gate_up_proj.weight"),
                    SHARED("block_sparse_moe.shared_experts.")},
    },
    {
        .model_types = {"deepseek_v2"},
        .base.options.router = {.group_mask = MOECL_GROUP_MASK_ZERO},
        .base.shared_experts = 2,
        .sources = {DEEPSEEK_SOURCES},
        .cases = {DEEPSEEK_LAYERS(0),
                  KNOWN("topk_method", "greedy"),
                  KNOWN("topk_method", "group_limited_greedy"),
                  {.condition = MOECL_IS_NOT,
                   .keys = {"topk_method"},
                   .value = "group_limited_greedy",
                   .member = OPTION(router.groups),
                   .to = 0}},
        .tensors = {DEEPSEEK_TENSORS},
    },
    {
        .model_types = {"deepseek_v3", "kimi_k2"},
        .base.options.router = {DEEPSEEK_ROUTER, .scale = 2.5F, .groups = 8, .top_groups = 4},
        .base.shared_experts = 1,
        .sources = {DEEPSEEK_SOURCES},
        .cases = {NORMALISES("norm_topk_prob"), DEEPSEEK_LAYERS(3)},
        .tensors = {DEEPSEEK_TENSORS, DEEPSEEK_BIAS},
    },
    {
        .model_types = {"deepseek_v4"},
        .base.options = {.router = {.score = MOECL_SCORE_SQRT_SOFTPLUS,
                                    .selection_biased = true,
                                    .normalisation = MOECL_NORMALISATION_SUM,
                                    .epsilon = 1e-20F,
                                    .scale = 1.5F},
                         .function = {.clamp = MOECL_CLAMP_BEFORE, .limit = 10.0F}},
        .base.shared_experts = 1,
        .sources = {ROUTED_SCALE, SHARED_EXPERTS("n_shared_experts"), TAKES(function.limit, "swiglu_limit")},
        .cases = {IS("mlp_layer_types", "hash_moe", router.selection, MOECL_SELECTION_TABLE),
                  IS("mlp_layer_types", "hash_moe", router.selection_biased, false),
                  KNOWN("mlp_layer_types", "moe"),
                  {.condition = MOECL_BELOW,
                   .keys = {"num_hash_layers"},
                   .otherwise = 3,
                   .unless = "mlp_layer_types",
                   .member = OPTION(router.selection),
                   .to = MOECL_SELECTION_TABLE},
                  {.condition = MOECL_BELOW,
                   .keys = {"num_hash_layers"},
                   .otherwise = 3,
                   .unless = "mlp_layer_types",
                   .member = OPTION(router.selection_biased),
                   .to = false}},
        .tensors = {ROUTER("ffn.gate.weight"), SELECTION_BIAS("ffn.gate.bias"),
                    TENSOR(TABLE, "ffn.gate.tid2eid", "mlp.gate.tid2eid"), W_MATRICES("ffn."),
                    SHARED_GATED("ffn.shared_experts.", "w1", "w3", "w2")},
    },
    {
        .model_types = {"bailing_hybrid"},
        .base.options.router = {DEEPSEEK_ROUTER, .scale = 2.5F, .groups = 8, .top_groups = 4},
        .base.shared_experts = 1,
        .sources = {NEEDS(top_k, "num_experts_per_token", "num_experts_per_tok"),
                    TAKES(router.groups, "num_expert_group", "n_group"), TAKES(router.top_groups, "topk_group"),
                    ROUTED_SCALE, SHARED_EXPERTS("num_shared_experts", "n_shared_experts")},
        .cases = {NORMALISES("moe_renormalize", "norm_topk_prob"), DEEPSEEK_LAYERS(2)},
        .tensors = {DEEPSEEK_TENSORS, SELECTION_BIAS("mlp.gate.expert_bias")},
    },
    {
        .model_types = {"glm4_moe"},
        .base.options.router = {DEEPSEEK_ROUTER},
        .base.shared_experts = 1,
        .sources = {DEEPSEEK_SOURCES},
        .cases = {NORMALISES("norm_topk_prob"), DEEPSEEK_LAYERS(1)},
        .tensors = {DEEPSEEK_TENSORS, DEEPSEEK_BIAS},
    },
    {
        .model_types = {"dots1"},
        .base.options.router = {BIASED_SIGMOID, .epsilon = 1e-20F, .group_score = MOECL_GROUP_SCORE_SUM_OF_TWO},
        .sources = {DEEPSEEK_SOURCES},
        .cases = {NORMALISES("norm_topk_prob"), DEEPSEEK_LAYERS(0)},
        .tensors = {DEEPSEEK_TENSORS, DEEPSEEK_BIAS},
    },
    {
        .model_types = {"exaone_moe"},
        .base.options.router = {DEEPSEEK_ROUTER, .scale = 2.5F},
        .base.shared_experts = 1,
        .sources = {DEEPSEEK_GROUPS, ROUTED_SCALE, SHARED_EXPERTS("num_shared_experts")},
        .cases = {NORMALISES("norm_topk_prob"), LAYER_TYPES, FIRST_DENSE("first_k_dense_replace", 1)},
        .tensors = {DEEPSEEK_TENSORS, SELECTION_BIAS("mlp.e_score_correction_bias")},
    },
    {
        .model_types = {"kimi_linear"},
        .base.options.router = {DEEPSEEK_ROUTER, .scale = 2.446F},
        .base.shared_experts = 1,
        .sources = {NEEDS(top_k, "num_experts_per_token", "num_experts_per_tok"),
                    TAKES(router.groups, "num_expert_group", "n_group"), TAKES(router.top_groups, "topk_group"),
                    ROUTED_SCALE, SHARED_EXPERTS("num_shared_experts", "n_shared_experts")},
        .cases = {NORMALISES("moe_renormalize", "norm_topk_prob"), DEEPSEEK_LAYERS(1)},
        .tensors = {MIXTRAL_TENSORS, SELECTION_BIAS("block_sparse_moe.gate.e_score_correction_bias"),
                    SHARED("block_sparse_moe.shared_experts.")},
    },
    {
        .model_types = {"mimo_v2_flash"},
        .base.options.router = {DEEPSEEK_ROUTER},
        .sources = {DEEPSEEK_GROUPS, ROUTED_SCALE},
        .cases = {NORMALISES("norm_topk_prob"), LAYER_TYPES,
                  DENSE(IS, .keys = {"moe_layer_freq"}, .value = "0", .unless = "mlp_layer_types"),
                  DENSE(BELOW, .keys = {"first_k_dense_replace"}, .otherwise = 1, .unless = "mlp_layer_types")},
        .tensors = {QWEN_TENSORS, DEEPSEEK_BIAS},
    },
    {
        .model_types = {"mistral4"},
        .base.options.router = {.normalisation = MOECL_NORMALISATION_SUM,
                                .epsilon = 1e-20F,
                                .group_score = MOECL_GROUP_SCORE_SUM_OF_TWO,
                                .group_mask = MOECL_GROUP_MASK_ZERO},
        .base.shared_experts = 1,
        .sources = {DEEPSEEK_SOURCES},
        .cases = {NORMALISES("norm_topk_prob"), DEEPSEEK_LAYERS(0)},
        .tensors = {DEEPSEEK_TENSORS},
    },
    {
        .model_types = {"solar_open"},
        .base.options.router = {DEEPSEEK_ROUTER},
        .base.shared_experts = 1,
        .sources = {DEEPSEEK_SOURCES},
        .cases = {NORMALISES("norm_topk_prob")},
        .tensors = {DEEPSEEK_TENSORS, DEEPSEEK_BIAS},
    },
    {
        .model_types = {"afmoe"},
        .base.options.router = {BIASED_SIGMOID_SUM, .epsilon = 1e-20F},
        .sources = {TAKES(router.scale, "route_scale"), SHARED_EXPERTS("num_shared_experts")},
        .cases = {DENSE(BELOW, .keys = {"num_dense_layers"})},
        .tensors = {ROUTER("mlp.router.gate.weight"), SELECTION_BIAS("mlp.expert_bias"), PROJECTIONS("mlp."),
                    SHARED("mlp.shared_experts.")},
    },
    {
        .model_types = {"hy_v3"},
        .base.options.router = {BIASED_SIGMOID_SUM, .epsilon = 1e-20F, .scale = 2.826F},
        .base.shared_experts = 1,
        .sources = {TAKES(router.scale, "router_scaling_factor"), SHARED_EXPERTS("num_shared_experts")},
        .cases = {LAYER_TYPES, FIRST_DENSE("first_k_dense_replace", 1),
                  IS("mlp_bias", "true", shared_function.biased, true)},
        .tensors = {ROUTER("mlp.router.gate.weight"), SELECTION_BIAS("mlp.expert_bias", "mlp.e_score_correction_bias"),
                    PROJECTIONS("mlp."), SHARED("mlp.shared_mlp."), SHARED_BIASES("mlp.shared_mlp.")},
    },
    {
        .model_types = {"cohere2_moe"},
        .base.options = {.router = {TOP_LOGITS, .normalisation = MOECL_NORMALISATION_SUM, .scale = 0.5F},
                         .shared_scale = 0.5F},
        .sources = {NEEDS(intermediate, "intermediate_size"), SHARED_EXPERTS("num_shared_experts")},
        .cases = {LAYER_TYPES,
                  FIRST_DENSE("first_k_dense_replace", 0),
                  NORMALISES("norm_topk_prob"),
                  IS("expert_selection_fn", "sigmoid", router.weight, MOECL_WEIGHT_SIGMOID),
                  KNOWN("expert_selection_fn", "softmax"),
                  {.condition = MOECL_IS_NOT,
                   .keys = {"expert_selection_fn"},
                   .value = "sigmoid",
                   .member = OPTION(router.normalisation),
                   .to = MOECL_NORMALISATION_NONE},
                  KNOWN("shared_expert_combination_strategy", "average"),
                  IS("shared_expert_combination_strategy", "sum", router.scale, 1),
                  IS("shared_expert_combination_strategy", "sum", shared_scale, 1),
                  {.keys = {"num_shared_experts"},
                   .value = "0",
                   .or_absent = true,
                   .member = OPTION(router.scale),
                   .to = 1}},
        .tensors = {DEEPSEEK_TENSORS},
    },
    {
        .model_types = {"ernie4_5_moe"},
        .base.options.router = {.selection_biased = true,
                                .normalisation = MOECL_NORMALISATION_LARGER_SUM,
                                .epsilon = 1e-12F},
        .base.shared_experts = 2,
        .sources = {NEEDS(experts, "moe_num_experts", "num_experts"), NEEDS(top_k, "moe_k", "num_experts_per_tok"),
                    SHARED_EXPERTS("moe_num_shared_experts"), TAKES(router.epsilon, "moe_norm_min")},
        .cases = {IS("use_bias", "true", shared_function.biased, true),
                  DENSE(BELOW, .keys = {"moe_layer_start_index"}, .otherwise = 1),
                  DENSE(ABOVE, .keys = {"moe_layer_end_index"}),
                  DENSE(OFF_STEP, .keys = {"moe_layer_interval"}, .otherwise = 1, .phase = -1)},
        .tensors = {DEEPSEEK_TENSORS,
                    SELECTION_BIAS("mlp.moe_statics.e_score_correction_bias",
                                   "mlp.gate.moe_statics.e_score_correction_bias"),
                    SHARED_BIASES("mlp.shared_experts.")},
    },
    {
        .model_types = {"hunyuan_v1_moe"},
        .base.options = {SOFTMAX_SUM},
        .base.shared_experts = 1,
        .sources = {NEEDS(top_k, "moe_topk"), NEEDS(intermediate, "intermediate_size")},
        .tensors = {ROUTER("mlp.gate.wg.weight"), PROJECTIONS("mlp."), SHARED("mlp.shared_mlp.")},
    },
    {
        .model_types = {"jamba"},
        .sources = {NEEDS(intermediate, "intermediate_size")},
        .cases = {DENSE(OFF_STEP, .keys = {"expert_layer_period"}, .otherwise = 2, .phase = 1,
                        .phase_key = "expert_layer_offset")},
        .tensors = {ROUTER("feed_forward.router.weight"), PROJECTIONS("feed_forward.")},
    },
    {
        .model_types = {"lfm2_moe"},
        .base.options.router = {BIASED_SIGMOID_SUM, .epsilon = 1e-6F},
        .sources = {ROUTED_SCALE},
        .cases = {NORMALISES("norm_topk_prob"), IS("use_expert_bias", "false", router.selection_biased, false),
                  DENSE(BELOW, .keys = {"num_dense_layers"}, .otherwise = 2)},
        .tensors = {ROUTER("feed_forward.gate.weight"), SELECTION_BIAS("feed_forward.expert_bias"),
                    W_MATRICES("feed_forward.")},
    },
    {
        .model_types = {"longcat_flash"},
        .base.options.router = {.selection_biased = true, .scale = 6.0F},
        .sources = {LAYERS("num_layers", "num_hidden_layers"), NEEDS(top_k, "moe_topk"),
                    NEEDS(intermediate, "expert_ffn_hidden_size"), ROUTED_SCALE,
                    NEEDS(router.zero_experts, "zero_expert_num")},
        .tensors = {ROUTER("mlp.router.classifier.weight"), SELECTION_BIAS("mlp.router.e_score_correction_bias"),
                    PROJECTIONS("mlp.")},
    },
    {
        .model_types = {"gpt_oss"},
        .base.options = {.router = {TOP_LOGITS, .biased = true}, SWIGLU_OAI, .function.biased = true},
        .fixed_activation = true,
        .sources = {NEEDS(intermediate, "intermediate_size"), SWIGLU_OAI_SOURCES},
        .tensors = {ROUTER("mlp.router.weight"), TENSOR(ROUTER_BIAS, "mlp.router.bias"),
                    [MOECL_ROLE_GATE_UP] = {.names = {"mlp.experts.gate_up_proj"}, .interleaved = true},
                    TENSOR(DOWN, "mlp.experts.down_proj"), TENSOR(GATE_UP_BIAS, "mlp.experts.gate_up_proj_bias"),
                    TENSOR(DOWN_BIAS, "mlp.experts.down_proj_bias")},
    },
    {
        .model_types = {"granitemoe"},
        .base.options.router = {TOP_LOGITS},
        .sources = {NEEDS(intermediate, "intermediate_size")},
        .tensors = {LINEARS("block_sparse_moe.")},
    },
    {
        .model_types = {"granitemoeshared"},
        .base.options.router = {TOP_LOGITS},
        .sources = {NEEDS(intermediate, "intermediate_size"), TAKES(shared_intermediate, "shared_intermediate_size")},
        .tensors = {LINEARS("block_sparse_moe."), SHARED_LINEARS},
    },
    {
        .model_types = {"granitemoehybrid"},
        .base.options.router = {TOP_LOGITS},
        .sources = {NEEDS(intermediate, "intermediate_size"), TAKES(shared_intermediate, "shared_intermediate_size")},
        .tensors = {LINEARS("block_sparse_moe."), SHARED_LINEARS},
    },
    {
        .model_types = {"jetmoe"},
        .base.options = {.router = {TOP_LOGITS}, .output_biased = true},
        .sources = {NEEDS(intermediate, "intermediate_size"), TAKES(function.activation, "activation_function")},
        .tensors = {LINEARS("mlp."), TENSOR(OUTPUT_BIAS, "mlp.bias")},
    },
    {
        .model_types = {"llama4", "llama4_text"},
        .base.options.router = {.score = MOECL_SCORE_LOGIT, .weight = MOECL_WEIGHT_SIGMOID, .weight_on_input = true},
        .base.shared_experts = 1,
        .sources = {NEEDS(intermediate, "intermediate_size")},
        .cases = {DENSE(UNLISTED, .keys = {"moe_layers"}), DENSE(OFF_STEP, .keys = {"interleave_moe_layer_step"},
                                                                 .otherwise = 1, .phase = -1, .unless = "moe_layers")},
        .tensors = {ROUTER("feed_forward.router.weight"), PROJECTIONS("feed_forward."),
                    SHARED("feed_forward.shared_expert.")},
    },
    {
        .model_types = {"aria", "aria_text"},
        .base.options.router = {TOP_LOGITS},
        .sources = {NEEDS(experts, "moe_num_experts"), NEEDS(top_k, "moe_topk"),
                    NEEDS(intermediate, "intermediate_size"), SHARED_EXPERTS("moe_num_shared_experts")},
        .cases = {IS("mlp_bias", "true", shared_function.biased, true)},
        .tensors = {ROUTER("mlp.router.weight"), TENSOR(GATE_UP, "mlp.experts.fc1.weight", "mlp.experts.gate_up_proj"),
                    TENSOR(DOWN, "mlp.experts.fc2.weight", "mlp.experts.down_proj"), SHARED("mlp.shared_experts."),
                    SHARED_BIASES("mlp.shared_experts.")},
    },
    {
        .model_types = {"dbrx"},
        .prefixes = {"transformer.blocks.@."},
        .base.options.router = {.normalisation = MOECL_NORMALISATION_POWER, .power = 1.0F},
        .sources = {LAYERS("n_layers"), NEEDS(hidden, "d_model"), NEEDS(experts, "ffn_config.moe_num_experts"),
                    NEEDS(top_k, "ffn_config.moe_top_k"), NEEDS(intermediate, "ffn_config.ffn_hidden_size"),
                    TAKES(router.power, "ffn_config.moe_normalize_expert_weights"),
                    TAKES(function.activation, "ffn_config.ffn_act_fn.name")},
        .cases = {IS("ffn_config.moe_normalize_expert_weights", "null", router.normalisation,
                     MOECL_NORMALISATION_NONE)},
        .tensors = {ROUTER("ffn.router.layer.weight"), TENSOR(GATE, "ffn.experts.mlp.w1"),
                    TENSOR(UP, "ffn.experts.mlp.v1"),
                    [MOECL_ROLE_DOWN] = {.names = {"ffn.experts.mlp.w2"}, .transposed = true}},
    },
    {.model_types = {"switch_transformers"}, SWITCH_STACK("encoder", "1", "num_layers")},
    {.model_types = {"switch_transformers-decoder"}, SWITCH_STACK("decoder", "2", "num_decoder_layers")},
    {.model_types = {"nllb-moe"}, NLLB_STACK("encoder")},
    {.model_types = {"nllb-moe-decoder"}, NLLB_STACK("decoder")},
    {
        .model_types = {"phimoe"},
        .base.options.router = {.score = MOECL_SCORE_SPARSEMIXER, .jitter = 0.01F},
        .sources = {NEEDS(intermediate, "intermediate_size"), TAKES(router.jitter, "router_jitter_noise")},
        .tensors = {ROUTER("block_sparse_moe.gate.weight", "mlp.router.weight"), W_MATRICES("block_sparse_moe.")},
    },
    {
        .model_types = {"nemotron_h"},
        .prefixes = {"backbone.layers.@.", "model.layers.@."},
        .base.options = {.router = {DEEPSEEK_ROUTER},
                         .function = {.ungated = true, .activation = MOECL_ACTIVATION_RELU_SQUARED}},
        .sources = {LAYERS("num_hidden_layers", "layers_block_type", "hybrid_override_pattern"), DEEPSEEK_GROUPS,
                    ROUTED_SCALE, NEEDS(shared_intermediate, "moe_shared_expert_intermediate_size"),
                    TAKES(latent, "moe_latent_size"), TAKES(function.activation, "mlp_hidden_act")},
        .cases = {NORMALISES("norm_topk_prob"), REFUSED("mlp_bias", "true"),
                  DENSE(IS_NOT, .keys = {"layers_block_type"}, .value = "moe", .unless = "hybrid_override_pattern"),
                  DENSE(LETTER_NOT, .keys = {"hybrid_override_pattern"}, .value = "E")},
        .tensors = {ROUTER("mixer.gate.weight"), SELECTION_BIAS("mixer.gate.e_score_correction_bias"),
                    TENSOR(UP, "mixer.experts.#.up_proj.weight", "mixer.experts.up_proj"),
                    TENSOR(DOWN, "mixer.experts.#.down_proj.weight", "mixer.experts.down_proj"),
                    TENSOR(SHARED_UP, "mixer.shared_experts.up_proj.weight"),
                    TENSOR(SHARED_DOWN, "mixer.shared_experts.down_proj.weight"),
                    TENSOR(LATENT_DOWN, "mixer.fc1_latent_proj.weight"),
                    TENSOR(LATENT_UP, "mixer.fc2_latent_proj.weight")},
    },
    {
        .model_types = {"gemma4", "gemma4_text"},
        .base.options = {.router = {.normalisation = MOECL_NORMALISATION_SUM, .expert_scaled = true},
                         .function.activation = MOECL_ACTIVATION_GELU_TANH,
                         .router_input = {.normalised = true, .scaled = true, .epsilon = 1e-6F},
                         .expert_input = {.normalised = true, .scaled = true, .epsilon = 1e-6F}},
        .sources = {NEEDS(top_k, "top_k_experts"), TAKES(function.activation, "hidden_activation", "hidden_act"),
                    TAKES(router_input.epsilon, "rms_norm_eps"), TAKES(expert_input.epsilon, "rms_norm_eps"),
                    CONVERTS(router_input.scale, INVERSE_ROOT, "hidden_size")},
        .cases = {DENSE(IS_NOT, .keys = {"enable_moe_block"}, .value = "true")},
        .tensors = {ROUTER("router.proj.weight"), TENSOR(ROUTER_NORM, "router.scale"),
                    TENSOR(EXPERT_SCALE, "router.per_expert_scale"),
                    TENSOR(EXPERT_NORM, "pre_feedforward_layernorm_2.weight"),
                    TENSOR(GATE_UP, "experts.gate_up_proj", "moe.gate_up_proj"),
                    TENSOR(DOWN, "experts.down_proj", "moe.down_proj")},
    },
    {
        .model_types = {"laguna"},
        .base.options.router = {BIASED_SIGMOID_SUM},
        .sources = {NEEDS(shared_intermediate, "shared_expert_intermediate_size"),
                    TAKES(router.softcap, "moe_router_logit_softcapping"),
                    TAKES(router.scale, "moe_routed_scaling_factor")},
        .cases = {LAYER_TYPES, DENSE(BELOW, .otherwise = 1, .unless = "mlp_layer_types"),
                  IS("moe_apply_router_weight_on_input", "true", router.weight_on_input, true)},
        .tensors = {QWEN_TENSORS, SHARED("mlp.shared_expert."), SELECTION_BIAS("mlp.experts.e_score_correction_bias")},
    },
    {
        .model_types = {"step3p7", "step3p5"},
        .base.options = {.router = {BIASED_SIGMOID_SUM}, .function.clamp = MOECL_CLAMP_AFTER},
        .sources = {NEEDS(experts, "n_routed_experts", "moe_num_experts"),
                    NEEDS(top_k, "num_experts_per_tok", "moe_top_k"),
                    NEEDS(shared_intermediate, "share_expert_dim", "share_expert_dims"),
                    TAKES(router.scale, "moe_router_scaling_factor"), TAKES(function.limit, "swiglu_limits"),
                    TAKES(shared_function.limit, "swiglu_limits_shared")},
        .cases = {LAYER_TYPES, DENSE(UNLISTED, .keys = {"moe_layers_enum"}, .unless = "mlp_layer_types"),
                  ALWAYS(shared_function.clamp, MOECL_CLAMP_AFTER)},
        .tensors = {ROUTER("moe.gate.weight"), SELECTION_BIAS("moe.router_bias"),
                    TENSOR(GATE_UP, "mlp.experts.gate_up_proj"), TENSOR(GATE, "moe.gate_proj.weight"),
                    TENSOR(UP, "moe.up_proj.weight"), TENSOR(DOWN, "moe.down_proj.weight", "mlp.experts.down_proj"),
                    SHARED("share_expert.")},
    },
    {
        .model_types = {"doge"},
        .refusal = "its router takes the sums of two lists of scores (product keys), which no option of a layer says",
    },
    {
        .model_types = {"zaya"},
        .refusal = "its router is a network of several layers with a state that goes from layer to layer, which no "
                   "option of a layer says",
    },
};

const struct moecl_family *moecl_family_row(size_t index)
{
    return index < sizeof families / sizeof families[0] ? &families[index] : NULL;
}
