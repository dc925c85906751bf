# SPDX-License-Identifier: Apache-2.0
"""Slopes of maps, what floors of probability, tails and candidates need, as `hattn calibrate` fits them.

The slope of a selection head is the one whose estimate softmax(slope * x), with x = unit * sum w_r (2 code_r - 1), has
the least cross entropy against its query heads' mean attention, mean over queries. Keys of one score are one level.
Where query heads select together each has a slope too, by weights of its own and against its own attention.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from hattn.maps.scores import Ranking, row_chunks, softmax_of
from hattn.maps.traces import OF_HEADS, SCORES, LayerMap, Trace

Tensor = torch.Tensor
MOST_OCTAVES = 32  # of the largest step, 32768 of 1024 each


@dataclass
class _Levels:
    """A head's levels, in double, query after query and rising: the number of the query, x, how many keys there are,
    and the mean attention on them."""

    query: Tensor
    x: Tensor
    count: Tensor
    mass: Tensor


def _levels(traces: Sequence[Trace], by: LayerMap, of_query_heads: bool = False) -> list[_Levels]:
    """Of each selection head, or of each query head."""
    parts: list[list[tuple[Tensor, ...]]] = []
    queries = 0
    for trace in traces:
        ranking = Ranking(trace, by, of_query_heads)
        parts = parts or [[] for _ in range(ranking.heads)]
        for rows in row_chunks(trace):
            softmax, visible = softmax_of(trace, rows)
            target = softmax.unflatten(1, (ranking.heads, -1)).mean(2)
            scores = ranking.scores(rows, softmax)
            most = int(scores.abs().max())
            at = (scores + most).long()
            for head, found in enumerate(parts):
                sums = torch.zeros((2, len(rows), 2 * most + 1), dtype=torch.float64, device=at.device)
                sums[0].scatter_add_(1, at[:, head], visible[:, 0].double())
                sums[1].scatter_add_(1, at[:, head], target[:, head].double())
                row, level = sums[0].nonzero(as_tuple=True)
                x = ranking.unit[head, rows][row].double() * (level - most)
                found.append((row + queries, x, sums[0, row, level], sums[1, row, level]))
            queries += len(rows)
    return [_Levels(*map(torch.cat, zip(*found, strict=True))) for found in parts]


def _largest(levels: _Levels) -> float:
    """From here on a difference of the least distance of x is the largest step, in every query."""
    apart = levels.x.diff()[levels.query.diff() == 0].abs()
    least = float(apart.min()) if len(apart) else 0.0
    return MOST_OCTAVES * math.log(2) / least if least > 0 else 0.0


def _fit(levels: _Levels) -> float:
    """The cross entropy ln(sum of e^(slope x)) - slope * (mean x by the true attention) is convex: Newton's steps, and
    where one leaves what is known to hold the slope, half of that. A slope that is not positive is 0."""
    query, size = levels.query, int(levels.query[-1]) + 1

    def of_queries(values: Tensor) -> Tensor:
        return torch.zeros(size, dtype=torch.float64, device=values.device).index_add_(0, query, values)

    top = torch.full((size,), -math.inf, dtype=torch.float64, device=query.device)
    below = levels.x - top.scatter_reduce_(0, query, levels.x, "amax")[query]
    truth = of_queries(levels.mass * below)

    def derivatives(slope: float) -> tuple[float, float]:
        share = levels.count * torch.exp(slope * below)
        total = of_queries(share)
        mean = of_queries(share * below) / total
        return float((mean - truth).sum()), float((of_queries(share * below**2) / total - mean**2).sum())

    low, high, slope = 0.0, _largest(levels), 0.0
    first, second = derivatives(slope)
    if first >= 0:
        return 0.0
    for _ in range(200):
        step = slope - first / second if second > 0 else math.inf
        slope = step if low < step < high else (low + high) / 2
        first, second = derivatives(slope)
        low, high = (slope, high) if first < 0 else (low, slope)
        if abs(first) <= 1e-13 * second * slope or high - low <= 1e-12 * high:
            break
    return slope


def fit_slopes(traces: Sequence[Trace], by: LayerMap) -> dict[str, Tensor]:
    """As a LayerMap has them, by all queries of the traces: of both kinds of score, and of query heads that select
    together with others."""
    levels = {score: _levels(traces, replace(by, score=score)) for score in SCORES}
    num_q_heads, num_kv_heads = traces[0].q.shape[1], traces[0].k.shape[1]
    if num_q_heads > num_kv_heads and not by.per_query_head(num_kv_heads):
        levels[OF_HEADS] = _levels(traces, replace(by, score="weighted"), True)
    return {name: torch.tensor([_fit(one) for one in heads]) for name, heads in levels.items()}
