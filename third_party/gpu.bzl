"""Finds what GPU backends are built with; @gpu//:cuda holds where nvcc was found, @gpu//:hip where HATTN_HIP is 1 and
clang 19 was there with what it needs for AMD's GPUs, @gpu//:opencl where OpenCL's headers were. And reads the rows
of which kernels_cuda/instances.bzl makes files: only a repository can."""

_ON = "config_setting(name = '%s', constraint_values = ['@platforms//cpu:x86_64'], visibility = ['//visibility:public'])\n"
_OFF = "config_setting(name = '%s', values = {'cpu': 'never'}, visibility = ['//visibility:public'])\n"

# Machine code for Ampere and Ada, Hopper, and Blackwell's two kinds.
_CUDA_ARCHITECTURES = "80 90 100 120"

_REST = """
cc_library(
    name = "cudart",
    srcs = glob(["libcudart_static.a"]),
    linkopts = ["-ldl", "-lpthread", "-lrt"],
    visibility = ["//visibility:public"],
)
"""

def _cuda(ctx):
    nvcc = ctx.which("nvcc") or ctx.path("/usr/local/cuda/bin/nvcc")
    if ctx.os.environ.get("HATTN_CUDA", "1") == "0" or not nvcc.exists:
        return None
    nvcc = nvcc.realpath
    ctx.symlink("%s/lib64/libcudart_static.a" % nvcc.dirname.dirname, "libcudart_static.a")
    return nvcc

def _cuda_architectures(ctx):
    """Of HATTN_CUDA_ARCHITECTURES, numbers as in sm_90 with spaces between them: rising."""
    text = ctx.os.environ.get("HATTN_CUDA_ARCHITECTURES", "") or _CUDA_ARCHITECTURES
    numbers = {number: True for number in text.split(" ") if number}.keys()
    for number in numbers or [""]:
        if not number.isdigit() or int(number) < 80:
            fail("HATTN_CUDA_ARCHITECTURES is '%s': numbers from 80 on, as in sm_90, with spaces between them" % text)
    return sorted([int(number) for number in numbers])

# Of AMD: CDNA 2 and 3, RDNA 2 to 4.
_HIP_TARGETS = "gfx90a gfx942 gfx1030 gfx1100 gfx1201"

def _hip_targets(ctx):
    """Of HATTN_HIP_TARGETS, some of those, with spaces between them: in their order."""
    text = ctx.os.environ.get("HATTN_HIP_TARGETS", "") or _HIP_TARGETS
    wanted = [name for name in text.split(" ") if name]
    known = _HIP_TARGETS.split(" ")
    if not wanted or [name for name in wanted if name not in known]:
        fail("HATTN_HIP_TARGETS is '%s': some of %s, with spaces between them" % (text, _HIP_TARGETS))
    return [name for name in known if name in wanted]

def _hip(ctx):
    """Clang, if its linker and its bundler are there: it finds them beside itself."""
    clang = ctx.which("clang-19")
    if ctx.os.environ.get("HATTN_HIP", "0") == "0" or not clang:
        return None
    tools = clang.realpath.dirname
    needed = [tools.get_child(name) for name in ["lld", "clang-offload-bundler", "llvm-objcopy"]]
    return clang if not [tool for tool in needed if not tool.exists] else None

def _rows(ctx, file, macro):
    """The arguments of each `macro(...)`, a line each, in a file of rows."""
    lines = ctx.read(ctx.path(Label("@//kernels_cuda:" + file))).split("\n")
    return [
        [argument.strip() for argument in line[len(macro) + 1:].rstrip(" )").split(",")]
        for line in lines
        if line.startswith(macro + "(")
    ]

def _gpu_configure_impl(ctx):
    nvcc = _cuda(ctx)
    hip = _hip(ctx)
    opencl = ctx.os.environ.get("HATTN_OPENCL", "1") != "0" and ctx.path("/usr/include/CL/cl.h").exists
    ctx.file("BUILD", (_ON if nvcc else _OFF) % "cuda" + (_ON if hip else _OFF) % "hip" + (_ON if opencl else _OFF) % "opencl" + _REST)
    ctx.file("defs.bzl", "NVCC = %r\nCUDA_ARCHITECTURES = %r\nHIP_CLANG = %r\nHIP_TARGETS = %r\nENGINES = %r\nCODE_WIDTHS = %r\nFLOOR_ENGINES = %r\nFLOOR_WIDTHS = %r\n" % (
        str(nvcc or ""),
        _cuda_architectures(ctx),
        str(hip or ""),
        _hip_targets(ctx),
        _rows(ctx, "engines.inc", "ENGINE"),
        _rows(ctx, "code_widths.inc", "CODE_WIDTH"),
        _rows(ctx, "floors.inc", "FLOOR_ENGINE"),
        _rows(ctx, "floors.inc", "FLOOR_WIDTH"),
    ))

gpu_configure = repository_rule(
    implementation = _gpu_configure_impl,
    configure = True,
    environ = ["HATTN_CUDA", "HATTN_CUDA_ARCHITECTURES", "HATTN_HIP", "HATTN_HIP_TARGETS", "HATTN_OPENCL", "PATH"],
    local = True,
)

def only_if(setting):
    """For target_compatible_with: the target is skipped where the setting does not hold."""
    return select({setting: [], "//conditions:default": ["//third_party:unavailable"]})
