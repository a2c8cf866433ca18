# SPDX-License-Identifier: Apache-2.0
"""Saves a model as a checkpoint and keeps the tensors of its MoE blocks."""

import json
import os
import re

import torch
from safetensors import safe_open
from safetensors.torch import save_file

USUAL = r"\.layers\.\d+\.(mlp|block_sparse_moe|feed_forward|ffn)\.|\.blocks\.\d+\.ffn\."
FUSED = re.compile(r"experts\.(gate_up_proj|down_proj)$")


def layer_number(name):
    return int(re.search(r"(?:layers|block|blocks|h)\.(\d+)(?:\.|$)", name).group(1))


def moe_tensors(file, spec, layers):
    """The tensors of the MoE blocks of these layers, by their names in the checkpoint."""
    patterns = [spec.get("keep", USUAL)] + ([spec["extra"]] if "extra" in spec else [])
    kept = {}
    with safe_open(file, "pt") as checkpoint:
        for name in checkpoint.keys():
            if (
                not re.search(r"vision|visual|audio", name)
                and any(re.search(p, name) for p in patterns)
                and layer_number(name) in layers
            ):
                kept[name] = checkpoint.get_tensor(name).contiguous()
    return kept


def stored(kept, spec, quantised):
    """The tensors in the form that the folder stores."""
    if spec.get("transpose"):
        kept = {n: t.transpose(1, 2).contiguous() if FUSED.search(n) else t for n, t in kept.items()}
    if spec.get("mxfp4"):
        kept = {n: t.bfloat16() for n, t in kept.items() if not FUSED.search(n)}
        kept.update(quantised)
    if spec.get("bf16"):
        kept = {
            n: t.bfloat16() if t.dtype == torch.float32 and "correction_bias" not in n else t for n, t in kept.items()
        }
    return kept


def published_config(file, spec):
    """config.json, in the spelling of the published checkpoints."""
    with open(file) as text:
        config = json.load(text)
    if spec.get("bf16") or spec.get("mxfp4"):
        config["dtype"] = "bfloat16"
    numbers = config.get("text_config", config)
    for old, new in spec.get("rename", {}).items():
        numbers[new] = numbers.pop(old)
    if "rewrite" in spec:
        spec["rewrite"](numbers)
    if spec.get("mxfp4"):
        config["quantization_config"] = dict(
            quant_method="mxfp4",
            modules_to_not_convert=[
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        )
    return config


def listing(tensors):
    """name -> "dtype [shape]", the expert number written as N."""
    return {
        re.sub(
            r"experts\.(expert_)?\d+\.", r"experts.\1N.", name
        ): f"{str(t.dtype).replace('torch.', '')} {list(t.shape)}"
        for name, t in sorted(tensors.items())
    }


def write_folder(folder, config, tensors, recorded, about):
    """Writes the four files of a fixture; returns their size in bytes."""
    os.makedirs(folder, exist_ok=True)
    for name, content, indent in (("config.json", config, 2), ("about.json", about, 1)):
        with open(os.path.join(folder, name), "w") as file:
            json.dump(content, file, indent=indent)
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    save_file(recorded, os.path.join(folder, "io.safetensors"))
    files = [os.path.join(folder, name) for name in os.listdir(folder)]
    for file in files:
        os.chmod(file, 0o644)
    return sum(os.path.getsize(file) for file in files)
