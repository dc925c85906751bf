#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What was seen to work where: docs/matrix.csv has a row for each machine and backend that `hattn verify` was run on, README.md's table
is made of it.

    hattn verify --backend cuda --json verify.json
    tools/matrix.py add verify.json ... --proven-on hardware     rows for the backends in it, in place of theirs
    tools/matrix.py add verify.json ... --proven-on shim --shim "hip: processor, waves of 64"     the checks of the problems that
                                                                 tests/simt passed, which another backend has counted
    tools/matrix.py write README.md                              the table, between its two marks
    tools/matrix.py check README.md                              fails where it is another

Several files of one backend are one row: the parts of a run. A part of the list is a row too: cells count the checks that were made.
"""
import argparse
import csv
import json
import os
import subprocess
import sys

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs")
HEAD = ["backend", "device", "isa", "driver", "date", "commit", "proven_on"]
PROVEN_ON = ["hardware", "emulator", "shim", "compiled"]
BEGIN, END = "<!-- made by tools/matrix.py from docs/matrix.csv -->\n", "<!-- end -->\n"


def read_rows(path):
    """Rows as dictionaries, and the names of the features' columns: "operation: feature"."""
    if not os.path.exists(path):
        return [], []
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        features = [name for name in reader.fieldnames or [] if name not in HEAD]
    for row in rows:
        if row["proven_on"] not in PROVEN_ON:
            sys.exit("%s: proven_on is '%s', not one of %s" % (path, row["proven_on"], ", ".join(PROVEN_ON)))
        if not all(row[name] for name in ("backend", "device", "date", "commit")):
            sys.exit("%s: a row without backend, device, date or commit: %s" % (path, row))
    return rows, features


def write_rows(path, rows, features):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, HEAD + features, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["backend"], row["device"], row["proven_on"])))


def cell_text(counts):
    """"" where nothing was run; else what came of it."""
    parts = ["%d %s" % (counts[name], name) for name in ("passed", "failed", "refused") if counts[name]]
    return ", ".join(parts)


def rows_of(reports, commit, proven_on, shim):
    """Of the backends that were there in any of the reports. An emulator's driver is nobody's. shim: (backend, device) instead of theirs."""
    sessions, counts, features = {}, {}, []
    for report in reports:
        for session in report["sessions"]:
            if not session["not_present"]:
                known = sessions.setdefault(session["target"], dict(session, date=report["date"]))
                if any(known[name] != session[name] for name in ("device", "isa", "driver")):
                    sys.exit("%s: reports of several machines: one row is of one" % session["target"])
        for cell in report["matrix"]:
            name = cell["operation"] + ": " + cell["feature"]
            if name not in features:
                features.append(name)
            sums = counts.setdefault((cell["target"], name), dict(passed=0, failed=0, refused=0))
            for status in sums:
                sums[status] += cell[status]
    rows = []
    for target, session in sorted(sessions.items()):
        backend, device = shim or (target, session["device"])
        row = dict(backend=backend, device=device, isa="" if shim else session["isa"], date=session["date"], commit=commit,
                   driver=session["driver"] if proven_on == "hardware" else "", proven_on=proven_on)
        row.update({name: cell_text(counts[target, name]) for name in features})
        rows.append(row)
    return rows, features


def add(path, reports, commit, proven_on, shim=None):
    rows, features = read_rows(path)
    new, new_features = rows_of(reports, commit, proven_on, shim)
    if shim and len(new) > 1:
        sys.exit("--shim: the checks of one backend, not of %s" % ", ".join(row["backend"] for row in new))
    if not new:
        sys.exit("no backend of the reports was present: nothing to add")
    if features and new_features != features:
        print("features have changed: rows of before keep the columns that are still there", file=sys.stderr)
        rows = [{name: row.get(name, "") for name in HEAD + new_features} for row in rows]
    def key(row):
        return row["backend"], row["device"], row["proven_on"]
    kept = [row for row in rows if key(row) not in {key(row) for row in new}]
    write_rows(path, kept + new, new_features)


def table(rows, features):
    """Markdown: a column for each row, in the order of the file; cells say how many checks passed and nothing that was not run."""
    def line(cells):
        return "| " + " | ".join(cells) + " |\n"
    def seen(row, name):
        text = row[name]
        return "-" if not text else text[:-len(" passed")] if text.endswith(" passed") and "," not in text else text
    text = line(["operation", "feature"] + [row["backend"] for row in rows])
    text += "|" + "---|" * (2 + len(rows)) + "\n"
    for title, of in (("device", lambda row: row["device"]), ("driver", lambda row: row["driver"] or "-"),
                      ("run", lambda row: "%s, %s" % (row["date"], row["commit"][:10])),
                      ("proven on", lambda row: row["proven_on"])):
        text += line(["", title] + [of(row) for row in rows])
    last = None
    for name in features:
        operation, feature = name.split(": ", 1)
        text += line([operation if operation != last else "", feature] + [seen(row, name) for row in rows])
        last = operation
    return text


def with_table(readme, made, path):
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        sys.exit("%s: needs the two marks once: %s...%s" % (path, BEGIN, END))
    return readme[:readme.index(BEGIN) + len(BEGIN)] + made + readme[readme.index(END):]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", default=os.path.join(FOLDER, "matrix.csv"), help="default: docs/matrix.csv")
    commands = parser.add_subparsers(dest="command", required=True)
    adds = commands.add_parser("add")
    adds.add_argument("reports", nargs="+", help="of hattn verify --json")
    adds.add_argument("--proven-on", choices=PROVEN_ON, required=True)
    adds.add_argument("--shim", metavar="BACKEND: DEVICE", help="of the row, with --proven-on shim")
    adds.add_argument("--commit", help="of the sources that ran; default: what git says of the checkout")
    for name in ("write", "check"):
        commands.add_parser(name).add_argument("readme")
    args = parser.parse_args()
    if args.command == "add":
        shim = tuple(args.shim.split(": ", 1)) if args.shim else None
        if bool(shim) != (args.proven_on == "shim") or (shim and len(shim) != 2):
            parser.error("--proven-on shim needs --shim 'BACKEND: DEVICE', and nothing else does")
        commit = args.commit or subprocess.run(["git", "describe", "--always", "--abbrev=40", "--dirty"], check=True, cwd=FOLDER,
                                               stdout=subprocess.PIPE).stdout.decode().strip()
        add(args.csv, [json.load(open(path)) for path in args.reports], commit, args.proven_on, shim)
        return
    readme = open(args.readme).read()
    made = with_table(readme, table(*read_rows(args.csv)), args.readme)
    if args.command == "write":
        open(args.readme, "w").write(made)
    elif made != readme:
        sys.exit("%s: the table is not that of %s: tools/matrix.py write %s" % (args.readme, args.csv, args.readme))


if __name__ == "__main__":
    main()
