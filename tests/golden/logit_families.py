# SPDX-License-Identifier: Apache-2.0
"""Families whose router chooses by the logits, and weighs only the chosen: softmax, sigmoid, or sparsemixer."""

import torch

from registry import SPECIAL_TOKENS, VOCABULARY, attention, family


@family
def gpt_oss(dims):
    return dict(
        model_type="gpt_oss",
        block="GptOssMLP",
        gain_up=4.0,
        gain_down=0.35,
        config=attention(
            dims,
            intermediate_size=dims.I,
            num_local_experts=dims.E,
            num_experts_per_tok=dims.k + 2,
            layer_types=["full_attention"],
            rope_parameters=dict(rope_type="default", rope_theta=10000.0),
        ),
        note=(
            "router has a bias; top-k of the logits, softmax over the k kept logits; experts stored transposed and "
            "interleaved: gate_up_proj [E,H,2I] with gate in even and up in odd columns, down_proj [E,I,H], both with "
            "biases; gate clamped to max=7, up clamped to [-7,7], h = (up+1) * gate*sigmoid(1.702*gate)."
        ),
    )


@family
def gpt_oss__bf16(dims):
    return dict(gpt_oss(dims), bf16=True)


@family
def gpt_oss__mxfp4(dims):
    spec = gpt_oss(dims)
    spec.update(
        mxfp4=True,
        note=spec["note"]
        + " Experts stored in MXFP4: *_blocks uint8 [E,rows,cols/32,16] (low nibble = even column) "
        "and *_scales uint8 [E,rows,cols/32] (value = fp4 * 2^(scale-127)); gate_up rows = 2I interleaved, cols = H; "
        "down rows = H, cols = I; router and biases bf16. Outputs computed in float32 from the dequantised weights.",
    )
    return spec


@family
def granitemoe(dims):
    return dict(
        model_type="granitemoe",
        block="GraniteMoeMoE",
        config=attention(
            dims, head_dim=False, intermediate_size=dims.I, num_local_experts=dims.E, num_experts_per_tok=dims.k + 1
        ),
        note=(
            "top-k of the logits (float32), softmax over the k kept logits; experts stored fused: input_linear [E,2I,H]"
            " (gate rows first), output_linear [E,H,I]; router weight is router.layer.weight."
        ),
    )


def _granite_shared(captured, block, layer):
    x = captured["x"].view(1, -1, captured["x"].shape[-1])
    captured["routed"] = captured["y"].clone()
    captured["y"] = captured["y"] + layer.shared_mlp(x).reshape(captured["y"].shape)


@family
def granitemoeshared(dims):
    return dict(
        model_type="granitemoeshared",
        block="GraniteMoeSharedMoE",
        adapt=_granite_shared,
        extra=r"\.shared_mlp\.",
        config=attention(
            dims,
            head_dim=False,
            intermediate_size=dims.I,
            num_local_experts=dims.E,
            num_experts_per_tok=dims.k + 1,
            shared_intermediate_size=2 * dims.I,
        ),
        note=(
            "as granitemoe, plus shared_mlp(x) (input_linear [2S,H] gate rows first, output_linear [H,S]) added"
            " ungated; y is block_sparse_moe(x) + shared_mlp(x), routed is block_sparse_moe(x) alone."
        ),
    )


@family
def granitemoehybrid(dims):
    return dict(
        model_type="granitemoehybrid",
        block="GraniteMoeHybridMoE",
        adapt=_granite_shared,
        extra=r"\.shared_mlp\.",
        config=attention(
            dims,
            head_dim=False,
            intermediate_size=dims.I,
            num_local_experts=dims.E,
            num_experts_per_tok=dims.k,
            shared_intermediate_size=2 * dims.I,
            layer_types=["full_attention"],
            mamba_n_heads=4,
            mamba_d_state=8,
        ),
        note=(
            "as granitemoeshared: top-k of the logits, softmax over the kept; plus shared_mlp(x) ungated; y is the sum."
        ),
    )


def _jetmoe(captured, block, layer):
    logits = captured["logits"]
    kept, ids = logits.topk(block.router.top_k, dim=1)
    captured["ids"], captured["weights"] = ids, torch.softmax(kept, 1)


@family
def jetmoe(dims):
    return dict(
        model_type="jetmoe",
        block="JetMoeMoE",
        adapt=_jetmoe,
        keep=r"\.layers\.\d+\.mlp\.",
        config=dict(
            vocab_size=VOCABULARY,
            hidden_size=dims.H,
            num_hidden_layers=1,
            num_key_value_heads=2,
            kv_channels=16,
            intermediate_size=dims.I,
            num_local_experts=dims.E,
            num_experts_per_tok=dims.k,
            tie_word_embeddings=False,
            **SPECIAL_TOKENS,
        ),
        note=(
            "top-k of the logits (float32), softmax over the k kept; experts stored fused: input_linear.weight [E,2I,H]"
            " (gate rows first), output_linear.weight [E,H,I]; one output bias [H] (mlp.bias) added once per token"
            " after the weighted sum."
        ),
    )


def _llama4(captured, block, layer):
    kept, ids = captured["logits"].topk(block.top_k, dim=1)
    captured["ids"], captured["weights"] = ids, torch.sigmoid(kept)


@family
def llama4(dims, k=1):
    text = attention(
        dims,
        layers=2,
        intermediate_size=dims.I,
        intermediate_size_mlp=2 * dims.I,
        num_local_experts=dims.E,
        num_experts_per_tok=k,
        interleave_moe_layer_step=2,
        attention_chunk_size=64,
        no_rope_layers=[1, 1],
    )
    vision = dict(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=128,
        vision_output_dim=32,
        image_size=28,
        patch_size=14,
        projector_input_dim=32,
        projector_output_dim=32,
    )
    return dict(
        model_type="llama4",
        model_class="Llama4ForConditionalGeneration",
        block="Llama4TextMoe",
        adapt=_llama4,
        run=lambda m, kw: m.get_submodule("language_model")(**kw),
        config=dict(text_config=text, vision_config=vision),
        note=(
            "top-k of the logits, weight = sigmoid(logit), NOT renormalised; the weight multiplies the expert's INPUT "
            "(expert(w*x)), not its output; experts stored fused and transposed: gate_up_proj [E,H,2I] (gate columns "
            "first), down_proj [E,I,H]; shared_expert (width I) added ungated."
        ),
    )


@family
def llama4__top2(dims):
    return llama4(dims, 2)


@family
def aria(dims):
    text = attention(dims, intermediate_size=dims.I, moe_num_experts=dims.E, moe_topk=dims.k, moe_num_shared_experts=2)
    vision = dict(
        model_type="idefics3_vision",
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    return dict(
        model_type="aria",
        model_class="AriaForConditionalGeneration",
        block="AriaTextMoELayer",
        config=dict(text_config=text, vision_config=vision, projector_patch_to_query_dict={4: 2}),
        note=(
            "top-k of the logits, softmax over the k kept; experts stored transposed: experts.fc1.weight [E,H,2I] (gate"
            " columns first), experts.fc2.weight [E,I,H]; shared_experts (one MLP of width moe_num_shared_experts*I)"
            " added ungated."
        ),
    )


@family
def phimoe(dims):
    return dict(
        model_type="phimoe",
        block="PhimoeSparseMoeBlock",
        config=attention(
            dims,
            head_dim=False,
            intermediate_size=dims.I,
            num_local_experts=dims.E,
            num_experts_per_tok=2,
            router_jitter_noise=0.25,
        ),
        note=(
            "sparsemixer, k=2: first id = argmax(s); experts with (max - s)/max(|s|, max) > 2*router_jitter_noise are"
            " masked to -inf and the weight is the softmax over what is left, at the id; then the first id is set to"
            " -inf and the same is done with the second maximum as threshold (factor uses |s| of the unmasked logits);"
            " the two weights are independent and do not sum to 1."
        ),
    )


@family
def phimoe__jitter001(dims):
    spec = phimoe(dims)
    spec["config"]["router_jitter_noise"] = 0.01
    return spec


@family
def cohere2_moe(dims, score="sigmoid", norm=True, shared=2, combination="average"):
    weight = (
        "softmax over the k kept logits" if score == "softmax" else f"sigmoid(logit), norm_topk_prob={norm} (no eps)"
    )
    together = {"average": "y = (routed + shared_experts(x)) / 2", "sum": "y = routed + shared_experts(x)"}[combination]
    return dict(
        model_type="cohere2_moe",
        block="Cohere2MoeSparseMoeBlock",
        config=attention(
            dims,
            layers=2,
            intermediate_size=dims.I,
            prefix_dense_intermediate_size=2 * dims.I,
            num_experts=dims.E,
            num_experts_per_tok=dims.k + 1,
            expert_selection_fn=score,
            norm_topk_prob=norm,
            num_shared_experts=shared,
            shared_expert_combination_strategy=combination,
            layer_types=["full_attention"] * 2,
            mlp_layer_types=["dense", "sparse"],
        ),
        note=f"top-k of the logits; expert_selection_fn={score}: weights are {weight}; "
        + (f"shared_experts of width num_shared_experts*I, {together}." if shared else "no shared expert."),
    )


@family
def cohere2_moe__softmax(dims):
    return cohere2_moe(dims, "softmax", True, 1, "sum")


@family
def cohere2_moe__noshared(dims):
    return cohere2_moe(dims, "sigmoid", False, 0)
