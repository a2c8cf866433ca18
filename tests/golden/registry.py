# SPDX-License-Identifier: Apache-2.0
"""The table of families, and what their configurations have in common.

An entry is a function of the dimensions that gives a dict:

    model_type  as config.json says it          config      keyword arguments of its configuration class
    block       class of the MoE block          note        a line on routing and activation, for about.json

and optionally

    model_class       class to build, where AutoModelForCausalLM does not know the configuration
    blocks            regular expression: the modules among those of class `block` to record
    keep, extra       regular expressions: tensors of the checkpoint to keep instead of, besides the usual
    run               calls the model with its arguments
    adapt             completes a record by what no hook sees: adapt(captured, block, decoder layer)
    gain_up, gain_down, gain_router, bias_std, linear_bias    scales of the random weights
    published_names   False: save under the library's fused in-memory names
    transpose         write the fused experts with their last two dimensions exchanged
    rename            keys of config.json, old to new;    rewrite    any other change to it
    bf16, mxfp4       store so; outputs are those of the rounded weights
    gemma, doge, zaya hooks of their own

A function family__variant makes the folder family-variant.
"""

FAMILIES = {}
VOCABULARY = 128  # of every tiny model
SPECIAL_TOKENS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)


def family(function):
    FAMILIES[function.__name__.replace("__", "-")] = function
    return function


def attention(dims, head_dim=True, layers=1, **more):
    """The configuration around an MoE block: the smallest attention that the families take."""
    config = dict(
        vocab_size=VOCABULARY,
        hidden_size=dims.H,
        num_hidden_layers=layers,
        max_position_embeddings=256,
        num_attention_heads=2,
        num_key_value_heads=2,
        **SPECIAL_TOKENS,
    )
    if head_dim:
        config["head_dim"] = dims.H // 2
    config.update(more)
    return config


def latent_attention(dims, layers=2, **more):
    """Multi-head latent attention, tiny."""
    return attention(
        dims,
        head_dim=False,
        layers=layers,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        **more,
    )


def deepseek_v3_note(norm, shared=True):
    return (
        "sigmoid scores in float32; selection on score + e_score_correction_bias; a group scores by the sum of its two "
        "best selection values, the best topk_group of n_group groups stay, the rest are masked with -inf; weights are "
        f"the scores without the bias, norm_topk_prob={norm} (divide by sum + 1e-20), then times routed_scaling_factor"
        + ("; shared_experts added ungated." if shared else "; no shared expert.")
    )
