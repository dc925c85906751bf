#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tools/judge.py: right lists pass, each kind of mistake is named, files that are no such thing are refused.
Usage: judge_test.py JUDGE, by the system's Python, which has the numpy that third_party/apt.sh installs."""
import importlib.util
import os
import subprocess
import sys
import tempfile

import numpy as np

JUDGE = os.path.realpath(sys.argv[1])
spec = importlib.util.spec_from_file_location("judge", JUDGE)
judge = importlib.util.module_from_spec(spec)
sys.dont_write_bytecode = True
spec.loader.exec_module(judge)


def right_lists(scores, k):
    """By sorting alone: of ties the lowest positions, in ascending order."""
    lists = []
    for row in scores.tolist():
        order = sorted(range(len(row)), key=lambda j: (row[j] != row[j], -row[j] if row[j] == row[j] else 0, j))
        lists.append(sorted(order[:k]))
    return np.array(lists, np.int32)


def expect(condition, what):
    if not condition:
        sys.exit("judge_test: " + what)


def check_cases():
    for name, (scores, k) in judge.cases().items():
        lists = right_lists(scores, k)
        wrong, how = judge.judge(scores, lists, k, "smallest")
        expect(not wrong and how["ties"] == "lowest positions" and how["order"].startswith("position"),
               "%s: %s %s" % (name, wrong, how))
        padded = np.pad(lists, ((0, 0), (0, 3)), constant_values=-1)
        expect(not judge.judge(scores, padded, k, "smallest")[0], name + ": padding is no mistake")


def check_mistakes():
    scores, k = judge.cases()["random"]
    right = right_lists(scores, k)
    worst, best = int(np.argmin(scores[2])), int(np.argmax(scores[2]))

    def spoiled(column, value):
        lists = right.copy()
        lists[2, column] = value
        return judge.judge(scores, lists, k, "smallest")[0]
    at_best = int(np.flatnonzero(right[2] == best)[0])
    words = ("row 2: 1 dropped that are above the threshold, the first at %d; "
             "1 kept that are below the threshold, the first at %d")
    expect(spoiled(at_best, worst) == words % (best, worst), spoiled(at_best, worst))
    for value, words in ((right[2, 1], "1 positions twice"), (scores.shape[1], "1 positions outside of 0..4999"),
                         (-2, "1 positions outside of 0..4999")):
        expect(words in spoiled(0, value), "%s: %s" % (words, spoiled(0, value)))
    expect("511 positions, not 512" in spoiled(k - 1, -1), spoiled(k - 1, -1))
    expect("3 lists for 4 rows" in judge.judge(scores, right[:3], k, "smallest")[0], "a list too few")
    expect("not integers" in judge.judge(scores, right.astype(np.float32), k, "smallest")[0], "lists of floats")
    # A sample that sees every 64th key, and buckets by the upper 16 bits, as intended by the cases of these names.
    scores, k = judge.cases()["outside_the_sample"]
    expect("dropped" in judge.judge(scores, np.tile(np.arange(k) * 64, (len(scores), 1)), k, "smallest")[0], "a sample")
    scores, k = judge.cases()["bucket_overflow"]
    buckets = (scores.view(np.uint32) >> 16).astype(np.float64)
    expect("dropped" in judge.judge(scores, right_lists(buckets, k), k, "smallest")[0], "a bucket's first")


def check_what_is_told():
    scores = np.array([[1, 3, 3, 3, 0, np.nan]], np.float32)
    told = lambda lists, nan="smallest": judge.judge(scores, np.array([lists]), len(lists), nan)
    expect(told([1, 2]) == ("", {"order": "position and score", "ties": "lowest positions"}), str(told([1, 2])))
    expect(told([3, 1]) == ("", {"order": "score", "ties": "others"}), str(told([3, 1])))
    expect(told([0, 1, 2, 3]) == ("", {"order": "position", "ties": "lowest positions"}), str(told([0, 1, 2, 3])))
    expect(told([3, 0, 2, 1])[1]["order"] == "none", str(told([3, 0, 2, 1])))
    expect("above the threshold, the first at 3" in told([0, 1, 2, 4])[0], "the next above the threshold")
    expect(told([5], "largest")[0] == "" and "below the threshold" in told([5])[0], "NaN is where it is said to be")


def run(*words):
    return subprocess.run([sys.executable, JUDGE, *words], capture_output=True, text=True)


def check_command(folder):
    expect(run("make", folder).returncode == 0, "make")
    missing = run("judge", folder)
    expect(missing.returncode == 1 and missing.stdout.count("no lists") == len(judge.cases()), missing.stdout)
    for name, (scores, k) in judge.cases().items():
        np.save(os.path.join(folder, name + ".indices.npy"), right_lists(scores, k))
    done = run("judge", folder)
    expect(done.returncode == 0 and done.stdout.count(" yes ") == len(judge.cases()), done.stdout + done.stderr)
    at = os.path.join(folder, "random")
    one = run("lists", at + ".scores.npy", at + ".indices.npy", "--k", "512")
    expect(one.returncode == 0 and " yes " in one.stdout, one.stdout + one.stderr)
    header = b'{"x":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    with open(at + ".safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + np.array([1, 2], np.float32).tobytes())
    np.save(at + ".npy", np.array([[1]]))
    one = run("lists", at + ".safetensors:x", at + ".npy", "--k", "1")
    expect(one.returncode == 0, one.stdout + one.stderr)
    with open(at + ".npy", "wb") as file:
        file.write(b"nothing of the kind")
    for scores in (at + ".npy", at + ".safetensors:y", at + ".safetensors.gone:x", "/nonexistent.npy"):
        refused = run("lists", scores, at + ".indices.npy", "--k", "1")
        expect(refused.returncode == 1 and refused.stderr.startswith("judge.py: ") and refused.stderr.count("\n") == 1,
               scores + ": " + refused.stderr)


check_cases()
check_mistakes()
check_what_is_told()
with tempfile.TemporaryDirectory() as own:
    check_command(own)
print("passed")
