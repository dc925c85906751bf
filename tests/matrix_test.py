#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""README.md's table of what works where is docs/matrix.csv's, and tools/matrix.py says no more than what a report of hattn verify has.
Usage: matrix_test.py, in a checkout or in a test's runfiles."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

TOOL = "tools/matrix.py"


def matrix(*words):
    ran = subprocess.run([sys.executable, TOOL, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return ran.returncode, ran.stdout.decode()


def report(path, target="cuda", device="GPU", absent="", **cells):
    """One operation whose features have the counts that are given: (passed, failed, refused)."""
    with open(path, "w") as file:
        json.dump({"date": "2026-01-02", "sessions": [
            {"target": target, "device": device, "isa": "i", "driver": "1, 2", "not_present": absent}], "matrix": [
                {"target": target, "operation": "op", "feature": name, "passed": counts[0], "failed": counts[1],
                 "refused": counts[2]} for name, counts in cells.items()]}, file)
    return path


def main():
    code, said = matrix("check", "README.md")
    assert code == 0, said

    with tempfile.TemporaryDirectory() as folder:
        rows, first, second, readme = (os.path.join(folder, name) for name in ("matrix.csv", "1", "2", "README.md"))
        def add(*reports):
            return matrix("--csv", rows, "add", *reports, "--proven-on", "hardware", "--commit", "abc")
        code, said = add(report(first, a=(3, 0, 0), b=(0, 0, 0), c=(1, 1, 0)), report(second, a=(4, 0, 0), b=(0, 0, 2), c=(0, 0, 0)))
        assert code == 0, said
        open(readme, "w").write("x\n<!-- made by tools/matrix.py from docs/matrix.csv -->\n<!-- end -->\ny\n")
        assert matrix("--csv", rows, "check", readme)[0] != 0
        assert matrix("--csv", rows, "write", readme)[0] == 0
        assert matrix("--csv", rows, "check", readme)[0] == 0
        text = open(readme).read()
        for line in ("| op | a | 7 |", "|  | b | 2 refused |", "|  | c | 1 passed, 1 failed |", "|  | proven on | hardware |",
                     "|  | run | 2026-01-02, abc |"):
            assert line + "\n" in text, (line, text)
        # The same machine again is the same row; another is another; one that was not there is none.
        assert add(report(first, a=(1, 0, 0), b=(0, 0, 0), c=(0, 0, 0)))[0] == 0
        assert add(report(second, device="other GPU", a=(2, 0, 0), b=(0, 0, 0), c=(0, 0, 0)))[0] == 0
        assert matrix("--csv", rows, "write", readme)[0] == 0
        assert "| op | a | 1 | 2 |\n" in open(readme).read() and "|  | b | - | - |\n" in open(readme).read()
        before = open(rows).read()
        code, said = add(report(first, absent="no driver", a=(0, 0, 0)))
        assert code != 0 and "no backend of the reports was present" in said, said
        code, said = add(report(first, a=(1, 0, 0)), report(second, device="other GPU", a=(1, 0, 0)))
        assert code != 0 and "several machines" in said, said
        assert open(rows).read() == before
        # A cell that says more is told.
        text = open(readme).read()
        open(readme, "w").write(text.replace("| op | a | 1 | 2 |", "| op | a | 1 | 349 |"))
        code, said = matrix("--csv", rows, "check", readme)
        assert code != 0 and "the table is not that of" in said, said
        # An emulator has no driver; a shim's checks were counted by another backend, whose name is not the row's.
        other = ["--csv", second, "add", report(first, target="cpu", a=(5, 0, 0)), "--commit", "abc", "--proven-on"]
        os.remove(second)
        assert matrix(*other, "emulator")[0] == 0 and matrix(*other, "shim", "--shim", "hip: processor, waves of 64")[0] == 0
        told = open(second).read()
        assert "\ncpu,GPU,i,,2026-01-02,abc,emulator,5 passed\nhip,\"processor, waves of 64\",,,2026-01-02,abc,shim,5 passed\n" in told, told
        for wrong in (["shim"], ["shim", "--shim", "hip"], ["emulator", "--shim", "hip: x"]):
            assert matrix(*other, *wrong)[0] == 2, wrong
        assert open(second).read() == told
        # A row that does not say what it was proven on is no row.
        shutil.copy(rows, first)
        open(first, "w").write(before.replace("hardware", "hearsay"))
        assert matrix("--csv", first, "check", readme)[0] != 0


if __name__ == "__main__":
    main()
