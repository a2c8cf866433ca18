# SPDX-License-Identifier: Apache-2.0
"""Random weights: seeded normal values of such scales that routing is uneven and outputs are of the order of one."""

import hashlib
import re

import torch


def generator(*what):
    """A random generator whose seed is a hash of what it is for."""
    digest = hashlib.sha256("|".join(str(w) for w in what).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**62 - 1))


SELECTION_BIAS = re.compile(r"correction_bias|expert_bias|balancing_biases")
ROUTER = re.compile(r"(^|\.)(router|gate|classifier|router_gate|shared_expert_gate)(\.|$)")
DOWN = re.compile(r"(down|output_linear|fc2|w2|wo)")


def transposed_parameters(block):
    """Fused parameters of which the last dimension is the output's."""
    return {
        id(p)
        for m in block.modules()
        if getattr(m, "is_transposed", False) or type(m).__name__ == "Llama4TextExperts"
        for p in m.parameters(recurse=False)
        if p.dim() == 3
    }


def matrix_scale(name, parameter, transposed, spec):
    """Gain / sqrt(inputs)."""
    inputs = parameter.shape[-2] if transposed else parameter.shape[-1]
    if ROUTER.search(name):
        gain = spec.get("gain_router", 1.5)
    elif DOWN.search(name):
        gain = spec.get("gain_down", 1.0)
        if name.split(".")[-1] == "w2" and parameter.dim() == 2:  # dbrx stores [E*I,H]
            inputs = spec["I"]
    else:
        gain = spec.get("gain_up", 1.5)
    return gain / inputs**0.5


def redraw(block, spec, dims, tag):
    """Gives every parameter and buffer of a module new values."""
    transposed = transposed_parameters(block)
    for name, parameter in list(block.named_parameters()) + list(block.named_buffers()):
        random = generator(dims.seed, tag, name)
        leaf = name.split(".")[-1]
        if not parameter.is_floating_point():  # a table of ids: k distinct experts for each token id
            rows, k = parameter.shape
            table = [torch.randperm(spec["E"], generator=random)[:k] for _ in range(rows)]
            parameter.data.copy_(torch.stack(table).to(parameter.dtype))
            continue
        z = torch.randn(parameter.shape, generator=random, dtype=torch.float32)
        if SELECTION_BIAS.search(name):
            value = z * spec.get("bias_std", 0.1)
        elif leaf in ("scale", "per_expert_scale", "router_states_scale") or (
            leaf == "weight" and parameter.dim() == 1
        ):
            value = 1.0 + 0.3 * z
        elif leaf == "bias" or leaf.endswith("_bias"):
            value = spec.get("linear_bias", 0.3) * z
        elif leaf == "layer_scalar":
            continue
        else:
            value = z * matrix_scale(name, parameter, id(parameter) in transposed, spec)
        parameter.data.copy_(value.to(parameter.dtype))


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def mxfp4(matrix):
    """f32 [E,rows,columns] -> blocks u8 [E,rows,columns/32,16], scales u8 [E,rows,columns/32], their values."""
    experts, rows, columns = matrix.shape
    blocks = matrix.reshape(experts, rows, columns // 32, 32)
    largest = blocks.abs().amax(-1)
    exponent = torch.where(largest > 0, torch.floor(torch.log2(largest)) - 2, torch.zeros_like(largest)).clamp(
        -127, 127
    )
    scaled = blocks / torch.exp2(exponent).unsqueeze(-1)
    code = (scaled.abs().unsqueeze(-1) - FP4).abs().argmin(-1)  # the nearest; above 6 it is 6
    values = torch.sign(scaled) * FP4[code] * torch.exp2(exponent).unsqueeze(-1)
    nibbles = (code + 8 * (scaled < 0)).to(torch.uint8)
    packed = (nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)).contiguous()
    return packed, (exponent + 127).to(torch.uint8).contiguous(), values.reshape(experts, rows, columns)


def round_to_bf16(parameters):
    for parameter in parameters:
        parameter.data.copy_(parameter.data.bfloat16().float())


def quantise(name, block):
    """Rounds the experts of a GPT-OSS block to MXFP4; returns the tensors to store."""
    stored, experts = {}, block.experts
    for which in ("gate_up_proj", "down_proj"):
        parameter = getattr(experts, which)
        blocks, scales, values = mxfp4(parameter.data.transpose(1, 2).contiguous())
        parameter.data.copy_(values.transpose(1, 2))
        stored[f"{name}.experts.{which}_blocks"], stored[f"{name}.experts.{which}_scales"] = blocks, scales
    round_to_bf16([block.router.weight, block.router.bias, experts.gate_up_proj_bias, experts.down_proj_bias])
    return stored
