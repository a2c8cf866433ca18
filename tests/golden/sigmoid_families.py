# SPDX-License-Identifier: Apache-2.0
"""Families whose router scores each expert by itself: sigmoid, or the root of a softplus."""

from registry import attention, deepseek_v3_note, family, latent_attention


@family
def deepseek_v3(dims, norm=True, group=True):
    return dict(
        model_type="deepseek_v3",
        block="DeepseekV3MoE",
        config=latent_attention(
            dims,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            n_routed_experts=2 * dims.E if group else dims.E,
            num_experts_per_tok=dims.k + 2,
            n_shared_experts=1,
            first_k_dense_replace=1,
            n_group=4 if group else 1,
            topk_group=2 if group else 1,
            norm_topk_prob=norm,
            routed_scaling_factor=2.5,
            num_nextn_predict_layers=0,
        ),
        note=deepseek_v3_note(norm),
    )


@family
def deepseek_v3__nonorm(dims):
    return deepseek_v3(dims, False)


@family
def deepseek_v3__nogroup_nonorm(dims):
    return deepseek_v3(dims, False, False)


@family
def deepseek_v3__bf16(dims):
    return dict(deepseek_v3(dims), bf16=True)


@family
def bailing_hybrid(dims):
    config = attention(
        dims,
        layers=2,
        intermediate_size=2 * dims.I,
        moe_intermediate_size=dims.I,
        num_experts=2 * dims.E,
        n_shared_experts=1,
        num_experts_per_tok=dims.k + 2,
        n_group=4,
        topk_group=2,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        kv_lora_rank=16,
        q_lora_rank=None,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        layer_types=["full_attention"] * 2,
        mlp_layer_types=["dense", "sparse"],
        num_nextn_predict_layers=0,
    )
    return dict(
        model_type="bailing_hybrid",
        block="BailingHybridMoE",
        config=config,
        note=deepseek_v3_note(True) + " The bias tensor is mlp.gate.expert_bias.",
    )


@family
def glm4_moe(dims, norm=True, group=False):
    return dict(
        model_type="glm4_moe",
        block="Glm4MoeMoE",
        config=attention(
            dims,
            layers=2,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            n_routed_experts=2 * dims.E if group else dims.E,
            n_shared_experts=1,
            n_group=4 if group else 1,
            topk_group=2 if group else 1,
            num_experts_per_tok=dims.k + 1,
            first_k_dense_replace=1,
            norm_topk_prob=norm,
            routed_scaling_factor=1.8,
            num_nextn_predict_layers=0,
        ),
        note=deepseek_v3_note(norm),
    )


@family
def glm4_moe__group(dims):
    return glm4_moe(dims, True, True)


@family
def nemotron_h(dims, latent=None, norm=True):
    return dict(
        model_type="nemotron_h",
        block="NemotronHMoE",
        keep=r"\.layers\.\d+\.mixer\.",
        config=attention(
            dims,
            layers_block_type=["moe"],
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            moe_shared_expert_intermediate_size=2 * dims.I,
            n_routed_experts=2 * dims.E,
            num_experts_per_tok=dims.k + 2,
            n_group=4,
            topk_group=2,
            norm_topk_prob=norm,
            routed_scaling_factor=2.5,
            moe_latent_size=latent,
            ssm_state_size=8,
            mamba_num_heads=2,
            mamba_head_dim=8,
            n_groups=1,
            use_mamba_kernels=False,
        ),
        note=deepseek_v3_note(norm)
        + " Experts have no gate: down(relu(up x)^2); shared expert the same with its own width"
        + (
            f"; moe_latent_size={latent}: the experts work on fc1_latent_proj(x) and fc2_latent_proj maps their"
            " weighted sum back to H (router and shared expert see x itself)."
            if latent
            else "."
        ),
    )


@family
def nemotron_h__latent(dims):
    return nemotron_h(dims, dims.H // 2)


@family
def lfm2_moe(dims, bias=True, norm=True):
    return dict(
        model_type="lfm2_moe",
        block="Lfm2MoeSparseMoeBlock",
        config=attention(
            dims,
            head_dim=False,
            layers=2,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            num_experts=dims.E,
            num_experts_per_tok=dims.k + 2,
            num_dense_layers=1,
            use_expert_bias=bias,
            norm_topk_prob=norm,
            routed_scaling_factor=1.3,
            layer_types=["full_attention", "full_attention"],
        ),
        note=(
            f"sigmoid scores; selection on score + expert_bias (use_expert_bias={bias}); weights are the scores without"
            f" the bias, norm_topk_prob={norm} (divide by sum + 1e-6), then times routed_scaling_factor."
        ),
    )


@family
def lfm2_moe__nobias(dims):
    return lfm2_moe(dims, False, True)


@family
def lfm2_moe__nonorm(dims):
    return lfm2_moe(dims, True, False)


@family
def minimax_m2(dims):
    return dict(
        model_type="minimax_m2",
        block="MiniMaxM2SparseMoeBlock",
        config=attention(
            dims,
            intermediate_size=dims.I,
            num_local_experts=dims.E,
            num_experts_per_tok=dims.k + 2,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
        ),
        note=(
            "sigmoid scores (float32); selection on score + e_score_correction_bias; weights are the scores without the"
            " bias divided by their sum (no eps); no scaling, no shared expert."
        ),
    )


@family
def minimax_m3(dims):
    text = attention(
        dims,
        layers=2,
        intermediate_size=dims.I,
        dense_intermediate_size=2 * dims.I,
        shared_intermediate_size=dims.I,
        num_local_experts=dims.E,
        num_experts_per_tok=dims.k + 1,
        mlp_layer_types=["dense", "sparse"],
        layer_types=["full_attention"] * 2,
        rotary_dim=dims.H // 4,
        swiglu_limit=7.0,
        routed_scaling_factor=2.0,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
        index_n_heads=2,
        index_head_dim=16,
    )
    vision = dict(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    return dict(
        model_type="minimax_m3_vl",
        model_class="MiniMaxM3SparseForConditionalGeneration",
        block="MiniMaxM3VLSparseMoeBlock",
        gain_up=4.0,
        gain_down=0.35,
        config=dict(text_config=text, vision_config=vision, projector_hidden_size=32),
        note=(
            "sigmoid scores; selection on score + e_score_correction_bias; weights are the scores / sum (no eps); the"
            " routed sum is then multiplied by routed_scaling_factor and shared_experts(x) is added; experts and shared"
            " expert use the gpt-oss activation (not interleaved): gate clamped to max=7, up to [-7,7],"
            " (up+1)*gate*sigmoid(1.702*gate)."
        ),
    )


@family
def laguna(dims, softcap=0.0):
    return dict(
        model_type="laguna",
        block="LagunaSparseMoeBlock",
        config=attention(
            dims,
            layers=2,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            shared_expert_intermediate_size=dims.I,
            num_experts=dims.E,
            num_experts_per_tok=dims.k + 2,
            mlp_layer_types=["dense", "sparse"],
            layer_types=["full_attention"] * 2,
            moe_routed_scaling_factor=2.5,
            moe_router_logit_softcapping=softcap,
        ),
        note=(
            f"logits (moe_router_logit_softcapping={softcap}: tanh(l/c)*c when c > 0), sigmoid scores (float32);"
            " selection on score + e_score_correction_bias (stored as mlp.experts.e_score_correction_bias); weights"
            " are the scores / sum (no eps); the routed sum is multiplied by moe_routed_scaling_factor, then"
            " shared_expert(x) is added; logits are stored after the soft cap."
        ),
    )


@family
def laguna__softcap(dims):
    return laguna(dims, 1.5)


@family
def step3p7(dims):
    text = attention(
        dims,
        layers=3,
        intermediate_size=2 * dims.I,
        moe_intermediate_size=dims.I,
        share_expert_dim=dims.I,
        n_routed_experts=dims.E,
        num_experts_per_tok=dims.k + 2,
        mlp_layer_types=["dense", "sparse", "sparse"],
        layer_types=["full_attention"] * 3,
        moe_router_scaling_factor=3.0,
        sliding_window=64,
        swiglu_limits=[0.0, 0.0, 1.5],
        swiglu_limits_shared=[0.0, 0.0, 2.0],
    )
    vision = dict(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    return dict(
        model_type="step3p7",
        model_class="Step3p7ForConditionalGeneration",
        block="Step3p7SparseMoeBlock",
        gain_up=2.0,
        gain_down=0.8,
        keep=r"\.layers\.\d+\.(moe|share_expert)\.",
        config=dict(text_config=text, vision_config=vision),
        note=(
            "sigmoid scores; selection on score + router_bias; weights are the scores / sum (no eps); the routed sum is"
            " multiplied by moe_router_scaling_factor, then share_expert(x) is added; per-layer clamps swiglu_limits"
            " (routed) and swiglu_limits_shared (0 = none): silu(gate) clamped to max=limit AFTER the silu, up to"
            " [-limit, limit]; experts stored stacked: moe.gate_proj/up_proj [E,I,H], moe.down_proj [E,H,I]."
        ),
    )


@family
def deepseek_v4(dims, swiglu_limit=4.0):
    config = attention(
        dims,
        layers=2,
        num_key_value_heads=1,
        moe_intermediate_size=dims.I,
        n_routed_experts=dims.E,
        num_experts_per_tok=dims.k + 1,
        n_shared_experts=1,
        q_lora_rank=16,
        o_groups=2,
        o_lora_rank=8,
        index_n_heads=2,
        index_head_dim=16,
        index_topk=4,
        hc_mult=2,
        swiglu_limit=swiglu_limit,
        layer_types=["sliding_attention", "sliding_attention"],
        mlp_layer_types=["hash_moe", "moe"],
        routed_scaling_factor=1.5,
        sliding_window=64,
        partial_rotary_factor=0.5,
        num_nextn_predict_layers=0,
    )
    return dict(
        model_type="deepseek_v4",
        block="DeepseekV4SparseMoeBlock",
        config=config,
        gain_up=2.5,
        gain_down=0.5,
        bias_std=0.3,
        keep=r"^(model\.)?layers\.\d+\.ffn\.",
        note=(
            "scores = sqrt(softplus(logits)); layer 1 selects on score + bias (no groups), layer 0 takes its ids from "
            "the table gate.tid2eid[token id] (layer0.token_ids); weights are scores without the bias / "
            "(sum + 1e-20) * routed_scaling_factor; experts and shared expert clamp gate to max=swiglu_limit and "
            "up to [-swiglu_limit, swiglu_limit] BEFORE silu(gate)*up."
        ),
    )


@family
def dots1(dims):
    return dict(
        model_type="dots1",
        block="Dots1MoE",
        config=attention(
            dims,
            layers=2,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            n_routed_experts=2 * dims.E,
            num_experts_per_tok=dims.k + 2,
            n_shared_experts=2,
            first_k_dense_replace=1,
            n_group=4,
            topk_group=2,
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
        ),
        note=deepseek_v3_note(True),
    )


@family
def exaone_moe(dims):
    return dict(
        model_type="exaone_moe",
        block="ExaoneMoeSparseMoEBlock",
        config=attention(
            dims,
            layers=2,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            num_experts=2 * dims.E,
            num_experts_per_tok=dims.k + 2,
            num_shared_experts=1,
            first_k_dense_replace=1,
            n_group=4,
            topk_group=2,
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
            layer_types=["full_attention"] * 2,
        ),
        note=deepseek_v3_note(True) + " The bias tensor is mlp.e_score_correction_bias.",
    )


@family
def kimi_linear(dims):
    return dict(
        model_type="kimi_linear",
        block="KimiLinearMoE",
        config=attention(
            dims,
            head_dim=False,
            layers=2,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            num_local_experts=2 * dims.E,
            num_experts_per_tok=dims.k + 2,
            n_shared_experts=1,
            n_group=4,
            topk_group=2,
            norm_topk_prob=True,
            kv_lora_rank=16,
            q_lora_rank=None,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
            layer_types=["full_attention"] * 2,
            mlp_layer_types=["dense", "sparse"],
        ),
        note=deepseek_v3_note(True) + " Experts are block_sparse_moe.experts.N.w1 (gate), w3 (up), w2 (down).",
    )


def _first_layer_dense(config):
    """The first layer is dense by a count, as older configs say it."""
    del config["mlp_layer_types"]
    config["first_k_dense_replace"] = 1


@family
def kimi_linear__first_dense(dims):
    return dict(kimi_linear(dims), rewrite=_first_layer_dense)


@family
def mimo_v2_flash(dims):
    return dict(
        model_type="mimo_v2_flash",
        block="MiMoV2FlashMoE",
        config=attention(
            dims,
            layers=2,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            n_routed_experts=2 * dims.E,
            num_experts_per_tok=dims.k + 2,
            n_group=4,
            topk_group=2,
            norm_topk_prob=True,
            routed_scaling_factor=1.5,
            v_head_dim=dims.H // 2,
            layer_types=["full_attention"] * 2,
            mlp_layer_types=["dense", "sparse"],
        ),
        note=deepseek_v3_note(True, shared=False),
    )


def _published_mimo(config):
    """As the published config.json: null where there is nothing, and a list that says which layers are MoE."""
    del config["mlp_layer_types"]
    config.update(moe_layer_freq=[0, 1], n_shared_experts=None, routed_scaling_factor=None)


@family
def mimo_v2_flash__nulls(dims):
    spec = mimo_v2_flash(dims)
    spec["config"].update(n_group=1, topk_group=1, routed_scaling_factor=1.0)
    return dict(spec, rewrite=_published_mimo)


@family
def solar_open(dims):
    return dict(
        model_type="solar_open",
        block="SolarOpenMoE",
        config=attention(
            dims,
            moe_intermediate_size=dims.I,
            n_routed_experts=2 * dims.E,
            num_experts_per_tok=dims.k + 2,
            n_shared_experts=1,
            n_group=4,
            topk_group=2,
            norm_topk_prob=True,
            routed_scaling_factor=1.5,
        ),
        note=deepseek_v3_note(True),
    )


@family
def afmoe(dims):
    return dict(
        model_type="afmoe",
        block="AfmoeSparseMoeBlock",
        config=attention(
            dims,
            layers=2,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            num_experts=dims.E,
            num_experts_per_tok=dims.k + 1,
            num_shared_experts=2,
            num_dense_layers=1,
            route_scale=2.2,
            layer_types=["full_attention"] * 2,
        ),
        note=(
            "sigmoid scores (float32); selection on score + expert_bias; weights are the scores without the bias / "
            "(sum + 1e-20), then times route_scale; shared_experts (width num_shared_experts*I) added ungated; router "
            "weight is mlp.router.gate.weight."
        ),
    )


@family
def hy_v3(dims):
    return dict(
        model_type="hy_v3",
        block="HYV3MoE",
        config=attention(
            dims,
            layers=2,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            num_experts=dims.E,
            num_experts_per_tok=dims.k + 1,
            num_shared_experts=1,
            router_scaling_factor=2.8,
            mlp_layer_types=["dense", "sparse"],
        ),
        note=(
            "sigmoid scores (float32); selection on score + expert_bias; weights are the scores without the bias / "
            "(sum + 1e-20), then times router_scaling_factor; shared_mlp (width num_shared_experts*I) added ungated; "
            "router weight is mlp.router.gate.weight."
        ),
    )
