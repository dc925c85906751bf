# SPDX-License-Identifier: Apache-2.0
"""What the benchmark scripts and the Python tests run in: a virtual environment outside the tree, the library built from
the tree, and the package over it, which is imported from where it stands."""
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, os.path.join(ROOT, "python"))
REQUIREMENTS = os.path.join(HERE, "peers_requirements.txt")
DEFAULT_VENV = os.path.join(os.path.expanduser("~"), ".cache", "hattn-peers")
# Idle threads of one library's OpenMP must not spin through another's turn.
OMP = {"GOMP_SPINCOUNT": "20000", "OMP_WAIT_POLICY": None, "KMP_BLOCKTIME": "0"}
# ggml is built for the machine it runs on, as hattn chooses its kernels for it.
SOURCE_BUILDS = {"llama-cpp-python": {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}}


def requirements(path=REQUIREMENTS):
    """{package: "package==version"}"""
    lines = [line.split("#")[0].strip() for line in open(path)]
    return {line.split("==")[0]: line for line in lines if line}


def last_error(text):
    """The line of pip's output that says why."""
    lines = [line.strip() for line in text.splitlines() if re.match(r"\s*(ERROR|error)", line)]
    return lines[-1] if lines else (text.strip().splitlines() or ["pip failed"])[-1]


def _install(python, package, requirement):
    print("installing %s (once)" % requirement, file=sys.stderr)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
    env = dict(os.environ)
    if package in SOURCE_BUILDS:
        command += ["--no-binary", package]
        env.update(SOURCE_BUILDS[package])
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return None if done.returncode == 0 else last_error(done.stdout)


def not_installed(venv, wanted):
    """Of {package: "package==version"}, those that `venv` does not have."""
    python = os.path.join(venv, "bin", "python3")
    installed = subprocess.run([python, "-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check"],
                               check=True, stdout=subprocess.PIPE, text=True).stdout.lower().split()
    # torch's local version label (+cpu) is the same release.
    installed = {line.split("+")[0].replace("_", "-") for line in installed}
    return {package: wanted[package] for package in wanted if wanted[package].lower() not in installed}


def install(venv, wanted):
    """Makes `venv` and installs what it lacks of {package: "package==version"}. {package: why it could not be}."""
    python = os.path.join(venv, "bin", "python3")
    if not os.path.exists(python):
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    reasons = {package: _install(python, package, requirement)
               for package, requirement in not_installed(venv, wanted).items()}
    return {package: why for package, why in reasons.items() if why}


def enter(venv, packages):
    """Installs `packages`, those that are missing, and goes on with this script in `venv`. Returns, once inside,
    {package: why it could not be installed}."""
    python = os.path.join(venv, "bin", "python3")
    if os.environ.get("HATTN_BENCH_VENV") == venv:
        return json.loads(os.environ["HATTN_BENCH_MISSING"])
    wanted = requirements()
    missing = install(venv, {package: wanted[package] for package in packages})
    env = dict(os.environ, HATTN_BENCH_VENV=venv, HATTN_BENCH_MISSING=json.dumps(missing))
    for name, value in OMP.items():
        env.pop(name, None)
        if value is not None:
            env[name] = value
    sys.stdout.flush()
    os.execve(python, [python] + sys.argv, env)


def _bazel(command, *targets):
    script = ". third_party/bazel.sh; quiet_bazel %s -c opt %s" % (command, " ".join(targets))
    return subprocess.run(["sh", "-ec", script], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def built(*targets):
    """The paths of this tree's targets, "//tools:hattn" ..., built."""
    _bazel("build", *targets)
    folder = _bazel("info", "bazel-bin")
    return [os.path.join(folder, target.replace(":", "/").lstrip("/")) for target in targets]


def library_path(path):
    """`path`, or without one the library of this tree, built."""
    return os.path.abspath(path) if path else built("//:libhattn.so.0")[0]
