# SPDX-License-Identifier: Apache-2.0
"""Families with a router or a dispatch of their own: capacity, product keys, a router with state."""

import torch

from registry import VOCABULARY, attention, family


def _switch(captured, block, layer):
    onehot, probs = captured["router_out"][0], captured["router_out"][1]
    ids = captured["logits"].argmax(-1, keepdim=True)
    kept = onehot.reshape(ids.shape[0], -1).sum(-1, keepdim=True)
    captured["ids"], captured["weights"] = ids, probs.reshape(-1, 1) * kept
    captured["dropped"] = int((kept == 0).sum())


@family
def switch_transformers(dims, capacity=64):
    return dict(
        model_type="switch_transformers",
        model_class="SwitchTransformersForConditionalGeneration",
        block="SwitchTransformersSparseMLP",
        blocks=r"^encoder\.",
        keep=r"^encoder\.block\.\d+\.layer\.1\.mlp\.",
        adapt=_switch,
        gain_up=1.5,
        gain_down=1.5,
        config=dict(
            vocab_size=VOCABULARY,
            d_model=dims.H,
            d_kv=16,
            d_ff=dims.I,
            num_heads=2,
            num_layers=1,
            num_decoder_layers=1,
            num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=1,
            num_experts=dims.E,
            expert_capacity=capacity,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        ),
        note=(
            "softmax (float32) over E, top-1; weight = the probability, not renormalised; experts are wo(relu(wi x)),"
            f" no gate; expert_capacity={capacity}: in token order, a token past the capacity of its expert within its"
            " sequence gets y = 0 (its weight is stored as 0)."
        ),
    )


@family
def switch_transformers__capacity(dims):
    return switch_transformers(dims, 2)


def _nllb(captured, block, layer):
    # router_out: (top_1_mask [T,E], combine weights [T,E], logits)
    combine, logits = captured["router_out"][1], captured["logits"]
    ids = logits.topk(2, dim=1)[1]
    captured["ids"], captured["weights"] = ids, combine.gather(1, ids)
    x, scale = captured["x"], 1.0 - block.experts.moe_token_dropout
    y = torch.zeros_like(x)
    for t in range(x.shape[0]):
        for j in range(2):
            if captured["weights"][t, j] != 0:
                y[t] += captured["weights"][t, j] * scale * block.experts[f"expert_{int(ids[t, j])}"](x[t : t + 1])[0]
    captured["y_dispatch"] = y
    captured["dropped"] = int((captured["weights"] == 0).sum())


@family
def nllb_moe(dims, fraction=1.0, before=False):
    return dict(
        model_type="nllb-moe",
        model_class="NllbMoeForConditionalGeneration",
        block="NllbMoeSparseMLP",
        blocks=r"^model\.encoder\.",
        keep=r"^model\.encoder\.layers\.\d+\.ffn\.",
        adapt=_nllb,
        gain_up=1.5,
        gain_down=1.5,
        config=dict(
            vocab_size=VOCABULARY,
            d_model=dims.H,
            encoder_layers=1,
            decoder_layers=1,
            encoder_ffn_dim=dims.I,
            decoder_ffn_dim=dims.I,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            num_experts=dims.E,
            encoder_sparse_step=1,
            decoder_sparse_step=1,
            max_position_embeddings=256,
            moe_eval_capacity_token_fraction=fraction,
            normalize_router_prob_before_dropping=before,
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            moe_token_dropout=0.2,
            router_bias=True,
            expert_capacity=64,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=2,
        ),
        note=(
            "softmax (float32) over E, first expert = argmax, second = argmax of the rest; the two probabilities are"
            " divided by max(sum, float32 eps) "
        )
        + ("before" if before else "after")
        + " tokens over capacity are dropped "
        f"(capacity = ceil({fraction}*T), second choices queue after all first choices); experts fc2(relu(fc1 x)) with "
        "biases; expert outputs scaled by 1-moe_token_dropout (0.8) in inference. In the library the dispatch hands "
        "one_hot(top-1 mask) to the experts, so y = 0.8*(p1*expert_1(x) + p2*expert_0(x)) whatever the chosen ids; "
        "y_dispatch is the sum over the experts that were really chosen.",
    )


@family
def nllb_moe__capacity(dims):
    return nllb_moe(dims, 0.125)


@family
def nllb_moe__capacity_before(dims):
    return nllb_moe(dims, 0.125, True)


def _doge(captured, block, layer):
    keys, k = block.num_keys, block.top_k
    (x_scores, y_scores), (x_index, y_index) = captured["logits"].topk(keys, dim=-1)  # [2,T,keys], the library's view
    sums = (x_scores.unsqueeze(-1) + y_scores.unsqueeze(-2)).flatten(1)
    experts = (x_index.unsqueeze(-1) * keys + y_index.unsqueeze(-2)).flatten(1)
    scores, positions = sums.topk(k, dim=-1)
    ids, weights = experts.gather(-1, positions), torch.softmax(scores, -1)
    assert torch.equal(ids, captured["embed_ids"])
    if block.norm_topk_prob:
        weights = weights / weights.sum(-1, keepdim=True)
    captured["ids"], captured["weights"] = ids, weights


@family
def doge(dims):
    K = 4 if dims.E <= 8 else 5
    return dict(
        model_type="doge",
        block="DogeCDMoE",
        adapt=_doge,
        doge=True,
        config=attention(
            dims,
            head_dim=False,
            intermediate_size=dims.I,
            is_moe=True,
            num_experts=K * K,
            num_experts_per_tok=dims.k + 2,
            norm_topk_prob=True,
        ),
        note=(
            "product keys, K = floor(sqrt(E)): router_gate(x) [T,2K] is VIEWED as [2,T,K], so token t takes its x"
            " scores from flat position t*K and its y scores from T*K + t*K of the row-major [T,2K] array (scores of"
            " other tokens); all sums sx_i + sy_j, top-k, softmax over the k; expert id = i*K + j is one row:"
            " silu(down_embed[id].x) * weight * up_embed[id]; plus the ungated shared MLP. logits are stored as"
            " [2,T,K]."
        ),
    )


@family
def zaya(dims):
    return dict(
        model_type="zaya",
        block="ZayaSparseMoeBlock",
        zaya=True,
        gain_router=2.5,
        bias_std=0.05,
        linear_bias=0.1,
        config=attention(
            dims,
            layers=2,
            moe_intermediate_size=dims.I,
            num_experts=3 * dims.E // 4,
            num_experts_per_tok=1,
            router_hidden_size=dims.H // 2,
            layer_types=["hybrid", "hybrid"],
            tie_word_embeddings=False,
            attention_bias=False,
        ),
        note=(
            "router: r = down_proj(x)+b, from layer 1 on r += previous layer's r * router_states_scale"
            " (router_state_in); logits = out_proj(gelu(fc2(gelu(fc1(rmsnorm(r)))))) over E+1 classes, exact (erf)"
            " gelu; softmax; top-1 on probability + balancing_biases; weight = probability without the bias, not"
            " renormalised; class E is a skip expert: y = 0 (stored here as id 0 with weight 0, as the library does)."
            " The stored balancing_biases were used as they are; the library's own loader resets the last one (the skip"
            " class) to -1."
        ),
    )
