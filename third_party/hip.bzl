"""hip_library: .cu files compiled by clang for AMD's GPUs into a cc_library. No ROCm: the headers are kernels_hip's own."""

load("@gpu//:defs.bzl", "HIP_CLANG", "HIP_TARGETS")
load("//third_party:gpu.bzl", "only_if")

# For what includes kernels_hip/runtime.h.
HIP_DEFINES = ["HATTN_HIP_TARGETS=\\\"%s\\\"" % ",".join(HIP_TARGETS)]

_FLAGS = [
    "-x",
    "hip",
    "-nogpuinc",
    "-nogpulib",
    "-mcode-object-version=5",
    "-std=c++17",
    "-O3",
    # All of a kernel is inlined, however long: calls would pass what they refer to through memory. And before anything else is done, or
    # clang optimizes it again at each call that it is in, of eight or so: half of the build's time.
    "-mllvm=-amdgpu-early-inline-all",
    "-mllvm=-amdgpu-function-calls=false",
    "-Wall",
    "-Wextra",
    "-Wno-sign-compare",
    "-Werror",
    "-fPIC",
    "-fvisibility=hidden",
    "-I.",
    "-DHATTN_DIALECT=\"kernels_hip/hip.cuh\"",
    "-DHATTN_HIP_TARGETS=\"%s\"" % ",".join(HIP_TARGETS),
    # The same templates, compiled by nvcc, are in the same library.
    "-Dhattn=hattn_on_hip",
    "--offload-compress",
] + ["--offload-arch=" + target for target in HIP_TARGETS]

def _flags_of(flags):
    """Those of other targets left out: each follows its -Xarch_TARGET."""
    kept = []
    arch = ""
    for flag in flags:
        if flag.startswith("-Xarch_"):
            arch = flag[len("-Xarch_"):]
            continue
        if not arch:
            kept.append(flag)
        elif arch in HIP_TARGETS:
            kept += ["-Xarch_" + arch, flag]
        arch = ""
    return kept

# One compilation a file: device code of all targets, and the host's with that inside. What clang calls to register it gets our names.
_COMPILE = """
    set -e
    object=$1 symbols=$2
    shift 2
    "$@" -c -o "$object"
    objcopy --redefine-syms="$symbols" "$object"
"""

def _hip_objects_impl(ctx):
    headers = [dep[CcInfo].compilation_context.headers for dep in ctx.attr.deps]
    objects = []
    made = []
    for name, text in ctx.attr.instances.items():
        made.append(ctx.actions.declare_file("%s/%s.cu" % (ctx.label.name, name)))
        ctx.actions.write(made[-1], text)
    for src in ctx.files.srcs + made:
        obj = ctx.actions.declare_file("%s/%s.o" % (ctx.label.name, src.basename))
        ctx.actions.run_shell(
            command = _COMPILE,
            arguments = [obj.path, ctx.file.symbols.path, HIP_CLANG] + _FLAGS + _flags_of(ctx.attr.flags.get(src.basename, [])) + [src.path],
            inputs = depset([src, ctx.file.symbols] + ctx.files.hdrs, transitive = headers),
            outputs = [obj],
            env = {"PATH": "/usr/bin:/bin"},
            mnemonic = "HipClang",
            progress_message = "Compiling %s with clang for HIP" % src.short_path,
        )
        objects.append(obj)
    return [DefaultInfo(files = depset(objects))]

_hip_objects = rule(
    implementation = _hip_objects_impl,
    attrs = {
        "flags": attr.string_list_dict(),
        "srcs": attr.label_list(allow_files = [".cu"]),
        "hdrs": attr.label_list(allow_files = [".cuh", ".h", ".inc"]),
        "instances": attr.string_dict(),
        "symbols": attr.label(allow_single_file = True),
        "deps": attr.label_list(providers = [CcInfo]),
    },
)

def hip_library(name, srcs, symbols, instances = {}, flags = {}, hdrs = [], deps = [], **kwargs):
    """instances: more sources, {name: text}, that the build writes. flags: {file: more of them}. symbols: what objcopy renames."""
    _hip_objects(
        name = name + "_objects",
        srcs = srcs,
        symbols = symbols,
        instances = instances,
        flags = flags,
        hdrs = hdrs,
        target_compatible_with = only_if("@gpu//:hip"),
        deps = deps,
        **kwargs
    )
    native.cc_library(
        name = name,
        srcs = [name + "_objects"],
        linkopts = ["-lstdc++"],
        target_compatible_with = only_if("@gpu//:hip"),
        deps = deps,
        **kwargs
    )
