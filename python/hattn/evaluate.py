# SPDX-License-Identifier: Apache-2.0
"""python -m hattn.evaluate: what a model's predictions lose by selecting keys, and how fast it decodes.

Each window of a text is read as a prompt but for its last tokens, which are then decoded one by one, given the true
ones: once with all keys (sdpa) and once with each budget. nll: mean negative log likelihood, in nats; kl: from the
predictions of sdpa. "copied" decodes a span of the window itself instead, which models find only by looking back; its
first quarter is not counted.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from hattn.maps.capture import tokens_of
from hattn.transformers import NAME, HashCache

Tensor = torch.Tensor
_HEAD = ["text", "budget", "nll", "kl", "+-", "tokens/s"]


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


def _window(model: Any, maps: Any, prompt: Tensor, text: Tensor, budgets: Sequence[int],
            more: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one window: every kind of text, sdpa and every budget; kl and nll of each token."""
    cache = HashCache(model.config, maps, capacity=len(prompt) + len(text), **more)
    model(prompt[None, :-1], past_key_values=cache, logits_to_keep=1)
    span, rows = prompt[len(prompt) // 8:len(prompt) // 8 + len(text)], []
    for kind, tokens, skipped in (("plain", text, 0), ("copied", span, len(span) // 4)):
        dense = torch.empty(0)
        for budget in [None, *budgets]:
            model.set_attn_implementation("sdpa" if budget is None else NAME)
            cache.budget = budget or 0
            log_p, rate = _decode(model, cache, prompt[-1:], tokens)
            dense = log_p if budget is None else dense
            kl = (dense.exp() * (dense - log_p)).sum(-1)[skipped:]
            nll = -log_p.gather(1, tokens.cpu()[:, None])[skipped:, 0]
            rows.append({"text": kind, "budget": budget, "kl": kl, "nll": nll, "rate": rate})
    return rows


def evaluate(model_name: str, maps: str, texts: Sequence[str], budgets: Sequence[int], window: int = 32768,
             windows: int = 2, tokens: int = 256, device: str = "cpu", **more: Any) -> list[dict[str, Any]]:
    """Rows {text, budget (None: sdpa), nll, kl, kl_error (standard), tokens_per_second}. more: of HashCache."""
    from transformers import AutoModelForCausalLM
    numbers = tokens_of(model_name, texts)
    windows = min(windows, len(numbers) // window)
    if not windows or not 0 < tokens < window // 2:
        raise ValueError("the text has %d tokens, a window %d, of which %d are decoded" %
                         (len(numbers), window, tokens))
    dtype = torch.float32 if device == "cpu" else "auto"
    model: Any = AutoModelForCausalLM.from_pretrained(model_name, attn_implementation=NAME, dtype=dtype)
    model = model.to(device).eval()
    parts: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for i in range(windows):
        start = (len(numbers) - window) * i // max(1, windows - 1)
        ids = numbers[start:start + window].to(device)
        with torch.no_grad():
            for row in _window(model, maps, ids[:-tokens], ids[-tokens:], budgets, more):
                parts.setdefault((row["text"], row["budget"]), []).append(row)
        print("window %d of %d" % (i + 1, windows), file=sys.stderr)
    rows = []
    for (kind, budget), found in parts.items():
        kl, nll = (torch.cat([row[name] for row in found]).double() for name in ("kl", "nll"))
        rows.append({"text": kind, "budget": budget, "nll": float(nll.mean()), "kl": float(kl.mean()),
                     "kl_error": float(kl.std() / len(kl)**0.5),
                     "tokens_per_second": sum(row["rate"] for row in found) / len(found)})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [_HEAD] + [[row["text"], "sdpa" if row["budget"] is None else str(row["budget"]), "%.4f" % row["nll"],
                        "%.5f" % row["kl"], "%.5f" % row["kl_error"], "%.1f" % row["tokens_per_second"]]
                       for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def plot(rows: Sequence[dict[str, Any]], path: str) -> None:
    """KL by budget."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "hattn", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(figsize=(5, 3.2))
    for kind in dict.fromkeys(row["text"] for row in rows):
        mine = [row for row in rows if row["text"] == kind and row["budget"] is not None]
        axes.errorbar([row["budget"] for row in mine], [row["kl"] for row in mine], [row["kl_error"] for row in mine],
                      marker="o", markersize=3, label=kind + " text")
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
        rows = evaluate(args.model, args.maps, args.text, [int(budget) for budget in args.budgets.split(",")],
                        args.window, args.windows, args.tokens, args.device, first_layer=args.first_layer)
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
