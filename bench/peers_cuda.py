#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""hattn beside what a PyTorch user has on this GPU, torch and FlashInfer: one table out of one run in which all take turns.

Runs in the Python that has torch with CUDA (2.11 was used), installs nothing; FlashInfer takes part where it is there. hattn's results are checked against torch's
on the same selection first. Rows that cannot be had say why. --from JSON draws the page and the figure of an earlier run.
"""
import argparse
import json
import os
import sys

sys.dont_write_bytecode = True  # nothing is left in the tree
import tables
import venv_setup

SHAPES = [("S1", 1, 32, 8, 32768, 512), ("S2", 1, 32, 8, 131072, 2048), ("S3", 8, 32, 8, 32768, 512),
          ("S4", 8, 32, 8, 131072, 2048), ("S5", 8, 32, 32, 32768, 512), ("S6", 1, 32, 32, 131072, 2048)]
PAGED_SHAPES, PAGE_SIZES = ("S1", "S4"), (64, 16, 1)
OFFLOADED_SHAPES = ("S1", "S2")
DECODE = "hattn decode, 128 bits, hamming"
HEAD = ["shape", "what", "us", "ratio", "to", "note"]
NUMBERS = ("us", "ratio")


class Row:
    def __init__(self, shape, name, us, to, to_us, note):
        self.shape, self.name, self.us, self.to, self.note = shape, name, us, to, note
        self.ratio = us / to_us if us and to_us else None

    def cells(self):
        return [self.shape, self.name, "%.1f" % self.us if self.us else "-", "%.2f" % self.ratio if self.ratio else "-",
                self.to if self.ratio else "-", self.note]


def torch_forms(shape, layers):
    """(name, backend, q, enable_gqa) of scaled_dot_product_attention."""
    from torch.nn.attention import SDPBackend
    rows = layers.q.view(shape.batch, shape.num_kv_heads, shape.group, -1)
    heads = layers.q.view(shape.batch, shape.num_q_heads, 1, -1)
    forms = [("heads of a group as rows", rows, False), ("enable_gqa", heads, True)] if shape.group > 1 else [("", heads, False)]
    backends = [("flash", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)]
    return [("torch SDPA %s%s" % (name, form and ", " + form), backend, q, gqa)
            for name, backend in backends for form, q, gqa in forms]


def add_torch(contenders, shape, layers, expected):
    import torch.nn.functional as F
    from cuda_rounds import Contender, differs
    from torch.nn.attention import sdpa_kernel
    for name, backend, q, gqa in torch_forms(shape, layers):
        def call(i, backend=backend, q=q, gqa=gqa):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, layers.k[i], layers.v[i], enable_gqa=gqa)
        contender = Contender(name, call, layers.count)
        try:
            contender.note = differs(call(0), expected)
        except Exception:  # told when it is captured
            pass
        contenders.append(contender)


def run_shape(device, shape, stream, rounds):
    """Rows of one shape: hattn's steps and dense attention, torch's and FlashInfer's dense attention, pages, top-k."""
    import peers_flashinfer
    import torch
    from cuda_rounds import Contender, Hattn, Layers, run_rounds
    layers = Layers(shape)
    contenders, made = [], []

    def add(name, bits=128, kind="hamming", page_size=0):
        hattn = Hattn(device, layers, bits, kind, page_size, stream.cuda_stream)
        made.append(hattn)
        contenders.append(Contender(name, hattn.decode, layers.count, hattn.check()))
        return hattn

    main = add(DECODE)
    add("hattn decode, 128 bits, weighted 4", kind="weighted")
    add("hattn decode, 64 bits, weighted 4", bits=64, kind="weighted")
    contenders.append(Contender("hattn dense", main.dense, layers.count))
    main.dense(0)
    torch.cuda.synchronize()
    add_torch(contenders, shape, layers, main.out.clone())
    page_sizes = set(PAGE_SIZES if shape.name in PAGED_SHAPES else ()) | {peers_flashinfer.PAGE_SIZE}
    paged = {size: add("hattn decode, 128 bits, pages of %d" % size, page_size=size)
             for size in sorted(page_sizes, reverse=True)}
    contenders += peers_flashinfer.decode_contenders(paged[peers_flashinfer.PAGE_SIZE], layers)
    first_topk = len(contenders)
    contenders += peers_flashinfer.topk_contenders(main, layers)
    run_rounds(contenders, stream, rounds)
    best = min((c for c in contenders if c.us and c.name.startswith("torch")), key=lambda c: c.median, default=None)
    rows = []
    for i, c in enumerate(contenders):
        to = contenders[0] if c.name.startswith("hattn decode, 128 bits, pages") or c is contenders[0] or not best else best
        to = contenders[first_topk] if i >= first_topk else to
        rows.append(Row(shape.name, c.name, c.median if c.us else None, to.name if to.us else "",
                        to.median if to.us else None, c.note))
    if best and contenders[0].us:
        rows[0].to, rows[0].ratio = best.name, contenders[0].median / best.median
    for hattn in made:
        hattn.plan.destroy()
    return rows


def wrong_bits(codes, keys, weights, num=4096):
    """The part of the first codes' bits that torch does not give."""
    import torch
    z = torch.einsum("nhd,hdr->hnr", keys[:num].float(), weights.float())
    bits = (codes[:, :num, :, None] >> torch.arange(32, device="cuda")) & 1
    return float(((z > 0) != bits.reshape(z.shape).bool()).float().mean())


def run_encode(device, stream, rounds):
    """Prefill: keys per second against what torch multiplies and reads."""
    import torch
    from cuda_rounds import Contender, D, encode_keys, run_rounds
    heads, n, size = 8, 131072, 8192
    big = torch.empty(1 << 29, dtype=torch.int32, device="cuda").zero_()
    square = torch.randn((size, size), dtype=torch.float16, device="cuda")
    contenders, work, kept = [], [], []
    for code_bits in (64, 128, 256, 512):
        encode, codes, keys, weights = encode_keys(device, heads, n, code_bits, stream.cuda_stream)
        kept.append((codes, keys, weights))
        encode(0)
        torch.cuda.synchronize()
        wrong = wrong_bits(codes, keys, weights)
        contenders.append(Contender("hattn encode_keys, %d keys of %d heads, %d bits" % (n, heads, code_bits), encode, 1,
                                    "" if wrong < 1e-3 else "%.2g of the bits are wrong" % wrong))
        work.append((2 * n * heads * D * code_bits, n * heads * D * 2))
        if code_bits == 128:
            head_major, weights_128 = keys.transpose(0, 1).contiguous(), weights
            contenders.append(Contender("torch.matmul of the same", lambda _: torch.matmul(head_major, weights_128), 1,
                                        "its fp16 outputs are written"))
            work.append(work[-1])
    contenders += [Contender("torch.matmul %d^3, fp16" % size, lambda _: torch.matmul(square, square), 1),
                   Contender("torch.max over 2 GiB", lambda _: torch.max(big), 1)]
    work += [(2 * size ** 3, 0), (0, big.numel() * 4)]
    run_rounds(contenders, stream, rounds)
    rows = []
    for c, (operations, size_read) in zip(contenders, work):
        rates = (["%.0f Tflop/s" % (operations / c.median * 1e-6)] if operations else []) + \
                (["%.0f GB/s" % (size_read / c.median * 1e-3)] if size_read else []) if c.us else []
        rows.append(Row("prefill", c.name, c.median if c.us else None, "", None, ", ".join(rates + [c.note] * bool(c.note))))
    return rows


def run_offloaded(device, shape, stream, rounds):
    """K and V in pinned memory of the host, codes on the device."""
    import torch
    from cuda_rounds import Contender, D, Hattn, Layers, run_rounds
    layers = Layers(shape, pinned_layers=2)
    hattn = Hattn(device, layers, stream=stream.cuda_stream)
    note = hattn.check()
    moved = 2 * shape.batch * shape.num_kv_heads * shape.k * D * 2
    there = torch.empty(moved, dtype=torch.uint8, device="cuda")
    flat = [layers.k[i].view(-1).view(torch.uint8) for i in range(layers.count)]
    contenders = [Contender("hattn decode, K and V on the host", hattn.decode, layers.count, note),
                  Contender("hattn attend, the selection given", hattn.attend, layers.count),
                  Contender("pinned copy of as many bytes", lambda i: there.copy_(flat[i][:moved], non_blocking=True),
                            layers.count)]
    run_rounds(contenders, stream, rounds)
    rows = []
    for c in contenders:
        rate = "%.1f GB/s of rows" % (moved / c.median * 1e-3) if c.us else ""
        rows.append(Row(shape.name, c.name, c.median if c.us else None, contenders[-1].name,
                        contenders[-1].median if contenders[-1].us else None, ", ".join(filter(None, [rate, c.note]))))
    hattn.plan.destroy()
    return rows


def run(args):
    import peers_flashinfer
    import torch
    from cuda_rounds import Shape
    from hattn import Device, Library
    device = Device("cuda", library=Library(venv_setup.library_path(args.library)))
    shapes = [Shape(*numbers) for numbers in SHAPES if args.shape in (None, numbers[0])]
    stream, rows = torch.cuda.Stream(), []
    with torch.no_grad(), torch.cuda.stream(stream):
        for shape in shapes:
            print(shape, file=sys.stderr)
            rows += run_shape(device, shape, stream, args.rounds)
            torch.cuda.empty_cache()
        rows += run_encode(device, stream, args.rounds)
        for shape in shapes:
            if shape.name in OFFLOADED_SHAPES:
                rows += run_offloaded(device, shape, stream, args.rounds)
    machine = "%s, torch %s, CUDA %s, cuDNN %s, %s" % (torch.cuda.get_device_name(), torch.__version__, torch.version.cuda,
                                                       torch.backends.cudnn.version(), peers_flashinfer.version())
    return {"machine": machine, "rounds": args.rounds, "rows": [vars(row) for row in rows]}


def restored(fields):
    row = Row.__new__(Row)
    vars(row).update(fields)
    return row


def caption(result):
    return ("One decode step, fp16, head dim 128. %s.\n"
            "us are medians of %d rounds in which graphs of all contenders of a shape take turns, each over layers that L2\n"
            "does not hold. ratio: us over those of the row named behind it. hattn decode is the whole step: encode the\n"
            "queries, score, top-k, attend." % (result["machine"], result["rounds"]))


def markdown(result, rows, figure_path):
    text = ("# hattn beside PyTorch and FlashInfer on a GPU\n\n`bench/peers_cuda.py` wrote this page.\n\n" +
            caption(result) + "\n\n")
    shapes = "".join("- %s: %d sequences, %d query heads on %d, %d keys, budget %d\n" % numbers for numbers in SHAPES)
    picture = "\n![us against the best dense attention](%s)\n" % os.path.basename(figure_path) if figure_path else ""
    return text + shapes + picture + "\n" + tables.markdown_table(HEAD, NUMBERS, [row.cells() for row in rows])


def figure(rows, path):
    """Bars: hattn's step and the best dense attention of torch, shape by shape."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "hattn", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt
    names = [numbers[0] for numbers in SHAPES]
    series = [("best dense of torch", "#999999", lambda row: row.name.startswith("torch")),
              ("hattn dense", "#cccccc", lambda row: row.name == "hattn dense"),
              ("hattn decode, 128 bits", "#1f77b4", lambda row: row.name == DECODE),
              ("hattn decode, 64 bits weighted", "#74b3dd", lambda row: row.name.startswith("hattn decode, 64"))]
    plot, axes = plt.subplots(figsize=(7.5, 3.2))
    for i, (label, color, belongs) in enumerate(series):
        us = [min((row.us for row in rows if row.shape == name and row.us and belongs(row)), default=0) for name in names]
        bars = axes.bar([x + 0.2 * (i - 1.5) for x in range(len(names))], us, 0.2, color=color, label=label)
        axes.bar_label(bars, ["%.0f" % value if value else "" for value in us], fontsize=6)
    axes.set_yscale("log")
    axes.set_ylim(bottom=1)
    axes.set_ylabel("us a step")
    axes.set_xticks(range(len(names)), names)
    axes.legend(frameon=False, fontsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    plot.tight_layout()
    plot.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", help="a libhattn.so.0; without it this tree's, built")
    parser.add_argument("--shape", choices=[numbers[0] for numbers in SHAPES], help="only this one")
    parser.add_argument("--rounds", type=int, default=15, help="timings of each contender (15)")
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--markdown", help="write the page to this file, the figure beside it")
    parser.add_argument("--from", dest="source", metavar="JSON", help="an earlier run's rows instead of a new run")
    args = parser.parse_args()
    if args.source:
        with open(args.source) as file:
            result = json.load(file)
    else:
        result = run(args)
    rows = [restored(fields) for fields in result["rows"]]
    print(tables.text_table(HEAD, NUMBERS, [row.cells() for row in rows]) + "\n\n" + caption(result))
    if args.json:
        with open(args.json, "w") as out:
            json.dump(result, out, indent=1)
    if args.markdown:
        path = os.path.splitext(args.markdown)[0] + ".svg"
        try:
            figure(rows, path)
        except ImportError:
            print("no figure, matplotlib is missing")
            path = None
        with open(args.markdown, "w") as out:
            out.write(markdown(result, rows, path))


if __name__ == "__main__":
    main()
