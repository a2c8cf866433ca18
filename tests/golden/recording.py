# SPDX-License-Identifier: Apache-2.0
"""Hooks that record what goes into and comes out of the MoE blocks of a model while it runs once."""

import torch

from weights import SELECTION_BIAS


class Selections(torch.overrides.TorchFunctionMode):
    """Remembers (values, k, indices) of every top-k and arg-max made while it is on."""

    def __init__(self):
        super().__init__()
        self.on, self.calls = False, []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if self.on:
            name = getattr(function, "__name__", "")
            if name == "topk" and (args[0].dim() == 2 or args[0].dim() == 3 and args[0].shape[0] == 1):
                k = args[1] if len(args) > 1 else kwargs["k"]
                self.calls.append((copy(args[0]), k, copy(result[1])))
            elif name in ("argmax", "max") and isinstance(args[0], torch.Tensor) and args[0].is_floating_point():
                values = args[0].reshape(-1, args[0].shape[-1])
                self.calls.append((copy(values), 1, values.argmax(-1, keepdim=True)))
        return result


def copy(tensor):
    """A detached copy, of rank 2 unless it has less."""
    tensor = tensor.detach().clone()
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 2 else tensor


# Where a router's result holds its logits; the others have them first, or are them.
LOGITS = {"Llama4Router": 1, "SwitchTransformersTop1Router": 2, "NllbMoeTop2Router": 2, "JetMoeTopKGating": 4}


class Recorder:
    """Records the blocks it is hooked to: `captured[name]`, a dict of tensors, and `selections[name]`."""

    def __init__(self):
        self.spy, self.captured, self.selections, self.hooks = Selections(), {}, {}, []

    def before(self, module, function):
        self.hooks.append(module.register_forward_pre_hook(function, with_kwargs=True))

    def after(self, module, function):
        self.hooks.append(module.register_forward_hook(function, with_kwargs=True))

    def remove(self):
        for hook in self.hooks:
            hook.remove()

    def start(self):
        self.spy.on, self.spy.calls = True, []

    def stop(self, name):
        self.spy.on = False
        self.selections[name] = self.spy.calls

    def hook_block(self, name, block, spec):
        captured = self.captured[name] = {}

        def block_before(module, args, kwargs):
            captured["x"] = copy(args[0] if args else kwargs.get("hidden_states", kwargs.get("layer_input")))
            if spec.get("zaya"):
                state = args[1] if len(args) > 1 else kwargs.get("prev_router_hidden_states")
                if state is not None:
                    captured["router_state_in"] = copy(state)
            self.start()

        def block_after(module, args, kwargs, result):
            self.stop(name)
            captured["y"] = copy(result[0] if isinstance(result, tuple) else result)

        def router_after(module, args, kwargs, result):
            captured["router_out"] = result
            if isinstance(result, torch.Tensor):
                captured["logits"] = copy(result)
            else:
                captured["logits"] = copy(result[LOGITS.get(type(module).__name__, 0)])

        def experts_before(module, args, kwargs):
            x, ids, weights = (list(args) + list(kwargs.values()))[:3]
            captured["ids"], captured["weights"] = ids.detach().clone(), weights.detach().clone()

        def experts_after(module, args, kwargs, result):
            captured["routed"] = copy(result)

        self.before(block, block_before)
        self.after(block, block_after)
        router = getattr(block, "router", None) or getattr(block, "gate", None)
        if router is not None:
            self.after(router, router_after)
        experts = getattr(block, "experts", None)
        if (
            experts is not None
            and not isinstance(experts, torch.nn.ModuleDict)
            and type(experts).__name__ != "Llama4TextExperts"
        ):
            self.before(experts, experts_before)
            self.after(experts, experts_after)
        if spec.get("doge"):
            self.hook_doge(captured, block)

    def hook_doge(self, captured, block):
        def embed_before(module, args, kwargs):
            captured["embed_ids"] = args[0].detach().clone()

        def block_after(module, args, kwargs, result):
            captured["logits"] = result[1].detach().clone()

        self.before(block.down_embed, embed_before)
        self.after(block, block_after)

    def hook_gemma(self, name, layer):
        """The MoE parts of a Gemma 4 decoder layer, which has no module around them."""
        captured = self.captured[name] = {}

        def router_before(module, args, kwargs):
            captured["x"] = copy(args[0])
            self.start()

        def router_after(module, args, kwargs, result):
            self.stop(name)

        def projection_after(module, args, kwargs, result):
            captured["logits"] = copy(result)

        def experts_before(module, args, kwargs):
            captured["xe"], captured["ids"], captured["weights"] = [a.detach().clone() for a in args[:3]]

        def experts_after(module, args, kwargs, result):
            captured["y"] = copy(result)

        def norm_after(module, args, kwargs, result):
            captured["y_post"] = copy(result)

        self.before(layer.router, router_before)
        self.after(layer.router, router_after)
        self.after(layer.router.proj, projection_after)
        self.before(layer.experts, experts_before)
        self.after(layer.experts, experts_after)
        self.after(layer.post_feedforward_layernorm_2, norm_after)


def order_by_score(ids, weights, selections):
    """The chosen experts in order of falling selection score: several routers use an unsorted top-k."""
    for values, _, indices in reversed(selections):
        if (
            indices.shape == ids.shape
            and torch.equal(indices.sort(-1)[0], ids.sort(-1)[0])
            and values.shape[-1] > int(ids.max())
        ):
            order = values.gather(1, ids).argsort(dim=-1, descending=True, stable=True)
            return ids.gather(1, order), weights.gather(1, order)
    return ids, weights


def smallest_gap(selections):
    """The smallest gap, over all selections made, between neighbouring values around and above the cut."""
    smallest = float("inf")
    for values, k, _ in selections:
        largest = values.sort(dim=-1, descending=True)[0][:, : k + 1]
        gap = largest[:, :-1] - largest[:, 1:]
        gap = gap[torch.isfinite(gap)]
        if gap.numel():
            smallest = min(smallest, float(gap.min()))
    return smallest


def sparsemixer_gap(logits, jitter):
    """How close a logit comes to the threshold of sparsemixer's mask, over its two rounds."""
    smallest, masked = float("inf"), logits.clone()
    for _ in range(2):
        largest, index = masked.max(-1, keepdim=True)
        distance = (largest - logits) / logits.abs().maximum(largest) - 2 * jitter
        smallest = min(smallest, float(distance.abs().min()))
        masked = masked.scatter(-1, index, float("-inf"))
    return smallest


def changed_by_bias(block, selections):
    """Number of tokens whose experts would be others without the selection bias; None where there is none."""
    biases = [
        p for name, p in list(block.named_parameters()) + list(block.named_buffers()) if SELECTION_BIAS.search(name)
    ]
    if not biases or not selections:
        return None
    values, k, indices = selections[-1]
    if values.shape[-1] != biases[0].numel():
        return None
    unbiased = values - biases[0].reshape(1, -1)
    return int((unbiased.topk(k, -1)[1].sort(-1)[0] != indices.sort(-1)[0]).any(-1).sum())
