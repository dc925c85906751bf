# SPDX-License-Identifier: Apache-2.0
"""Builds the wheel: the package, the library inside, no C++ ABI. pip calls build_wheel (PEP 517).

Needs nothing but Python. The library is $HATTN_LIBRARY, or this tree's, built: with CUDA where nvcc is. The wheel's
platform is said by the versions of glibc that the library asks for.
"""
import base64
import hashlib
import os
import platform
import re
import subprocess
import tempfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
SCRIPT = ". third_party/bazel.sh; quiet_bazel build -c opt //:libhattn.so.0 >&2; quiet_bazel info -c opt bazel-bin"


def version():
    """Of the header that the package was written from."""
    with open(os.path.join(HERE, "hattn", "abi.py")) as file:
        text = file.read()
    return ".".join(re.search(r"^VERSION_%s = (\d+)$" % part, text, re.M)[1] for part in ("MAJOR", "MINOR", "PATCH"))


def library():
    """The bytes of libhattn.so.0, stripped."""
    path = os.environ.get("HATTN_LIBRARY")
    if not path:
        folder = subprocess.run(["sh", "-ec", SCRIPT], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        path = os.path.join(folder.strip(), "libhattn.so.0")
    with tempfile.TemporaryDirectory() as folder:
        stripped = os.path.join(folder, "libhattn.so.0")
        subprocess.run(["strip", "--strip-unneeded", "-o", stripped, path], check=True)
        with open(stripped, "rb") as file:
            return file.read()


def tag(binary):
    """py3-none-manylinux_2_N_ARCH: N is the newest glibc that the library asks for."""
    newest = max(int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", binary))
    return "py3-none-manylinux_2_%d_%s" % (newest, platform.machine())


def section(name):
    """{key: value} of the strings and lists of a section in pyproject.toml, which Python 3.10 has no reader for."""
    with open(os.path.join(HERE, "pyproject.toml")) as file:
        text = re.search(r"^\[%s\]\n(.*?)\n\n" % re.escape(name), file.read(), re.M | re.S)[1]
    return {key: re.findall(r'"([^"]*)"', value) for key, value in re.findall(r"^([\w-]+) = (.*)$", text, re.M)}


def metadata():
    fields = section("project")
    lines = ["Metadata-Version: 2.4", "Name: hattn", "Version: " + version(), "Summary: " + fields["description"][0],
             "License-Expression: " + fields["license"][0], "Requires-Python: " + fields["requires-python"][0]]
    lines += ["Requires-Dist: " + need for need in fields["dependencies"]]
    for extra, needs in section("project.optional-dependencies").items():
        lines += ["Provides-Extra: " + extra] + ['Requires-Dist: %s; extra == "%s"' % (need, extra) for need in needs]
    return "\n".join(lines) + "\n"


def package():
    """{path in the wheel: bytes} of the Python files."""
    files = {}
    for folder, _, names in os.walk(os.path.join(HERE, "hattn")):
        for name in names:
            if name.endswith((".py", ".typed")):
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    files[os.path.relpath(path, HERE)] = file.read()
    return files


def record(files, info):
    def line(path):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).rstrip(b"=").decode()
        return "%s,sha256=%s,%d\n" % (path, digest, len(files[path]))
    return "".join(map(line, sorted(files))) + info + "/RECORD,,\n"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    binary, files = library(), package()
    wheel_tag, name = tag(binary), "hattn-" + version()
    info = name + ".dist-info"
    files["hattn/libhattn.so.0"] = binary
    files[info + "/METADATA"] = metadata().encode()
    files[info + "/WHEEL"] = ("Wheel-Version: 1.0\nGenerator: hattn\nRoot-Is-Purelib: false\nTag: %s\n" %
                              wheel_tag).encode()
    with open(os.path.join(ROOT, "LICENSE"), "rb") as file:
        files[info + "/licenses/LICENSE"] = file.read()
    files[info + "/RECORD"] = record(files, info).encode()
    wheel = "%s-%s.whl" % (name, wheel_tag)
    with zipfile.ZipFile(os.path.join(wheel_directory, wheel), "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            # The same input, the same bytes: no clock.
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[path])
    return wheel
