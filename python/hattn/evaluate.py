# SPDX-License-Identifier: Apache-2.0
"""python -m hattn.evaluate: what a model's predictions lose by selecting keys, and how fast it decodes.

Each window of a text is read as a prompt but for its last tokens, which are then decoded one by one, given the true
ones: once with all keys (sdpa), once with each budget, and once with each floor of probability; these with each tail,
each number of candidates and each least weight of values. rows: keys that a selection keeps, on average over steps,
layers with maps, and heads; nll: mean negative log likelihood, in nats; kl: from the predictions of sdpa. "copied"
decodes a span of the window itself instead, from so many tokens back, which models find only by looking back; its
first quarter is not counted.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from hattn.maps.capture import tokens_of
from hattn.transformers import NAME, HashCache

Tensor = torch.Tensor
_HEAD = ["text", "selected", "rows", "nll", "kl", "+-", "tokens/s"]


class Way(NamedTuple):
    """To select keys. budget None: sdpa, all of them; with a floor of probability the budget is the most."""

    budget: int | None = None
    min_probability: float = 0.0
    min_k: int = 0
    tail: float = 0.0
    num_candidates: int = 0
    min_value_weight: float = 0.0


class _Text(NamedTuple):
    """distance: from where tokens were copied, in tokens back; 0: as the text goes on."""

    tokens: Tensor
    distance: int
    skipped: int


def _decode(model: Any, cache: HashCache, first: Tensor, tokens: Tensor) -> tuple[Tensor, float]:
    """Log probabilities [tokens, vocabulary] of the tokens after `first`, and tokens a second. The cache is left as it
    was."""
    logits, inputs = [], torch.cat([first, tokens[:-1]])
    start = time.perf_counter()
    for token in inputs:
        logits.append(model(token.view(1, 1), past_key_values=cache).logits[0, -1])
    stacked = torch.stack(logits).float().cpu()  # waits for a device
    seconds = time.perf_counter() - start
    cache.crop(-len(inputs))
    return stacked.log_softmax(-1), len(inputs) / seconds


def _texts(prompt: Tensor, text: Tensor, distances: Sequence[int]) -> list[_Text]:
    texts = [_Text(text, 0, 0)]
    for distance in distances:
        start = len(prompt) - distance
        texts.append(_Text(prompt[start:start + len(text)], distance, len(text) // 4))
    return texts


def _window(model: Any, maps: Any, prompt: Tensor, texts: Sequence[_Text], ways: Sequence[Way],
            more: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one window: every text, sdpa and every way; kl and nll of each token."""
    cache = HashCache(model.config, maps, capacity=len(prompt) + len(texts[0].tokens), **more)
    for way in ways:  # what is refused is refused before the work
        cache.select(way.budget or 0, *way[1:])
    model(prompt[None, :-1], past_key_values=cache, logits_to_keep=1)
    rows = []
    for tokens, distance, skipped in texts:
        dense = torch.empty(0)
        for way in [Way(), *ways]:
            model.set_attn_implementation("sdpa" if way.budget is None else NAME)
            cache.select(way.budget or 0, *way[1:])
            cache.counts = [] if way.min_probability else None  # others' are known, and counting takes time
            log_p, rate = _decode(model, cache, prompt[-1:], tokens)
            dense = log_p if way.budget is None else dense
            kl = (dense.exp() * (dense - log_p)).sum(-1)[skipped:]
            nll = -log_p.gather(1, tokens.cpu()[:, None])[skipped:, 0]
            lengths = torch.arange(len(prompt), len(prompt) + len(tokens)).clamp_max(way.budget or sys.maxsize)
            counts = torch.cat([one.flatten() for one in cache.counts]) if cache.counts else lengths
            rows.append({"distance": distance, "way": way, "rows": counts.cpu().double(), "kl": kl, "nll": nll,
                         "rate": rate})
    return rows


def evaluate(model_name: str, maps: str, texts: Sequence[str], ways: Sequence[Way], window: int = 32768,
             windows: int = 2, tokens: int = 256, device: str = "cpu", distances: Sequence[int] = (),
             **more: Any) -> list[dict[str, Any]]:
    """Rows {text ("plain" or "copied"), distance, budget (None: sdpa), min_probability, tail, num_candidates,
    min_value_weight, rows, nll, kl, kl_error (standard), tokens_per_second}. distances: usually 7/8 of the prompt.
    more: of HashCache."""
    from transformers import AutoModelForCausalLM
    numbers = tokens_of(model_name, texts)
    windows = min(windows, len(numbers) // window)
    if not windows or not 0 < tokens < window // 2:
        raise ValueError("the text has %d tokens, a window %d, of which %d are decoded" %
                         (len(numbers), window, tokens))
    prompt = window - tokens
    distances = distances or [prompt - prompt // 8]
    if not all(tokens <= distance <= prompt for distance in distances):
        raise ValueError("of windows of %d tokens, of which %d are decoded, spans are copied from %d to %d back" %
                         (window, tokens, tokens, prompt))
    dtype = torch.float32 if device == "cpu" else "auto"
    model: Any = AutoModelForCausalLM.from_pretrained(model_name, attn_implementation=NAME, dtype=dtype)
    model = model.to(device).eval()
    parts: dict[tuple[int, Way], list[dict[str, Any]]] = {}
    for i in range(windows):
        start = (len(numbers) - window) * i // max(1, windows - 1)
        ids = numbers[start:start + window].to(device)
        with torch.no_grad():
            decoded = _texts(ids[:prompt], ids[prompt:], distances)
            for row in _window(model, maps, ids[:prompt], decoded, ways, more):
                parts.setdefault((row["distance"], row["way"]), []).append(row)
        print("window %d of %d" % (i + 1, windows), file=sys.stderr)
    rows = []
    for (distance, way), found in parts.items():
        kl, nll, kept = (torch.cat([row[name] for row in found]).double() for name in ("kl", "nll", "rows"))
        rows.append({"text": "copied" if distance else "plain", "distance": distance, "budget": way.budget,
                     "min_probability": way.min_probability, "tail": way.tail, "num_candidates": way.num_candidates,
                     "min_value_weight": way.min_value_weight, "rows": float(kept.mean()),
                     "nll": float(nll.mean()), "kl": float(kl.mean()),
                     "kl_error": float(kl.std() / len(kl)**0.5),
                     "tokens_per_second": sum(row["rate"] for row in found) / len(found)})
    return rows


def _text_name(row: dict[str, Any]) -> str:
    return "%s, %d back" % (row["text"], row["distance"]) if row["distance"] else str(row["text"])


def _way_name(row: dict[str, Any]) -> str:
    floor = row["min_probability"]
    name = "sdpa" if row["budget"] is None else "above %.2g" % floor if floor else str(row["budget"])
    return name + _features_name(row)


def _features_name(row: dict[str, Any]) -> str:
    return (", tail %g" % row["tail"] if row["tail"] else "") + (
        ", of %d" % row["num_candidates"] if row["num_candidates"] else "") + (
        ", values above %.2g" % row["min_value_weight"] if row["min_value_weight"] else "")


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [_HEAD] + [[_text_name(row), _way_name(row), "%.1f" % row["rows"], "%.4f" % row["nll"], "%.5f" % row["kl"],
                        "%.5f" % row["kl_error"], "%.1f" % row["tokens_per_second"]] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def plot(rows: Sequence[dict[str, Any]], path: str) -> None:
    """KL by keys that are kept, a line for each way to count with the others; floors are dashed."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "hattn", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(figsize=(5, 3.2))
    for name in dict.fromkeys(map(_text_name, rows)):
        mine = [row for row in rows if _text_name(row) == name and row["budget"] is not None]
        for floors, features in dict.fromkeys((bool(row["min_probability"]), _features_name(row)) for row in mine):
            some = [row for row in mine if bool(row["min_probability"]) == floors and _features_name(row) == features]
            if some:
                axes.errorbar([row["rows"] for row in some], [row["kl"] for row in some],
                              [row["kl_error"] for row in some], linestyle="--" if floors else "-", marker="o",
                              markersize=3, label=name + ", floors" * floors + features)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("selected keys")
    axes.set_ylabel("KL from sdpa, nats")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def parser() -> argparse.ArgumentParser:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(prog="python -m hattn.evaluate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="a name or folder that transformers loads")
    parser.add_argument("--maps", required=True, help="a folder that hattn.maps train wrote")
    parser.add_argument("--text", nargs="+", required=True, help="text files, or .npy files of token numbers")
    parser.add_argument("--budgets", default="256,512,1024", help="selected keys (256,512,1024)")
    parser.add_argument("--min-probability", default="", metavar="P,P...",
                        help="floors of probability, by the maps' slopes: as many keys as have it")
    parser.add_argument("--most", type=int, default=2048, help="selected keys at most with a floor (2048)")
    parser.add_argument("--min-k", type=int, default=0, help="selected keys at least with a floor (64)")
    parser.add_argument("--tail", default="0", metavar="R,R...",
                        help="factors of what scores promise of keys that are not kept, which count with the mean of "
                        "all values; 0.5 is a good one (0: they do not)")
    parser.add_argument("--candidates", default="0", metavar="N,N...",
                        help="of so many keys scores of each query head decide; as many as selected keys at most, or "
                        "more (0: the scores of all query heads of a group)")
    parser.add_argument("--min-value-weight", default="0", metavar="W,W...",
                        help="with a tail, values of kept keys that weigh less are not read, and the mean takes their "
                        "place (0: all are)")
    parser.add_argument("--distances", default="", metavar="N,N...",
                        help="how far back spans are that are copied, in tokens (7/8 of a window)")
    parser.add_argument("--window", type=int, default=32768, help="tokens (32768)")
    parser.add_argument("--windows", type=int, default=2, help="at most, spread over the text (2)")
    parser.add_argument("--tokens", type=int, default=256, help="decoded tokens of a window (256)")
    parser.add_argument("--first-layer", type=int, default=0, help="layers below stay dense (0)")
    parser.add_argument("--device", default=device, help="of torch (%s)" % device)
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--plot", help="write a figure to this file (matplotlib)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        ways = [Way(int(budget)) for budget in args.budgets.split(",") if budget]
        ways += [Way(args.most, float(floor), args.min_k) for floor in args.min_probability.split(",") if floor]
        tails = [float(tail) for tail in args.tail.split(",")]
        ways = [way._replace(tail=tail, num_candidates=int(candidates),
                             min_value_weight=float(weight) if tail or not any(tails) else 0.0)
                for candidates in args.candidates.split(",") for tail in tails
                for weight in args.min_value_weight.split(",") for way in ways]
        ways = list(dict.fromkeys(ways))
        distances = [int(distance) for distance in args.distances.split(",") if distance]
        rows = evaluate(args.model, args.maps, args.text, ways, args.window, args.windows, args.tokens, args.device,
                        distances, first_layer=args.first_layer)
    except (OSError, ValueError) as error:
        print("hattn.evaluate: %s" % error, file=sys.stderr)
        return 2
    print(table(rows))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)
    if args.plot:
        plot(rows, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
