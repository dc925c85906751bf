#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bugs put into a copy of the tree, one at a time (mutants.py): built, tested, and expected to be found.

  tests/mutants/run.py [--few N --seed S] [--only TEXT] [--junit OUT.xml]

Without --few, all of them, after the tests have passed without any. One line a mutant, and at the end "N passed, N failed, N skipped":
found; not found, not built or stale (whether drawn or not); of a machine other than this one.
"""
import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from mutants import MUTANTS  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Bazel's: tests ran and some failed; a target did not build.
TESTS_FAILED, NOT_BUILT = 3, 1


def shell(folder, script, *arguments):
    return subprocess.run(
        ["sh", "-c", ". third_party/bazel.sh; " + script, "sh", *arguments],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )


class Copy:
    """The tree's copy with an output base of its own, which stays: each mutant, and each later run, builds only what it changed."""

    def __init__(self):
        found = shell(ROOT, "bazel $bazel_root info output_base 2>/dev/null")
        home = os.path.join(found.stdout.strip(), "mutants")
        self.tree, self.base = os.path.join(home, "tree"), os.path.join(home, "base")
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.copytree(ROOT, self.tree, ignore=shutil.ignore_patterns(".git", "bazel-*", "__pycache__"))

    def test(self, targets, test_filter=""):
        """Bazel's exit status and what it printed."""
        options = ["--test_filter=" + test_filter] if test_filter else []
        done = shell(
            self.tree, 'bazel_root=$1; shift; quiet_bazel test -c opt --keep_going "$@"',
            "--output_base=" + self.base, "--repo_env=HATTN_CUDA=0", "--test_timeout=300", *options, *targets,
        )
        return done.returncode, done.stdout

    def close(self):
        shell(self.tree, 'bazel "$1" shutdown', "--output_base=" + self.base)


def missing(mutant):
    """What this machine lacks, or None."""
    flags = set(re.findall(r"\w+", open("/proc/cpuinfo").read()))
    return next((need for need in mutant.needs.split() if need not in flags), None)


def staleness(copy, mutant):
    """"" or why the row does not fit the tree."""
    path = os.path.join(copy.tree, mutant.file)
    times = open(path).read().count(mutant.old) if os.path.exists(path) else 0
    return "" if times == 1 else "stale: %s has its text %d times" % (mutant.file, times)


def try_mutant(copy, mutant):
    """("passed", "failed" or "skipped", why)."""
    lacking = missing(mutant)
    if lacking:
        return "skipped", "this machine has no " + lacking
    stale = staleness(copy, mutant)
    if stale:
        return "failed", stale
    path, targets = os.path.join(copy.tree, mutant.file), mutant.targets.split()
    text = open(path).read()
    open(path, "w").write(text.replace(mutant.old, mutant.new))
    try:
        status, printed = copy.test(targets, mutant.filter)
    finally:
        open(path, "w").write(text)
    if status == NOT_BUILT:
        return "failed", "does not build:\n" + printed[-2000:]
    red = [t for t in targets if re.search(r"^%s\s.*(FAILED|TIMEOUT)" % re.escape(t), printed, re.MULTILINE)]
    if status == TESTS_FAILED and len(red) == len(targets):
        return "passed", "found by " + " ".join(red)
    if status in (0, TESTS_FAILED):
        return "failed", "SURVIVED " + " ".join(t for t in targets if t not in red)
    return "failed", "bazel ended with %d:\n%s" % (status, printed[-2000:])


def write_junit(path, outcomes):
    suite = ElementTree.Element("testsuite", name="mutants")
    for mutant, (outcome, why) in outcomes:
        case = ElementTree.SubElement(suite, "testcase", classname="mutants", name=mutant.name)
        if outcome != "passed":
            ElementTree.SubElement(case, "failure" if outcome == "failed" else "skipped", message=why)
    ElementTree.ElementTree(suite).write(path)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--few", type=int, help="only so many, drawn by the seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only those with this in their name")
    parser.add_argument("--junit", help="write the outcomes there")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS), "a name is there twice"
    if options.few is not None:
        print("%d of %d mutants; again: tests/mutants/run.py --few %d --seed %d"
              % (options.few, len(MUTANTS), options.few, options.seed))
        chosen = random.Random(options.seed).sample(chosen, min(options.few, len(chosen)))
    copy, outcomes = Copy(), []
    try:
        if options.few is None:
            filters = sorted({mutant.filter for mutant in chosen})
            status, printed = copy.test(sorted({t for mutant in chosen for t in mutant.targets.split()}),
                                        ":".join(filters) if all(filters) else "")
            if status:
                print(printed[-4000:] + "\nthe tests fail without any mutant")
                return 1
        for mutant in MUTANTS if options.few is not None else []:
            if mutant not in chosen and staleness(copy, mutant):
                outcomes.append((mutant, ("failed", staleness(copy, mutant))))
                print("failed  %s: %s" % (mutant.name, outcomes[-1][1][1]))
        for mutant in chosen:
            outcomes.append((mutant, try_mutant(copy, mutant)))
            print("%-7s %s: %s" % (outcomes[-1][1][0], mutant.name, outcomes[-1][1][1]), flush=True)
    finally:
        copy.close()
    if options.junit:
        write_junit(options.junit, outcomes)
    counts = {what: sum(outcome == what for _, (outcome, _) in outcomes) for what in ("passed", "failed", "skipped")}
    print("%(passed)d passed, %(failed)d failed, %(skipped)d skipped" % counts)
    return counts["failed"] > 0


if __name__ == "__main__":
    sys.exit(main())
