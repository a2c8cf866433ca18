#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden fixtures for Mixture-of-Experts blocks, made from the Hugging Face transformers library.

For each family a tiny random model is built from its configuration class, the parameters of its MoE block(s) are drawn
anew from a seeded normal, the model is saved with save_pretrained (so that the tensor names are those of a real
checkpoint) and run once in float32 on random token ids. Hooks record what goes into and comes out of the MoE block.

With no family named, all are made. README.md says what the files hold.
"""

import argparse
import hashlib
import os
import re
import sys
import tempfile
import traceback
import warnings
from types import SimpleNamespace

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

import logit_families  # noqa: F401: these four fill FAMILIES
import peculiar_families  # noqa: F401
import sigmoid_families  # noqa: F401
import softmax_families  # noqa: F401
from checkpoint import layer_number, listing, moe_tensors, published_config, stored, write_folder
from recording import Recorder, changed_by_bias, order_by_score, smallest_gap, sparsemixer_gap
from registry import FAMILIES, VOCABULARY
from weights import generator, quantise, redraw, round_to_bf16

SMALLEST_GAP = 2e-5  # of two scores; closer is too close to a tie
DRAWS = 40  # until there is none
EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
RECORDED = ("x", "xe", "y", "y_post", "y_dispatch", "routed", "logits", "weights", "router_state_in")
GEMMA_PARTS = ("router", "experts", "pre_feedforward_layernorm_2", "post_feedforward_layernorm_2")


def text_config(spec):
    return spec["config"].get("text_config", spec["config"])


def build(name, spec, dims, draw):
    """The model, with random weights, and the embeddings drawn anew."""
    digest = hashlib.sha256(f"{dims.seed}{name}{draw}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:4], "little"))
    config = AutoConfig.for_model(spec["model_type"], **spec["config"])
    config.dtype = torch.float32
    for part in (config, getattr(config, "text_config", None), getattr(config, "vision_config", None)):
        if part is not None:
            part._attn_implementation = "eager"
            part._experts_implementation = "eager"
    if "model_class" in spec:
        model = getattr(transformers, spec["model_class"])._from_config(config)
    else:
        model = AutoModelForCausalLM.from_config(config)
    model = model.float().eval()
    embedding = model.get_input_embeddings().weight
    embedding.data.copy_(torch.randn(embedding.shape, generator=generator(dims.seed, name, draw, "emb")))
    return model


def draw_weights(name, spec, dims, draw, blocks, parents):
    """New weights for the blocks; returns the tensors that are stored in a quantised form."""
    quantised = {}
    for path, block in blocks.items():
        tag = (name, draw, layer_number(path))
        if spec.get("gemma"):
            for part in GEMMA_PARTS:
                redraw(getattr(block, part), spec, dims, (*tag, part))
        else:
            redraw(block, spec, dims, tag)
        if "extra" in spec:
            redraw(parents[path].shared_mlp, spec, dims, (*tag, "shared_mlp"))
        if spec.get("mxfp4"):
            quantised.update(quantise(path, block))
        if spec.get("bf16"):
            round_to_bf16(block.parameters())
    return quantised


def run(model, spec, blocks, token_ids):
    """Runs the model once; returns what was recorded."""
    recorder = Recorder()
    for path, block in blocks.items():
        if spec.get("gemma"):
            recorder.hook_gemma(path, block)
        else:
            recorder.hook_block(path, block, spec)
    arguments = dict(input_ids=token_ids, use_cache=False)
    if getattr(model.config, "is_encoder_decoder", False):
        arguments["decoder_input_ids"] = token_ids[:, :4]
    with torch.no_grad(), recorder.spy:
        spec.get("run", lambda model, arguments: model(**arguments))(model, arguments)
    recorder.remove()
    return recorder


def describe_block(name, spec, dims, block, captured, selections, layer):
    """An entry of about.json's `blocks`; puts the routing in order. None: this draw is of no use."""
    entry = dict(io_prefix=f"layer{layer}.", layer=layer)
    if "ids" in captured:
        ids, weights = captured["ids"].long(), captured["weights"].float()
        if "hash" not in str(spec["config"].get("mlp_layer_types", "")) or layer > 0:
            ids, weights = order_by_score(ids, weights, selections)
        captured["ids"], captured["weights"] = ids.to(torch.int32), weights
        entry["experts_used"] = int(ids.unique().numel())
    gap = smallest_gap(selections)
    if name.startswith("phimoe"):
        gap = min(gap, sparsemixer_gap(captured["logits"], block.router.router_jitter_noise))
    if gap < SMALLEST_GAP:
        return None
    if gap != float("inf"):
        entry["min_selection_gap"] = float(f"{gap:.3g}")
    if "dropped" in captured:
        entry["dropped"] = captured["dropped"]
    if "ids" in captured:
        changed = changed_by_bias(block, selections)
        if changed == 0:  # a bias that changes nothing tests nothing
            return None
        if changed is not None:
            entry["tokens_whose_ids_the_bias_changes"] = changed
    if spec.get("zaya"):  # the skip expert must occur, and enough of the others
        entry["skipped"] = int((captured["weights"] == 0).sum())
        if not 0 < entry["skipped"] <= dims.T // 3 or entry["experts_used"] < spec["E"] * 2 // 3:
            return None
    if name.startswith("longcat"):
        entry["identity_slots"] = int((captured["ids"] >= spec["E"]).sum())
    entry["y_std"] = float(f"{float(captured['y'].std()):.3g}")
    entry["T"] = captured["x"].shape[0]
    if "ids" in captured:
        entry["k"] = int(captured["ids"].shape[1])
    return entry


def attempt(name, folder, spec, dims, draw):
    """One draw of all weights. Returns (about, bytes written), or None if scores come too close to a tie."""
    model = build(name, spec, dims, draw)
    modules = dict(model.named_modules())
    blocks = {
        path: module
        for path, module in modules.items()
        if type(module).__name__ == spec["block"] and re.search(spec.get("blocks", ""), path)
    }
    assert blocks, "no block " + spec["block"]
    parents = {path: modules[path.rsplit(".", 1)[0]] for path in blocks}
    quantised = draw_weights(name, spec, dims, draw, blocks, parents)

    token_ids = torch.randperm(VOCABULARY - 4, generator=generator(dims.seed, name, draw, "ids"))
    token_ids = token_ids[: dims.T].reshape(1, dims.T) + 3
    recorder = run(model, spec, blocks, token_ids)

    recorded, entries = {}, []
    for path, block in blocks.items():
        captured, layer = recorder.captured[path], layer_number(path)
        with torch.no_grad():
            if "adapt" in spec:
                spec["adapt"](captured, block, parents[path])
        entry = describe_block(name, spec, dims, block, captured, recorder.selections.get(path, []), layer)
        if entry is None:
            return None
        entries.append(entry)
        for key in RECORDED:
            if key in captured:
                recorded[f"layer{layer}.{key}"] = captured[key].float().contiguous().clone()
        if "ids" in captured:
            recorded[f"layer{layer}.ids"] = captured["ids"].contiguous()
        if "hash_moe" in str(spec["config"].get("mlp_layer_types", "")):
            recorded[f"layer{layer}.token_ids"] = token_ids.reshape(-1).to(torch.int32)

    model.config.architectures = [type(model).__name__]
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved, save_original_format=spec.get("published_names", True))
        tensors = moe_tensors(os.path.join(saved, "model.safetensors"), spec, {e["layer"] for e in entries})
        config = published_config(os.path.join(saved, "config.json"), spec)
    for entry in entries:
        mine = [tensor for tensor in tensors if layer_number(tensor) == entry["layer"]]
        assert mine, f"no tensors of layer {entry['layer']}"
        prefix = os.path.commonprefix(mine)
        entry["checkpoint_prefix"] = prefix[: prefix.rfind(".") + 1]
    tensors = stored(tensors, spec, quantised)

    shape = recorded[f"layer{entries[0]['layer']}.x"].shape
    sizes = dict(T=int(shape[0]), H=int(shape[1]), I=dims.I, E=spec["E"], k=entries[-1].get("k"))
    if name.startswith("longcat"):
        sizes["identity_experts"] = text_config(spec)["zero_expert_num"]
    about = dict(
        family=name,
        model_type=spec["model_type"],
        hf_model_class=type(model).__name__,
        hf_block_class=spec["block"],
        transformers=transformers.__version__,
        seed=dims.seed,
        layers=[entry["layer"] for entry in entries],
        dims=sizes,
        special=spec["note"],
        blocks=entries,
        io=listing(recorded),
        tensors=listing(tensors),
    )
    return about, write_folder(folder, config, tensors, recorded, about)


def make(name, folder, dims):
    spec = dict(FAMILIES[name](dims))
    text = text_config(spec)
    spec["E"] = next((text[key] for key in EXPERTS if text.get(key)), None) or text["ffn_config"]["moe_num_experts"]
    spec["I"] = dims.I
    for draw in range(DRAWS):
        made = attempt(name, folder, spec, dims, draw)
        if made is not None:
            return made
    raise RuntimeError("no draw without ties")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="family", choices=[[]] + list(FAMILIES))
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--inter", type=int, default=32)
    parser.add_argument("--experts", type=int, default=8, help="grouped families use twice as many")
    parser.add_argument("--topk", type=int, default=2, help="smallest k; some families use up to 2 more")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--suffix", default="", help="appended to the names of the folders")
    parser.add_argument("--skip", default="", help="comma-separated: a family (its variants too) or one folder")
    parser.add_argument("--trace", action="store_true", help="print where a failure happened")
    return parser.parse_args()


def main():
    given = arguments()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    dims = SimpleNamespace(
        H=given.hidden, I=given.inter, E=given.experts, k=given.topk, T=given.tokens, seed=given.seed
    )
    skip = set(filter(None, given.skip.split(",")))
    names = given.families or [n for n in FAMILIES if n not in skip and n.split("-")[0] not in skip]
    failed, total = [], 0
    for name in names:
        try:
            about, size = make(name, os.path.join(given.out, name + given.suffix), dims)
        except Exception as error:  # the other families are made all the same
            failed.append(name)
            print(f"FAIL {name}: {type(error).__name__}: {str(error)[:600]}", flush=True)
            if given.trace:
                traceback.print_exc()
            continue
        total += size
        last = about["blocks"][-1]
        print(
            f"ok   {name:28s} {size:8d} B  {about['dims']}  y_std {last['y_std']} gap {last.get('min_selection_gap')}",
            flush=True,
        )
    print(f"{len(names) - len(failed)} made, {len(failed)} failed {failed}, {total} bytes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
