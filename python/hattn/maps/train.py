# SPDX-License-Identifier: Apache-2.0
"""Trains the maps of a layer on its traces.

Codes are learned so that a softmax of scores is near the exact one: the loss is the cross entropy, from the exact
softmax (its mean over the query heads that select together) to that of alpha times the score over all keys. Signs are
tanh at first, which grows steeper, then signs whose gradient is tanh's (straight through). All heads of a layer are
trained at once.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

from hattn.maps.scores import keep, project, signs, softmax_of
from hattn.maps.slopes import fit_slopes
from hattn.maps.traces import LayerMap, Trace

Tensor = torch.Tensor
KINDS = ("orthogonal", "hamming", "weighted", "hashattention")
HIDDEN = 128  # of hashattention's MLPs, as published
STOP_QUERIES, SLOPE_QUERIES = 32, 256  # of those held out: to decide when to stop, and to fit slopes


@dataclass(frozen=True)
class Recipe:
    """How to train. keys: of a step; 0: all of a window, else a sample of half any, half those that matter."""

    kind: str
    bits: int = 128
    per_query_head: bool = False  # maps and selections; always of hashattention
    steps: int = 2000
    queries: int = 24
    keys: int = 0
    rate: float = 1e-3
    seed: int = 0
    budget: int = 512  # of the selections that decide when to stop
    checks: int = 10
    patience: int = 3  # checks without a better result


def orthogonal(heads: int, d: int, bits: int, generator: torch.Generator) -> Tensor:
    """[heads, d, bits] with orthonormal columns; above d bits, blocks of them."""
    blocks = []
    for _ in range(math.ceil(bits / d)):
        q, r = torch.linalg.qr(torch.randn((heads, d, d), generator=generator, dtype=torch.float64))
        blocks.append(q * torch.sign(torch.diagonal(r, dim1=1, dim2=2))[:, None])
    return torch.cat(blocks, 2)[:, :, :bits].float()


def _mlp(heads: int, d: int, bits: int, generator: torch.Generator) -> list[Tensor]:
    """Weights whose outputs are about as large as their inputs, in turns with biases of 0."""
    flat: list[Tensor] = []
    for rows, columns in ((d, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, bits)):
        flat += [torch.randn((heads, rows, columns), generator=generator) * math.sqrt(2 / rows),
                 torch.zeros(heads, columns)]
    return flat


class _Codes:
    """The parameters of one layer and the scores that they give."""

    def __init__(self, recipe: Recipe, trace: Trace, traces: Sequence[Trace]) -> None:
        generator = torch.Generator().manual_seed(recipe.seed)
        device, d = trace.q.device, trace.q.shape[2]
        self.recipe, self.num_kv_heads = recipe, trace.k.shape[1]
        own = recipe.per_query_head or recipe.kind == "hashattention"
        self.heads, self.suffix = trace.q.shape[1] if own else self.num_kv_heads, own and recipe.kind != "hashattention"
        if recipe.kind == "hashattention":
            self.key = [x.to(device) for x in _mlp(self.heads, d, recipe.bits, generator)]
            self.query = [x.to(device) for x in _mlp(self.heads, d, recipe.bits, generator)]
        else:
            weight = orthogonal(self.heads, d, recipe.bits, generator).to(device)
            mean = torch.stack([one.k.mean(0) for one in traces]).mean(0)
            mean = mean.repeat_interleave(self.heads // self.num_kv_heads, 0)
            # Hyperplanes through the middle of the keys.
            self.key, self.query = [weight, -torch.einsum("hd,hdr->hr", mean, weight)], [weight.clone()]
        with torch.no_grad():
            self.spread = [project(self.key, self._keys(trace.k[:4096])).std().item(),
                           project(self.query, self._queries(trace.q)).std().item()]
            self.log_alpha = torch.zeros(self.heads, device=device)
            # Scores that spread by a nat and a half: what trained ones end near.
            spread = self.scores(trace.q[-8:], trace.k[:4096], 1, True).std((0, 2))
            self.log_alpha = (1.5 / spread).log()

    def parameters(self) -> list[Tensor]:
        return [*self.key, *self.query, self.log_alpha]

    def _keys(self, k: Tensor) -> Tensor:
        return k.transpose(0, 1).repeat_interleave(self.heads // self.num_kv_heads, 0)

    def _queries(self, q: Tensor) -> Tensor:
        """[code head, rows times query heads of it, d]"""
        grouped: Tensor = q.transpose(0, 1).unflatten(0, (self.heads, -1)).flatten(1, 2)
        return grouped

    def scores(self, q: Tensor, k: Tensor, steepness: float, hard: bool) -> Tensor:
        """[rows, heads, keys] in nats, with a gradient."""
        def bits(z: Tensor) -> Tensor:
            soft = torch.tanh(z * steepness)
            return soft + (signs(z) - soft).detach() if hard else soft

        codes = bits(project(self.key, self._keys(k)) / self.spread[0])
        u = (project(self.query, self._queries(q)) / self.spread[1]).unflatten(1, (-1, q.shape[0]))
        weights = u.sum(1) if self.recipe.kind == "weighted" else bits(u).sum(1)
        return torch.einsum("hpr,hnr->phn", weights, codes) * self.log_alpha.exp()[:, None]

    def map(self, about: dict[str, object]) -> LayerMap:
        """As it will be stored, in float16."""
        name = "%s%d%s" % (self.recipe.kind, self.recipe.bits, "_heads" * self.suffix)
        score = "weighted" if self.recipe.kind == "weighted" else "hamming"
        key, query = ([x.detach().to(torch.float16) for x in flat] for flat in (self.key, self.query))
        return LayerMap(name, key, query, score, dict(about))


def _sample_keys(target: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which of the keys a step sees, some `count`, and how likely each of these was to be seen."""
    weight = target.mean((0, 1))
    likely = (count / 2 * (weight / weight.sum() + 1 / weight.numel())).clamp_max(1)
    chosen = (torch.rand(weight.shape, generator=generator) < likely.cpu()).nonzero()[:, 0].to(target.device)
    return chosen, likely[chosen]


def _batches(traces: Sequence[Trace], recipe: Recipe, heads: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """q [rows, Hq, d], k [keys, Hkv, d], the softmax to be met [rows, heads, keys], and [rows, 1, keys] what to add to
    scores: -inf where a key is not visible, and for the keys that a sample has left out, the log of how many a key
    stands for. Without that samples, which have more of the keys that matter, teach a softmax over those alone."""
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    while True:
        trace = traces[int(torch.randint(len(traces), (), generator=generator))]
        rows = torch.randperm(trace.q.shape[0], generator=generator)[:recipe.queries].sort().values.to(trace.q.device)
        part = trace.queries(rows)
        with torch.no_grad():
            softmax, visible = softmax_of(part, slice(None))
            target, k = softmax.unflatten(1, (heads, -1)).mean(2), trace.k
            offset = torch.zeros(visible.shape, device=k.device).masked_fill_(~visible, float("-inf"))
            if 0 < recipe.keys < k.shape[0]:
                chosen, likely = _sample_keys(target, recipe.keys, generator)
                target, offset, k = target[..., chosen] / likely, offset[..., chosen] - likely.log(), k[chosen]
                target = target / target.sum(-1, keepdim=True).clamp_min(1e-30)
        yield part.q, k, target, offset


def cross_entropy(scores: Tensor, target: Tensor, offset: Tensor) -> Tensor:
    """[rows, heads]"""
    return (scores + offset).logsumexp(-1) - (target * scores).sum(-1)


def _held_out(traces: Sequence[Trace]) -> tuple[list[Trace], Trace]:
    """What is learned from, and the last window, or every fourth query of a single one."""
    if len(traces) > 1:
        return list(traces[:-1]), traces[-1]
    (trace,) = traces
    rows = torch.arange(trace.q.shape[0], device=trace.q.device) % 4 == 3
    return [trace.queries(~rows)], trace.queries(rows)


def untrained(traces: Sequence[Trace], recipe: Recipe) -> LayerMap:
    """Orthogonal maps, without slopes."""
    codes = _Codes(recipe, traces[-1], traces)
    codes.key = codes.query
    return codes.map(asdict(recipe))


def train(traces: Sequence[Trace], recipe: Recipe) -> LayerMap:
    """The maps of one layer, out of windows of it, with slopes of what was not learned from."""
    if recipe.kind not in KINDS:
        raise ValueError("%r is no kind of map: %s" % (recipe.kind, ", ".join(KINDS)))
    learn, held_out = _held_out(traces)
    best = untrained(traces, recipe) if recipe.kind == "orthogonal" else _learn(learn, held_out, recipe)
    best.slopes = fit_slopes([held_out.spread_queries(SLOPE_QUERIES)], best.to(held_out.q.device))
    return best


def _learn(learn: Sequence[Trace], held_out: Trace, recipe: Recipe) -> LayerMap:
    """The best at any check."""
    codes = _Codes(recipe, held_out, learn)
    stop_by = held_out.spread_queries(STOP_QUERIES)
    for parameter in codes.parameters():
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(codes.parameters(), recipe.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    every, stale = max(1, recipe.steps // recipe.checks), 0

    def look(step: int, loss: float) -> tuple[LayerMap, float]:
        now = codes.map(asdict(recipe) | {"trained_steps": step})
        mass = keep(stop_by, now.to(held_out.q.device), recipe.budget).means()["mass"]
        print("  step %d: loss %.3f, held-out mass %.4f" % (step, loss, mass), file=sys.stderr)
        return now, mass

    best, best_mass = look(0, math.nan)
    for step, (q, k, target, offset) in enumerate(_batches(learn, recipe, codes.heads), 1):
        done = step / recipe.steps
        loss = cross_entropy(codes.scores(q, k, 1 + 4 * done, done > 1 / 3), target, offset).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % every == 0 or step == recipe.steps:
            now, mass = look(step, loss.item())
            best, best_mass, stale = (now, mass, 0) if mass > best_mass else (best, best_mass, stale + 1)
        if step == recipe.steps or stale >= recipe.patience and done > 0.5:
            break
    best.about["held_out_mass"] = best_mass
    return best
