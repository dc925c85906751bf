# SPDX-License-Identifier: Apache-2.0
"""ruff on all Python of the package, its tests and examples, mypy on the package."""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RUFF = [os.path.join(sys.prefix, "bin", "ruff"), "check", "--no-cache", "--config", "python/pyproject.toml"]
MYPY = [os.path.join(sys.prefix, "bin", "mypy"), "--config-file", "python/pyproject.toml", "--cache-dir", os.devnull]


def lint(command, text=None):
    return subprocess.run(command, cwd=ROOT, input=text, text=True, capture_output=True)


def test_ruff():
    assert lint([*RUFF, "-"], "import os\n").returncode, "ruff takes everything"
    result = lint([*RUFF, "python", "tests/python", "examples"])
    assert result.returncode == 0, result.stdout


def test_mypy():
    wrong = "import hattn\nhattn.Device(backend=1)\n"
    assert lint([*MYPY, "-c", wrong]).returncode, "mypy takes everything"
    result = lint([*MYPY, "python/hattn"])
    assert result.returncode == 0, result.stdout
