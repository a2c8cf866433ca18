# SPDX-License-Identifier: Apache-2.0
"""Families whose router scores with a softmax over all experts."""

from types import SimpleNamespace

from registry import SPECIAL_TOKENS, VOCABULARY, attention, family, latent_attention


@family
def mixtral(dims):
    return dict(
        model_type="mixtral",
        block="MixtralSparseMoeBlock",
        config=attention(dims, intermediate_size=dims.I, num_local_experts=dims.E, num_experts_per_tok=dims.k),
        note="softmax over all E logits (float32), top-k, then divide by the sum of the k kept values (no eps).",
    )


@family
def mixtral__fused(dims):
    return dict(
        mixtral(dims),
        published_names=False,
        note=mixtral(dims)["note"]
        + " Experts stored under the fused in-memory names: "
        "mlp.experts.gate_up_proj [E,2I,H] (gate rows first), mlp.experts.down_proj [E,H,I].",
    )


@family
def mixtral__bf16(dims):
    return dict(mixtral(dims), bf16=True)


@family
def minimax(dims):
    return dict(
        model_type="minimax",
        block="MiniMaxSparseMoeBlock",
        config=attention(
            dims,
            intermediate_size=dims.I,
            num_local_experts=dims.E,
            num_experts_per_tok=dims.k,
            layer_types=["full_attention"],
        ),
        note="as mixtral: softmax over E, top-k, renormalised.",
    )


@family
def qwen2_moe(dims, norm=False):
    return dict(
        model_type="qwen2_moe",
        block="Qwen2MoeSparseMoeBlock",
        config=attention(
            dims,
            head_dim=False,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            shared_expert_intermediate_size=2 * dims.I,
            num_experts=dims.E,
            num_experts_per_tok=dims.k + 2,
            norm_topk_prob=norm,
        ),
        note=f"softmax over E, top-k, norm_topk_prob={norm}; plus sigmoid(x.shared_expert_gate) * shared_expert(x).",
    )


@family
def qwen2_moe__norm(dims):
    return qwen2_moe(dims, True)


@family
def qwen3_moe(dims, norm=True):
    return dict(
        model_type="qwen3_moe",
        block="Qwen3MoeSparseMoeBlock",
        config=attention(
            dims,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            num_experts=dims.E,
            num_experts_per_tok=dims.k + 2,
            norm_topk_prob=norm,
        ),
        note=f"softmax over E, top-k, norm_topk_prob={norm} (no eps), no shared expert.",
    )


@family
def qwen3_moe__nonorm(dims):
    return dict(qwen3_moe(dims, False), rename={"num_local_experts": "num_experts"})


@family
def qwen3_next(dims, norm=True):
    return dict(
        model_type="qwen3_next",
        block="Qwen3NextSparseMoeBlock",
        config=attention(
            dims,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            shared_expert_intermediate_size=dims.I,
            num_experts=dims.E,
            num_experts_per_tok=dims.k + 1,
            norm_topk_prob=norm,
            layer_types=["full_attention"],
        ),
        note=f"softmax over E, top-k, norm_topk_prob={norm}; plus sigmoid(x.shared_expert_gate) * shared_expert(x).",
    )


@family
def qwen3_next__nonorm(dims):
    return qwen3_next(dims, False)


def _mrope(dims):
    q = dims.H // 4  # half of the rotary width (head_dim H/2, all rotary)
    return dict(
        rope_type="default",
        rope_theta=10000.0,
        mrope_section=[q - 2 * (q // 3), q // 3, q // 3],
        mrope_interleaved=True,
    )


def _qwen_vision(dims):
    return dict(
        depth=1,
        hidden_size=32,
        intermediate_size=32,
        num_heads=2,
        patch_size=4,
        out_hidden_size=dims.H,
        num_position_embeddings=16,
    )


@family
def qwen3_5_moe(dims, fused=False):
    text = attention(
        dims,
        moe_intermediate_size=dims.I,
        shared_expert_intermediate_size=dims.I,
        num_experts=dims.E,
        num_experts_per_tok=dims.k + 1,
        layer_types=["full_attention"],
        rope_parameters=dict(_mrope(dims), partial_rotary_factor=1.0),
    )
    return dict(
        model_type="qwen3_5_moe",
        model_class="Qwen3_5MoeForConditionalGeneration",
        block="Qwen3_5MoeSparseMoeBlock",
        config=dict(text_config=text, vision_config=_qwen_vision(dims)),
        published_names=not fused,
        note="softmax over E, top-k, always renormalised; plus sigmoid(x.shared_expert_gate) * shared_expert(x)."
        + (" Experts stored fused: gate_up_proj [E,2I,H] (gate rows first), down_proj [E,H,I]." if fused else ""),
    )


@family
def qwen3_5_moe__fused(dims):
    return qwen3_5_moe(dims, True)


@family
def qwen3_vl_moe(dims, resaved=False):
    dims = SimpleNamespace(
        **dict(vars(dims), H=2 * dims.H, E=dims.E // 2)
    )  # H, I and 2I all different: the layout is told apart by shape
    text = attention(
        dims,
        intermediate_size=2 * dims.I,
        moe_intermediate_size=dims.I,
        num_experts=dims.E,
        num_experts_per_tok=dims.k,
        rope_parameters=_mrope(dims),
    )
    return dict(
        model_type="qwen3_vl_moe",
        model_class="Qwen3VLMoeForConditionalGeneration",
        block="Qwen3VLMoeTextSparseMoeBlock",
        config=dict(text_config=text, vision_config=dict(_qwen_vision(dims), deepstack_visual_indexes=[0])),
        transpose=not resaved,
        rename={} if resaved else {"num_local_experts": "num_experts"},
        note="softmax over E, top-k, always renormalised; experts stored fused, "
        + (
            "as the library writes them back: gate_up_proj [E,2I,H] (gate rows first), down_proj [E,H,I]."
            if resaved
            else (
                "TRANSPOSED as in the published checkpoints: gate_up_proj [E,H,2I] (gate columns first), down_proj"
                " [E,I,H]; the library tells the two layouts apart by shape alone."
            )
        ),
    )


@family
def qwen3_vl_moe__resaved(dims):
    return qwen3_vl_moe(dims, True)


@family
def olmoe(dims, norm=False):
    return dict(
        model_type="olmoe",
        block="OlmoeSparseMoeBlock",
        config=attention(
            dims,
            head_dim=False,
            intermediate_size=dims.I,
            num_experts=dims.E,
            num_experts_per_tok=dims.k + 2,
            norm_topk_prob=norm,
        ),
        note=f"softmax over E, top-k, norm_topk_prob={norm}.",
    )


@family
def olmoe__norm(dims):
    return olmoe(dims, True)


@family
def deepseek_v2(dims, method="greedy"):
    grouped = method != "greedy"
    config = latent_attention(
        dims,
        intermediate_size=2 * dims.I,
        moe_intermediate_size=dims.I,
        n_routed_experts=2 * dims.E if grouped else dims.E,
        num_experts_per_tok=dims.k + 1,
        n_shared_experts=2,
        first_k_dense_replace=1,
        topk_method=method,
        routed_scaling_factor=1.7,
        norm_topk_prob=False,
    )
    if grouped:
        config.update(n_group=4, topk_group=2)
    return dict(
        model_type="deepseek_v2",
        block="DeepseekV2Moe",
        config=config,
        note=f"softmax (float32) over E; topk_method={method}"
        + (
            "; a group scores by its single best expert, scores outside the best topk_group groups are set to 0.0"
            if grouped
            else ""
        )
        + "; weights are NOT renormalised (norm_topk_prob is ignored by the code), then times "
        "routed_scaling_factor; shared_experts (width n_shared_experts*I) added ungated.",
    )


@family
def deepseek_v2__group(dims):
    return deepseek_v2(dims, "group_limited_greedy")


@family
def ernie4_5_moe(dims, bias=False, shared=2):
    return dict(
        model_type="ernie4_5_moe",
        block="Ernie4_5_MoeSparseMoeBlock",
        config=attention(
            dims,
            layers=2,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            moe_num_experts=dims.E,
            moe_k=dims.k + 1,
            moe_num_shared_experts=shared,
            moe_layer_start_index=1,
            use_bias=bias,
            tie_word_embeddings=False,
        ),
        note=(
            "softmax (float32) over E; selection on probability + moe_statics.e_score_correction_bias [1,E]; weights"
            " are the probabilities without the bias / max(sum, moe_norm_min=1e-12); shared_experts (width"
            " moe_num_shared_experts*I) added ungated"
        )
        + ("; the shared MLP has biases (use_bias)." if bias else "."),
    )


@family
def ernie4_5_moe__noshared(dims):
    return ernie4_5_moe(dims, False, 0)


@family
def ernie4_5_moe__bias(dims):
    return ernie4_5_moe(dims, True, 2)


@family
def hunyuan_v1_moe(dims):
    return dict(
        model_type="hunyuan_v1_moe",
        block="HunYuanMoEV1Moe",
        config=attention(dims, intermediate_size=dims.I, num_experts=dims.E, moe_topk=dims.k),
        note=(
            "softmax over E, top-k, always renormalised (no eps); shared_mlp (same width as one expert) added ungated; "
            "router weight is gate.wg.weight."
        ),
    )


@family
def jamba(dims):
    return dict(
        model_type="jamba",
        block="JambaSparseMoeBlock",
        config=attention(
            dims,
            head_dim=False,
            intermediate_size=dims.I,
            num_experts=dims.E,
            num_experts_per_tok=dims.k,
            attn_layer_period=1,
            attn_layer_offset=0,
            expert_layer_period=1,
            expert_layer_offset=0,
            use_mamba_kernels=False,
        ),
        note="softmax (float32) over E, top-k, NOT renormalised; router weight is feed_forward.router.weight.",
    )


@family
def longcat_flash(dims):
    config = attention(
        dims,
        head_dim=False,
        intermediate_size=2 * dims.I,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        expert_ffn_hidden_size=dims.I,
        n_routed_experts=dims.E,
        zero_expert_num=dims.E // 2,
        moe_topk=dims.k + 2,
        routed_scaling_factor=6.0,
    )
    config["ffn_hidden_size"] = config.pop("intermediate_size")
    config["num_layers"] = 1
    config.pop("num_hidden_layers")
    config["head_dim"] = 8
    return dict(
        model_type="longcat_flash",
        block="LongcatFlashMoE",
        config=config,
        keep=r"\.layers\.\d+\.mlp\.",
        note=(
            "softmax (float32) over n_routed_experts + zero_expert_num; selection on probability + "
            "e_score_correction_bias; weights are the probabilities without the bias, NOT renormalised, times "
            "routed_scaling_factor; ids >= n_routed_experts are identity experts (output = weight * x); the checkpoint "
            "also carries gate_proj/up_proj for the identity experts, which are never used."
        ),
    )


@family
def dbrx(dims, p=1.0):
    return dict(
        model_type="dbrx",
        block="DbrxFFN",
        config=dict(
            vocab_size=VOCABULARY,
            d_model=dims.H,
            n_heads=2,
            n_layers=1,
            max_seq_len=256,
            **SPECIAL_TOKENS,
            attn_config=dict(kv_n_heads=2, clip_qkv=8.0, rope_theta=10000.0),
            ffn_config=dict(
                ffn_hidden_size=dims.I,
                moe_num_experts=dims.E,
                moe_top_k=dims.k + 2,
                ffn_act_fn={"name": "silu"},
                moe_normalize_expert_weights=p,
            ),
        ),
        note=f"softmax over E, top-k, moe_normalize_expert_weights={p}: "
        + ("no renormalisation" if p is None else f"divide by the p-norm with p={p} of the kept weights")
        + "; experts stored stacked: w1 (gate), v1 (up), w2 (down) all [E*I,H]; "
        "expert e is rows e*I..(e+1)*I, down is h @ w2_e (no transpose).",
    )


@family
def dbrx__nonorm(dims):
    return dbrx(dims, None)


@family
def dbrx__norm2(dims):
    return dbrx(dims, 2.0)


@family
def gemma4(dims):
    text = attention(
        dims,
        intermediate_size=2 * dims.I,
        enable_moe_block=True,
        num_experts=dims.E,
        top_k_experts=dims.k + 1,
        moe_intermediate_size=dims.I,
        layer_types=["full_attention"],
        hidden_size_per_layer_input=0,
        global_head_dim=dims.H // 2,
        vocab_size_per_layer_input=VOCABULARY,
        sliding_window=64,
    )
    return dict(
        model_type="gemma4",
        model_class="Gemma4ForConditionalGeneration",
        block="Gemma4TextDecoderLayer",
        gemma=True,
        keep=r"\.layers\.\d+\.(router\.|experts\.|pre_feedforward_layernorm_2|post_feedforward_layernorm_2)",
        config=dict(text_config=text, vision_config=None, audio_config=None),
        note=(
            "the router sees rmsnorm(x, no weight) * router.scale * H^-0.5; softmax (float32) over E, top-k,"
            " renormalised (no eps), then each weight times router.per_expert_scale[id]; the experts see xe ="
            " pre_feedforward_layernorm_2(x); x is the raw residual stream, y the weighted expert sum BEFORE"
            " post_feedforward_layernorm_2, y_post after it; activation gelu_pytorch_tanh; experts fused gate_up_proj"
            " [E,2I,H] (gate rows first), down_proj [E,H,I]."
        ),
    )


@family
def flex_olmo(dims, norm=False):
    return dict(
        model_type="flex_olmo",
        block="FlexOlmoSparseMoeBlock",
        config=attention(
            dims,
            head_dim=False,
            intermediate_size=dims.I,
            num_experts=dims.E,
            num_experts_per_tok=dims.k + 1,
            norm_topk_prob=norm,
        ),
        note=f"softmax (float32) over E, top-k, norm_topk_prob={norm} (no eps), no shared expert.",
    )


@family
def flex_olmo__norm(dims):
    return flex_olmo(dims, True)


@family
def mistral4(dims):
    return dict(
        model_type="mistral4",
        model_class="Mistral4ForCausalLM",
        block="Mistral4MoE",
        config=latent_attention(
            dims,
            intermediate_size=2 * dims.I,
            moe_intermediate_size=dims.I,
            n_routed_experts=2 * dims.E,
            num_experts_per_tok=dims.k + 2,
            n_shared_experts=1,
            n_group=4,
            topk_group=2,
            norm_topk_prob=True,
            routed_scaling_factor=1.5,
            first_k_dense_replace=1,
        ),
        note=(
            "softmax over E; a group scores by the sum of its two best probabilities, the best topk_group of n_group "
            "groups stay, the rest are set to 0.0; norm_topk_prob=True (divide by sum + 1e-20), then times "
            "routed_scaling_factor; shared_experts added ungated; experts stored fused: gate_up_proj [E,2I,H] "
            "(gate rows first), down_proj [E,H,I]."
        ),
    )


@family
def mistral4__wrapped(dims):
    text = mistral4(dims)
    vision = dict(
        model_type="pixtral",
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    return dict(
        text,
        model_type="mistral3",
        model_class="Mistral3ForConditionalGeneration",
        config=dict(text_config=dict(text["config"], model_type="mistral4"), vision_config=vision),
        note=text["note"]
        + " The text model of a mistral3: model_type mistral4 stands in text_config, tensors under language_model.",
    )
