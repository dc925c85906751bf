# SPDX-License-Identifier: Apache-2.0
"""run.py: which tests it runs, in a small tree like this one."""

import os
import re
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WHAT_IT_NEEDS = ["bench/venv_setup.py", "python/pyproject.toml", "tests/python/run.py",
                 "tests/python/requirements.txt"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    path = tmp_path_factory.mktemp("tree")
    for name in WHAT_IT_NEEDS:
        os.makedirs(os.path.dirname(path / name), exist_ok=True)
        shutil.copy(os.path.join(ROOT, name), path / name)
    for name in ("tests/python/a_test.py", "tests/python/b_test.py", "bench/c_test.py"):
        (path / name).write_text("def test_one():\n    pass\n\n\ndef test_two():\n    pass\n")
    return path


ALL = ["tests/python/a_test.py::test_one", "tests/python/a_test.py::test_two", "tests/python/b_test.py::test_one",
       "tests/python/b_test.py::test_two"]
WAYS = {
    "nothing": ([], ALL),
    "options alone": (["-k", "one"], [name for name in ALL if "one" in name]),
    "a name": (["a_test.py"], ALL[:2]),
    "a path from the root, with options": (["-k", "one", "tests/python/b_test.py"], ALL[2:3]),
    "a test of a path from the root": (["tests/python/b_test.py::test_two"], ALL[3:]),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_runs(way, tree):
    arguments, expected = WAYS[way]
    env = dict(os.environ, HATTN_LIBRARY="none", HATTN_PYTHON_VENV=sys.prefix)
    done = subprocess.run([sys.executable, "tests/python/run.py", "-vv", *arguments], cwd=tree, env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    assert re.findall(r"^(?:tests/python/)?(\S+::\S+) PASSED", done.stdout, re.M) == [
        name.removeprefix("tests/python/") for name in expected], done.stdout
