# SPDX-License-Identifier: Apache-2.0
"""What a map's codes select of a trace, by the formulas of api/hattn.h, and what exact attention says of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hattn.maps.traces import LayerMap, Trace

Tensor = torch.Tensor
Rows = Tensor | slice  # which of a trace's queries
WEIGHT_BITS = 4
CHUNK = 1 << 26  # numbers of one tensor of queries times keys


def project(flat: list[Tensor], x: Tensor) -> Tensor:
    """z [Hc, n, bits] of x [Hc, n, d] through one side's map."""
    for i in range(0, len(flat), 2):
        x = x @ flat[i] if i + 1 == len(flat) else torch.baddbmm(flat[i + 1][:, None], x, flat[i])
        if i + 2 < len(flat):
            x = F.silu(x)
    return x


def signs(z: Tensor) -> Tensor:
    """+1 and -1; 0 gives -1, as its bit is 0."""
    return (z > 0).to(z.dtype) * 2 - 1


def query_weights(projected: Tensor, selection_heads: int, score: str) -> tuple[Tensor, Tensor]:
    """Integer weights [Hs, n, bits] of z [Hq, n, bits], and the unit [Hs, n] that one of them stands for."""
    grouped = projected.unflatten(0, (selection_heads, -1))
    if score == "hamming":
        weights = signs(grouped).sum(1)
        return weights / (2 - grouped.shape[1] % 2), torch.ones_like(weights[..., 0])
    u, most = grouped.sum(1), 2 ** (WEIGHT_BITS - 1) - 1
    largest = u.abs().amax(-1)
    return torch.round(u * (most / largest.clamp_min(1e-38))[..., None]), largest / most


class Ranking:
    """Scores of all keys of a trace, by a map; or by exact softmax, without one."""

    def __init__(self, trace: Trace, by: LayerMap | None, of_query_heads: bool = False) -> None:
        """of_query_heads: each by itself, whatever selects together."""
        self.trace, self.by = trace, by
        num_q_heads, num_kv_heads = trace.q.shape[1], trace.k.shape[1]
        own = of_query_heads or by is not None and by.per_query_head(num_kv_heads)
        self.heads = num_q_heads if own else num_kv_heads
        if by is not None:
            code_heads = by.key[0].shape[0]
            keys = trace.k.transpose(0, 1).repeat_interleave(code_heads // num_kv_heads, 0)
            self.codes = signs(project(by.key, keys))
            of_head = torch.arange(num_q_heads, device=trace.q.device) * code_heads // num_q_heads
            query = project([tensor[of_head] for tensor in by.query], trace.q.transpose(0, 1))
            self.weights, self.unit = query_weights(query, self.heads, by.score)

    def scores(self, rows: Rows, softmax: Tensor) -> Tensor:
        """[rows, Hs, n]: sum w_r (2 code_r - 1). softmax: the exact one of these rows, [rows, Hq, n]."""
        if self.by is None:
            exact: Tensor = softmax.unflatten(1, (self.heads, -1)).sum(2)
            return exact
        codes = self.codes.repeat_interleave(self.heads // self.codes.shape[0], 0)
        return (self.weights[:, rows] @ codes.transpose(1, 2)).transpose(0, 1)

    def steps(self, rows: Rows) -> Tensor:
        """int64 [rows, Hs]: what one score is worth, by the map's slopes."""
        assert self.by is not None
        nats = self.by.slopes_of(self.by.score).double()[:, None] * self.unit[:, rows].double()
        return (nats * (2048 / math.log(2))).round().clamp(0, 32768).long().T


@dataclass
class Floor:
    """A floor of probability, which makes the budget the most that are kept."""

    min_probability: float
    min_k: int


@dataclass
class Kept:
    """[queries, Hq] each: how many keys; of the true top of as many, of softmax, and ||out - dense|| / ||dense||."""

    rows: Tensor
    recall: Tensor
    mass: Tensor
    error: Tensor

    def means(self) -> dict[str, float]:
        return {name: float(values.double().mean()) for name, values in vars(self).items()}


def _order(scores: Tensor, visible: Tensor, k: int) -> Tensor:
    """The k best keys, visible ones first; equal ones by smallest position."""
    ranked = scores.masked_fill(~visible, float("-inf"))
    return ranked.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def _first(order: Tensor, counts: Tensor, n: int) -> Tensor:
    """A mask of n keys: the first `counts` [rows, Hs] of an order."""
    chosen = torch.arange(order.shape[-1], device=order.device) < counts[..., None]
    return torch.zeros((*order.shape[:-1], n), dtype=torch.bool, device=order.device).scatter_(-1, order, chosen)


def _probabilities(scores: Tensor, visible: Tensor, order: Tensor, steps: Tensor) -> Tensor:
    """[rows, Hs, k]: what the scores of the keys in `order`, which are all that the budget allows, say of them, as
    hattn_topk estimates it: the largest first, 0 of keys that are not visible."""
    ranked = scores.masked_fill(~visible, float("-inf"))
    worth = torch.where(visible, (ranked.amax(-1, keepdim=True) - scores) / 2, 0).long() * steps[..., None]
    table = torch.tensor([int(2 ** (30 - i / 64)) for i in range(64)], device=scores.device)
    shares = torch.where(visible, table[worth >> 4 & 63] >> (worth >> 10).clamp_max(31), 0)
    counted = visible.sum(-1, keepdim=True) <= order.shape[-1]  # the budget keeps all
    counted = counted | (ranked > ranked.gather(-1, order[..., -1:]))
    sampled = torch.arange(scores.shape[-1], device=scores.device) % 61 == 0
    total = (shares * torch.where(counted, 1, 61 * sampled)).sum(-1, keepdim=True)
    return shares.gather(-1, order) / total.double()


def select(scores: Tensor, visible: Tensor, k: int, floor: Floor | None = None, steps: Tensor | None = None) -> Tensor:
    """A mask [rows, Hs, n] of what is kept of scores [rows, Hs, n], visible [rows, 1, n]."""
    order, counts = _order(scores, visible, k), visible.sum(-1).clamp_max(k).expand(scores.shape[:2])
    if floor is not None:
        assert steps is not None
        above = (_probabilities(scores, visible, order, steps) >= floor.min_probability).sum(-1)
        counts = above.clamp_min(floor.min_k).minimum(counts)
    return _first(order, counts, scores.shape[-1])


def softmax_of(trace: Trace, rows: Rows) -> tuple[Tensor, Tensor]:
    """Exact softmax [rows, Hq, n] and which keys each row sees, [rows, 1, n]."""
    q = trace.q[rows].unflatten(1, (trace.k.shape[1], -1))
    logits = torch.einsum("pgrd,ngd->pgrn", q, trace.k).flatten(1, 2) * trace.scale
    visible = torch.arange(trace.k.shape[0], device=q.device) <= trace.q_pos[rows, None, None]
    return logits.masked_fill(~visible, float("-inf")).softmax(-1), visible


def row_chunks(trace: Trace, from_position: int = 0) -> tuple[Tensor, ...]:
    """The numbers of the queries at from_position and later, as many at a time as fit into memory."""
    chosen = (trace.q_pos >= from_position).nonzero()[:, 0]
    if not len(chosen):
        raise ValueError("%s has no queries at %d or later" % (trace.path, from_position))
    parts: tuple[Tensor, ...] = chosen.split(max(1, CHUNK // (trace.q.shape[1] * trace.k.shape[0])))
    return parts


def keep(trace: Trace, by: LayerMap | None, k: int, from_position: int = 0, floor: Floor | None = None) -> Kept:
    """What selections of k keys keep, or with a floor of at most k, for the queries at from_position and later."""
    ranking, num_q_heads = Ranking(trace, by), trace.q.shape[1]
    group, parts = num_q_heads // ranking.heads, []
    for rows in row_chunks(trace, from_position):
        softmax, visible = softmax_of(trace, rows)
        kept = select(ranking.scores(rows, softmax), visible, k, floor, ranking.steps(rows) if floor else None)
        counts = kept.sum(-1)
        exact = softmax.unflatten(1, (ranking.heads, -1)).sum(2)
        best = _first(_order(exact, visible, int(counts.max())), counts, exact.shape[-1])
        recall = ((best & kept).sum(-1) / counts).repeat_interleave(group, 1)
        weights = softmax * kept.repeat_interleave(group, 1)
        mass = weights.sum(-1)
        values = trace.v.repeat_interleave(num_q_heads // trace.v.shape[1], 1)
        dense = torch.einsum("phn,nhd->phd", softmax, values)
        out = torch.einsum("phn,nhd->phd", weights / mass.clamp_min(1e-30)[..., None], values)
        parts.append((counts.repeat_interleave(group, 1), recall, mass,
                      (out - dense).norm(dim=-1) / dense.norm(dim=-1)))
    return Kept(*map(torch.cat, zip(*parts, strict=True)))


def find_floor(traces: Sequence[Trace], by: LayerMap, rows: float, most: int, min_k: int,
               from_position: int = 0) -> Floor | None:
    """The floor with which selections of at most `most` keys keep `rows` on average; None where no floor does."""
    likely, seen = [], []
    for trace in traces:
        ranking = Ranking(trace, by)
        for chunk in row_chunks(trace, from_position):
            softmax, visible = softmax_of(trace, chunk)
            scores = ranking.scores(chunk, softmax)
            found = _probabilities(scores, visible, _order(scores, visible, most), ranking.steps(chunk)).flatten(0, 1)
            likely.append(F.pad(found, (0, most - found.shape[1])))
            seen.append(visible.sum(-1).clamp_max(most).expand(scores.shape[:2]).flatten())
    kept, limit = torch.cat(likely), torch.cat(seen)

    def mean_rows(floor: float) -> float:
        return float((kept >= floor).sum(-1).clamp_min(min_k).minimum(limit).double().mean())

    low, high = math.log(1e-9), math.log(0.999)  # more keys than wanted, and fewer
    if not mean_rows(math.exp(high)) <= rows <= mean_rows(math.exp(low)):
        return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_rows(math.exp(middle)) > rows else (low, middle)
    near = min(math.exp(low), math.exp(high), key=lambda floor: abs(mean_rows(floor) - rows))
    return Floor(near, min_k)
