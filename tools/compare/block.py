# SPDX-License-Identifier: Apache-2.0
"""What every contender computes with: weights, activations, routings, and the result to expect."""
import torch

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# Relative error (norm of the difference over the norm) that rounding between the matrices may leave.
TOLERANCE = {"f32": 2e-5, "f16": 4e-3, "bf16": 3e-2}
ROUTINGS_MAX = 32  # used in turn, so that with few tokens no cache serves the weights
ROUTINGS_ELEMENTS = 1 << 22


class Weights:
    """One expert at a time: gate_up [2I,H] (the gate's rows, then the up's) and down [H,I]."""

    def __init__(self, shape, dtype, seed):
        self.shape, self.dtype, self.seed = shape, DTYPES[dtype], seed

    def expert(self, number):
        generator = torch.Generator().manual_seed(self.seed * 100003 + number)
        shape = self.shape

        def matrix(rows, columns):
            spread = (3 / columns)**0.5  # of deviation 1 / sqrt(columns)
            return torch.empty(rows, columns).uniform_(-spread, spread, generator=generator).to(self.dtype)

        return matrix(2 * shape.intermediate, shape.hidden), matrix(shape.hidden, shape.intermediate)


def draw(kind, tokens, shape, call, generator):
    """Expert ids [T,k] of one call. zipf: the r-th expert is as likely as 1/r; single: all tokens choose the same."""
    experts, top_k = shape.experts, shape.top_k
    if kind == "single":
        ranks = torch.arange(top_k).expand(tokens, top_k)
    else:
        rank = torch.arange(experts, dtype=torch.float64)
        likely = torch.zeros(experts, dtype=torch.float64) if kind == "uniform" else -torch.log(rank + 1)
        uniform = torch.rand(tokens, experts, generator=generator, dtype=torch.float64)
        # The largest of log p - log(-log u) are draws without replacement.
        ranks = torch.topk(likely - torch.log(-torch.log(uniform)), top_k).indices
    return (ranks + call * top_k) % experts


class Feed:
    """x [T,H]; ids [n,T,k] i64; weights [n,T,k]: f32 numbers that the storage type holds exactly, of sum about 1."""

    def __init__(self, shape, dtype, tokens, kind, seed):
        generator = torch.Generator().manual_seed(seed)
        count = min(ROUTINGS_MAX, max(2, ROUTINGS_ELEMENTS // (tokens * shape.top_k)))
        self.shape, self.dtype, self.tokens, self.count = shape, dtype, tokens, count
        self.x = torch.randn(tokens, shape.hidden, generator=generator).to(DTYPES[dtype])
        self.ids = torch.stack([draw(kind, tokens, shape, call, generator) for call in range(count)]).contiguous()
        weights = 0.25 + torch.rand(count, tokens, shape.top_k, generator=generator)
        self.weights = (weights / weights.sum(-1, keepdim=True)).to(DTYPES[dtype]).float()
        self.touched = sum(len(torch.unique(ids)) for ids in self.ids) / count  # experts, mean

    def limits(self):
        """Bytes read and operations of a call."""
        shape = self.shape
        size = shape.hidden * shape.intermediate
        return 3 * self.touched * size * DTYPES[self.dtype].itemsize, 6 * self.tokens * shape.top_k * size


def expected(feed, weights, routing):
    """Rows of a few tokens, in double precision: (tokens, rows)."""
    tokens = sorted({0, feed.tokens // 3, feed.tokens // 2, feed.tokens - 1})
    rows = []
    for token in tokens:
        x = feed.x[token].double()
        row = torch.zeros_like(x)
        for expert, weight in zip(feed.ids[routing, token].tolist(), feed.weights[routing, token].tolist()):
            gate_up, down = weights.expert(expert)
            gate, up = (gate_up.double() @ x).chunk(2)
            row += weight * (down.double() @ (torch.nn.functional.silu(gate) * up))
        rows.append(row)
    return tokens, torch.stack(rows)


def distance(found, wanted):
    """Relative error of what was found; infinite for NaN."""
    error = float((found.double() - wanted.double()).norm() / wanted.double().norm())
    return error if error == error else float("inf")
