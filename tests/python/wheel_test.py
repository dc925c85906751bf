# SPDX-License-Identifier: Apache-2.0
"""pip wheel ./python, installed where there is only numpy: it decodes, and finds the library inside."""

import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WHEELS = os.path.join(sys.prefix, "wheels")
PROGRAM = """
import numpy as np, hattn
rng = np.random.default_rng(0)
k, v = (rng.standard_normal((1, 500, 2, 64)).astype(np.float32) for _ in range(2))
q, w = rng.standard_normal((1, 8, 64)).astype(np.float32), rng.standard_normal((2, 64, 64)).astype(np.float32)
outs = []
for backend in ("cpu", "reference"):
    plan = hattn.Device(backend).plan(q=q, k_cache=k, v_cache=v, query_map=w, max_sequences=1, max_length=500, k=40)
    codes = plan.empty("codes", pages=1, slots=500)
    plan.encode_keys(k[0], w, codes)
    outs.append(plan.decode(q, k, v, codes, w, np.array([500], np.int32)))
assert abs(outs[0] - outs[1]).max() < 1e-5 and outs[0].any()
print(plan.device.library.path)
"""


def wheel(folder):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--wheel-dir", folder,
               os.path.join(ROOT, "python")]
    subprocess.run(command, check=True)
    (name,) = os.listdir(folder)
    return os.path.join(folder, name)


def test_an_empty_environment_decodes(tmp_path):
    if not os.path.isdir(WHEELS):
        pytest.skip("no wheel of numpy in %s: ./test.sh --python keeps one" % WHEELS)
    first, second = wheel(tmp_path / "1"), wheel(tmp_path / "2")
    assert os.path.basename(first).startswith("hattn-") and "py3-none-manylinux_2_" in first
    with open(first, "rb") as a, open(second, "rb") as b:
        assert a.read() == b.read(), "the same tree gives other bytes"
    empty = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", empty], check=True)
    python = empty / "bin" / "python3"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", WHEELS, first], check=True)
    env = {name: value for name, value in os.environ.items() if name not in ("HATTN_LIBRARY", "PYTHONPATH")}
    done = subprocess.run([python, "-c", PROGRAM], env=env, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.strip().startswith(str(empty)), "the library is not the wheel's: " + done.stdout
