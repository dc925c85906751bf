# SPDX-License-Identifier: Apache-2.0
"""What maps keep of traces that they were not trained on, beside exact selection and orthogonal maps, and with floors
of probability that keep as many keys on average."""

from typing import Any

import torch

from hattn.maps.scores import Floor, find_floor, keep
from hattn.maps.traces import LayerMap, files_by_layer, load_maps, load_trace
from hattn.maps.train import Recipe, untrained

_HEAD = ["layer", "map", "floor", "rows", "recall", "mass", "error", "of heads: mass"]


def _row(layer: int, name: str, floor: Floor | None, columns: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Means over the queries of all windows; also of each query head."""
    row: dict[str, Any] = {"layer": layer, "map": name, "floor": floor and floor.min_probability}
    for metric, values in columns.items():
        row[metric] = float(values.double().mean())
        row[metric + "_of_heads"] = [float(x) for x in values.double().mean(0)]
    return row


def check(maps: str, traces: str, budget: int = 512, from_position: int = 0, device: str = "cpu") -> dict[str, Any]:
    """maps and traces: folders, or a file of each. {"budget", "rows": [...], "worse": [...]}: rows of exact selection,
    of each map, and of orthogonal maps with as many bits and the same scores; worse: maps that keep less than those. A
    map with slopes has a second row: a floor with which it keeps as many keys on average, none less than an eighth of
    the budget or more than four times that."""
    map_files, trace_files = files_by_layer(maps), files_by_layer(traces)
    missing = map_files.keys() - trace_files.keys()
    if missing:
        raise ValueError("%s has no traces of layers %s" % (traces, sorted(missing)))
    rows: list[dict[str, Any]] = []
    worse: list[str] = []
    for layer, paths in map_files.items():
        loaded = [load_trace(path).to(device) for path in trace_files[layer]]
        mine = [one.to(device) for path in paths for one in load_maps(path)]

        def measure(name: str, by: LayerMap | None, most: int = budget, floor: Floor | None = None,
                    layer: int = layer, loaded: Any = loaded) -> dict[str, Any]:
            kept = [vars(keep(trace, by, most, from_position, floor)) for trace in loaded]
            columns = {metric: torch.cat([one[metric] for one in kept]) for metric in kept[0]}
            rows.append(_row(layer, name, floor, columns))
            return rows[-1]

        measure("exact", None)
        plain: dict[tuple[int, str, str], float] = {}
        for one in mine:
            per_query_head = one.per_query_head(loaded[0].k.shape[1])
            key = (one.bits, one.score, " per query head" if per_query_head else "")
            if key not in plain:
                recipe = Recipe("orthogonal", one.bits, per_query_head=per_query_head)
                ours = untrained(loaded[:1], recipe).to(device)
                ours.score = one.score
                plain[key] = measure("orthogonal%d, %s%s" % key, ours)["mass"]
            fixed = measure(one.name, one)
            if fixed["mass"] < plain[key]:
                worse.append("layer %d: %s keeps %.4f, orthogonal maps %.4f" %
                             (layer, one.name, fixed["mass"], plain[key]))
            if one.score in one.slopes:
                bounds = 4 * budget, max(1, budget // 8)
                floor = find_floor(loaded, one, fixed["rows"], *bounds, from_position)
                if floor:
                    measure(one.name, one, bounds[0], floor)
    return {"budget": budget, "from_position": from_position, "rows": rows, "worse": worse}


def table(result: dict[str, Any]) -> str:
    """For a terminal."""
    cells = [_HEAD] + [[str(row["layer"]), row["map"], "%.2e" % row["floor"] if row["floor"] else "-",
                        "%.1f" % row["rows"]] + ["%.4f" % row[name] for name in ("recall", "mass", "error")] +
                       [" ".join("%.3f" % x for x in row["mass_of_heads"])] for row in result["rows"]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in cells)


def plot(result: dict[str, Any], path: str) -> None:
    """Mass by layer, a line for each map."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "hattn", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(figsize=(7, 3.2))
    for name, has_floor in dict.fromkeys((row["map"], row["floor"] is not None) for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["map"], row["floor"] is not None) == (name, has_floor)]
        axes.plot([row["layer"] for row in rows], [row["mass"] for row in rows], "--" if has_floor else "-", marker="o",
                  markersize=3, label=name + ", floor" * has_floor)
    axes.set_xlabel("layer")
    axes.set_ylabel("softmax kept by %d keys" % result["budget"])
    axes.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
