# SPDX-License-Identifier: Apache-2.0
"""docs/python.md: its commands parse, its programs run."""

import os
import re
import shlex

import pytest
import torch
from hattn import evaluate
from hattn.maps import __main__ as maps_command
from hattn.maps import traces
from transformers_test import maps_of, model_of

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
with open(os.path.join(ROOT, "docs", "python.md")) as page:
    TEXT = page.read()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line):
    python, option, module, *arguments = shlex.split(line)
    parser = {"hattn.maps": maps_command.parser, "hattn.evaluate": evaluate.parser}[module]()
    assert (python, option) == ("python3", "-m")
    parser.parse_args(arguments)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_run(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_of(attention="sdpa").save_pretrained("MODEL")
    for layer, by in maps_of().items():
        traces.save("layer%d.safetensors" % layer, {}, [by])
    os.makedirs("maps")
    os.rename("layer2.safetensors", "maps/layer2.safetensors")
    names = {}
    # What is about tails goes on where the program before it ends.
    for program in PROGRAMS[number - ("sum_values" in PROGRAMS[number]):number + 1]:
        exec(compile(program, "docs/python.md", "exec"), names)
    assert "out" not in names or (names["out"].shape == (2, 8, 128) and torch.isfinite(names["out"]).all())


def test_there_is_something_to_test():
    assert len(COMMANDS) == 6 and len(PROGRAMS) == 3
