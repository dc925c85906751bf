# SPDX-License-Identifier: Apache-2.0
"""python -m hattn.maps: capture traces of a model, train maps on them, check maps on others; convert maps of others and
calibrate them."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

import torch

from hattn.maps.check import check, plot, table
from hattn.maps.convert import convert
from hattn.maps.slopes import fit_slopes
from hattn.maps.traces import OF_HEADS, files_by_layer, load_maps, load_trace, put_slopes, save
from hattn.maps.train import KINDS, SLOPE_QUERIES, Recipe, train


def _numbers(text: str) -> list[int]:
    """"2,3,5-7" """
    parts = [part.split("-") for part in text.split(",")]
    return [number for part in parts for number in range(int(part[0]), int(part[-1]) + 1)]


def _bits(text: str) -> int:
    bits = int(text)
    if not 32 <= bits <= 512 or bits % 8:
        raise argparse.ArgumentTypeError("bits are 32..512 in steps of 8")
    return bits


def _capture(args: argparse.Namespace) -> int:
    from hattn.maps.capture import capture
    capture(args.model, args.text, args.out, args.layers, args.window, args.windows, args.queries, args.seed,
            args.device)
    return 0


def _train(args: argparse.Namespace) -> int:
    recipe = Recipe(args.kind, args.bits, args.per_query_head, args.steps, args.queries, args.keys, args.rate,
                    args.seed, args.budget)
    os.makedirs(args.out, exist_ok=True)
    for layer, paths in files_by_layer(args.traces).items():
        if args.layers is not None and layer not in args.layers:
            continue
        print("layer %d: %d windows" % (layer, len(paths)), file=sys.stderr)
        trained = train([load_trace(path).to(args.device) for path in paths], recipe)
        save(os.path.join(args.out, "layer%d.safetensors" % layer), {}, [trained])
    return 0


def _check(args: argparse.Namespace) -> int:
    result = check(args.maps, args.traces, args.budget, args.from_position, args.device)
    print(table(result))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)
    if args.plot:
        plot(result, args.plot)
    for line in result["worse"]:
        print("worse than orthogonal maps: " + line, file=sys.stderr)
    return 1 if result["worse"] else 0


def _calibrate(args: argparse.Namespace) -> int:
    trace_files = files_by_layer(args.traces)
    for layer, paths in files_by_layer(args.maps).items():
        if layer not in trace_files:
            raise ValueError("%s has no traces of layer %d" % (args.traces, layer))
        loaded = [load_trace(path).to(args.device).spread_queries(SLOPE_QUERIES) for path in trace_files[layer]]
        for path in paths:
            maps = load_maps(path)
            for one in maps:
                one.slopes = fit_slopes(loaded, one.to(args.device))
                for what, kind in ((one.score + " scores", one.score), ("query heads", OF_HEADS)):
                    if kind in one.slopes:
                        print("layer %d, %s, %s: %s" % (layer, one.name, what, " ".join(
                            "%.6g" % slope for slope in one.slopes[kind].tolist())))
            put_slopes(path, maps)
    return 0


def _convert(args: argparse.Namespace) -> int:
    os.makedirs(args.out, exist_ok=True)
    for layer, by in convert(args.source, args.kv_heads).items():
        save(os.path.join(args.out, "layer%d.safetensors" % layer), {}, [by])
        print("layer %d: %s" % (layer, by.name), file=sys.stderr)
    return 0


def parser() -> argparse.ArgumentParser:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    top = argparse.ArgumentParser(prog="python -m hattn.maps", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="capture|train|check|convert|calibrate")

    captured = commands.add_parser("capture", help="a model's queries, keys and values on text, as attention has them")
    captured.set_defaults(run=_capture)
    captured.add_argument("model", help="a name or folder that transformers loads")
    captured.add_argument("--text", nargs="+", required=True, help="text files, or .npy files of token numbers")
    captured.add_argument("--out", required=True, help="the folder for traces; those that are there are left")
    captured.add_argument("--layers", type=_numbers, help="2,3,5-7; default: all")
    captured.add_argument("--window", type=int, default=32768, help="tokens of a forward pass (32768)")
    captured.add_argument("--windows", type=int, default=12, help="at most, spread over the text (12)")
    captured.add_argument("--queries", type=int, default=1024, help="positions whose queries are kept (1024)")

    one = commands.add_parser("train", help="maps for each layer of a folder of traces")
    one.set_defaults(run=_train)
    one.add_argument("traces")
    one.add_argument("--kind", choices=KINDS, required=True)
    one.add_argument("--bits", type=_bits, default=128, help="32..512 (128)")
    one.add_argument("--out", required=True, help="the folder for maps")
    one.add_argument("--layers", type=_numbers, help="2,3,5-7; default: all")
    one.add_argument("--per-query-head", action="store_true",
                     help="a map for each query head, which selects alone: codes are as many times larger")
    one.add_argument("--steps", type=int, default=2000, help="at most (2000); stops early where nothing gets better")
    one.add_argument("--queries", type=int, default=24, help="of a step (24)")
    one.add_argument("--keys", type=int, default=0 if device == "cuda" else 4096, help="of a step; 0: all of a window")
    one.add_argument("--rate", type=float, default=1e-3, help="of Adam (0.001)")
    one.add_argument("--budget", type=int, default=512, help="selected keys, by which a stop is decided (512)")

    other = commands.add_parser("check", help="what maps keep; exit code 1 where orthogonal maps keep more")
    other.set_defaults(run=_check)
    other.add_argument("maps")
    other.add_argument("traces")
    other.add_argument("--budget", type=int, default=512, help="selected keys (512)")
    other.add_argument("--from-position", type=int, default=0, help="queries from here on only")
    other.add_argument("--json", help="write all figures, of each head too, to this file")
    other.add_argument("--plot", help="write a figure to this file (matplotlib)")

    foreign = commands.add_parser("convert", help="maps that HATA or HashAttention trained")
    foreign.set_defaults(run=_convert)
    foreign.add_argument("source", help="a folder of HATA's hash_weight_layer_*.pt, or a .pt file of HashAttention's")
    foreign.add_argument("--out", required=True, help="the folder for maps")
    foreign.add_argument("--kv-heads", type=int, help="of HATA's weights that all heads share")

    fitted = commands.add_parser("calibrate", help="slopes for maps, which floors of probability, tails and "
                                                "candidates need; train does it")
    fitted.set_defaults(run=_calibrate)
    fitted.add_argument("maps", help="a folder of maps, in which they are put; slopes that maps have are replaced")
    fitted.add_argument("traces")

    for command in (one, other, captured, fitted):
        command.add_argument("--device", default=device, help="of torch (%s)" % device)
    for command in (one, captured):
        command.add_argument("--seed", type=int, default=0)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except (OSError, ValueError) as error:
        print("hattn.maps: %s" % error, file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
