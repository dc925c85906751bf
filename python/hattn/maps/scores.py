# SPDX-License-Identifier: Apache-2.0
"""What a map's codes select of a trace, by the formulas of api/hattn.h, and what exact attention says of it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hattn.maps.traces import LayerMap, Trace

Tensor = torch.Tensor
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


def query_weights(projected: Tensor, selection_heads: int, score: str) -> Tensor:
    """Integer weights [Hs, n, bits] of z [Hq, n, bits]; hamming's are twice the library's for even groups."""
    grouped = projected.unflatten(0, (selection_heads, -1))
    if score == "hamming":
        return signs(grouped).sum(1)
    u, most = grouped.sum(1), 2 ** (WEIGHT_BITS - 1) - 1
    largest = u.abs().amax(-1, keepdim=True)
    return torch.where(largest > 0, torch.round(u * (most / largest.clamp_min(1e-38))), torch.zeros_like(u))


class Ranking:
    """Scores of all keys of a trace, by a map; or by exact softmax, without one."""

    def __init__(self, trace: Trace, by: LayerMap | None) -> None:
        self.trace, self.by = trace, by
        num_q_heads, num_kv_heads = trace.q.shape[1], trace.k.shape[1]
        self.heads = num_q_heads if by is not None and by.per_query_head(num_kv_heads) else num_kv_heads
        if by is not None:
            code_heads = by.key[0].shape[0]
            keys = trace.k.transpose(0, 1).repeat_interleave(code_heads // num_kv_heads, 0)
            self.codes = signs(project(by.key, keys))
            of_head = torch.arange(num_q_heads, device=trace.q.device) * code_heads // num_q_heads
            query = project([tensor[of_head] for tensor in by.query], trace.q.transpose(0, 1))
            self.weights = query_weights(query, self.heads, by.score)

    def scores(self, rows: slice, softmax: Tensor) -> Tensor:
        """[rows, Hs, n]. softmax: the exact one of these rows, [rows, Hq, n]."""
        if self.by is None:
            exact: Tensor = softmax.unflatten(1, (self.heads, -1)).sum(2)
            return exact
        codes = self.codes.repeat_interleave(self.heads // self.codes.shape[0], 0)
        return (self.weights[:, rows] @ codes.transpose(1, 2)).transpose(0, 1)


@dataclass
class Kept:
    """[queries, Hq] each: of the true top-k, of softmax, and ||out - dense|| / ||dense||."""

    recall: Tensor
    mass: Tensor
    error: Tensor

    def means(self) -> dict[str, float]:
        return {name: float(values.double().mean()) for name, values in vars(self).items()}


def _top(scores: Tensor, visible: Tensor, k: int) -> Tensor:
    """A mask of the k best visible keys; equal ones by smallest position."""
    ranked = scores.masked_fill(~visible, float("-inf"))
    order = ranked.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.zeros_like(visible.expand_as(ranked)).scatter_(-1, order, True) & visible


def softmax_of(trace: Trace, rows: slice) -> tuple[Tensor, Tensor]:
    """Exact softmax [rows, Hq, n] and which keys each row sees, [rows, 1, n]."""
    q = trace.q[rows].unflatten(1, (trace.k.shape[1], -1))
    logits = torch.einsum("pgrd,ngd->pgrn", q, trace.k).flatten(1, 2) * trace.scale
    visible = torch.arange(trace.k.shape[0], device=q.device) <= trace.q_pos[rows, None, None]
    return logits.masked_fill(~visible, float("-inf")).softmax(-1), visible


def keep(trace: Trace, by: LayerMap | None, k: int, from_position: int = 0) -> Kept:
    """What selections of k keys keep, for the queries at from_position and later."""
    ranking, num_q_heads = Ranking(trace, by), trace.q.shape[1]
    chosen = (trace.q_pos >= from_position).nonzero()[:, 0].tolist()
    if not chosen:
        raise ValueError("%s has no queries at %d or later" % (trace.path, from_position))
    step = max(1, CHUNK // (num_q_heads * trace.k.shape[0]))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for first in range(chosen[0], trace.q.shape[0], step):
        rows = slice(first, min(first + step, trace.q.shape[0]))
        softmax, visible = softmax_of(trace, rows)
        group = num_q_heads // ranking.heads
        best = _top(softmax.unflatten(1, (ranking.heads, -1)).sum(2), visible, k)
        kept = _top(ranking.scores(rows, softmax), visible, k)
        recall = ((best & kept).sum(-1) / best.sum(-1)).repeat_interleave(group, 1)
        weights = softmax * kept.repeat_interleave(group, 1)
        mass = weights.sum(-1)
        values = trace.v.repeat_interleave(num_q_heads // trace.v.shape[1], 1)
        dense = torch.einsum("phn,nhd->phd", softmax, values)
        out = torch.einsum("phn,nhd->phd", weights / mass.clamp_min(1e-30)[..., None], values)
        parts.append((recall, mass, (out - dense).norm(dim=-1) / dense.norm(dim=-1)))
    keep_rows = torch.tensor([row - chosen[0] for row in chosen], device=trace.q.device)
    return Kept(*(torch.cat(columns)[keep_rows] for columns in zip(*parts, strict=True)))
