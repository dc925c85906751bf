#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The tests of the Python package, in a virtual environment of their own: tests/python/run.py [--install] [PYTEST'S...]

Names of files are looked for in this folder first; without one, all that is in it runs.

That is $HATTN_PYTHON_VENV or ~/.cache/hattn-python, with what requirements.txt names. --install makes it, which takes
5 GB and minutes. Where it is missing or incomplete, or cannot be made (without a network), all tests are one that is
skipped, for a reason that is said. --junit FILE: a report. Everything else goes to pytest. The library and the command
are built, or $HATTN_LIBRARY and $HATTN_COMMAND.
"""
import argparse
import os
import shutil
import subprocess
import sys
import xml.sax.saxutils

sys.dont_write_bytecode = True  # nothing is left in the tree
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "bench"))
import venv_setup  # noqa: E402

VENV = os.environ.get("HATTN_PYTHON_VENV") or os.path.join(os.path.expanduser("~"), ".cache", "hattn-python")
PYTHON = os.path.join(VENV, "bin", "python3")


def why_not(install):
    """"" or why the tests cannot run."""
    wanted = venv_setup.requirements(os.path.join(HERE, "requirements.txt"))
    if not install and not os.path.exists(PYTHON):
        return "no %s: ./test.sh --python makes it" % VENV
    try:
        if os.path.exists(PYTHON):
            wanted = venv_setup.not_installed(VENV, wanted)
        if not install:
            return "%s is without %s: ./test.sh --python" % (VENV, " ".join(wanted)) if wanted else ""
        for package, requirement in wanted.items():
            why = venv_setup.install(VENV, {package: requirement})
            if why:  # of the network, and the same for all others
                return "%s cannot be installed: %s" % (requirement, why[package])
    except (OSError, subprocess.CalledProcessError) as error:
        return "%s: %s" % (VENV, error)
    return ""


def skip(why, junit):
    print("the Python tests are skipped: " + why, file=sys.stderr)
    if junit:
        with open(junit, "w") as file:
            file.write('<testsuite name="python"><testcase classname="python" name="all"><skipped message=%s/>'
                       "</testcase></testsuite>" % xml.sax.saxutils.quoteattr(why))


def keep_wheels():
    """numpy's wheel, for the environment that wheel_test.py makes without a network."""
    folder = os.path.join(VENV, "wheels")
    if not os.path.isdir(folder):
        numpy = venv_setup.requirements(os.path.join(HERE, "requirements.txt"))["numpy"]
        command = [PYTHON, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, numpy]
        if subprocess.run(command).returncode:
            shutil.rmtree(folder, ignore_errors=True)


def paths_here(arguments):
    """Pytest's arguments, for a run in this folder: names of files that are elsewhere are made absolute."""
    def found(argument):
        path = argument.split("::")[0]
        elsewhere = path.endswith(".py") or os.sep in path
        if elsewhere and os.path.exists(path) and not os.path.exists(os.path.join(HERE, path)):
            return os.path.abspath(path) + argument[len(path):]
        return argument
    return list(map(found, arguments))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--install", action="store_true", help="make the virtual environment first")
    parser.add_argument("--junit", help="write a report to this file")
    args, others = parser.parse_known_args()
    why = why_not(args.install)
    if why:
        skip(why, args.junit)
        return 0
    if args.install:
        keep_wheels()
    command = [PYTHON, "-m", "pytest", "-q", "-c", os.path.join(ROOT, "python", "pyproject.toml"), "--rootdir", ROOT,
               "-p", "no:cacheprovider"] + (["--junit-xml=" + os.path.abspath(args.junit)] if args.junit else [])
    env = dict(os.environ, PYTHONPATH=os.path.join(ROOT, "python"), PYTHONDONTWRITEBYTECODE="1")
    env.setdefault("OMP_NUM_THREADS", "1")  # torch's threads wait for each other: minutes more on busy processors
    if "HATTN_LIBRARY" not in env:
        env["HATTN_LIBRARY"], env["HATTN_COMMAND"] = venv_setup.built("//:libhattn.so.0", "//tools:hattn")
    return subprocess.run(command + paths_here(others), cwd=HERE, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
