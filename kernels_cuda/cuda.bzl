"""cuda_library: .cu files compiled by nvcc into a cc_library that carries cudart."""

load("@gpu//:defs.bzl", "NVCC")
load("//third_party:gpu.bzl", "only_if")

# Machine code for A100 and Hopper; the PTX is for whatever comes later.
_FLAGS = [
    "-gencode=arch=compute_80,code=[sm_80,compute_80]",
    "-gencode=arch=compute_90,code=sm_90",
    "-std=c++17",
    "-O3",
    "--Werror=all-warnings",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra",
    "-I.",
]

def _nvcc_objects_impl(ctx):
    headers = [dep[CcInfo].compilation_context.headers for dep in ctx.attr.deps]
    objects = []
    for src in ctx.files.srcs:
        obj = ctx.actions.declare_file("%s/%s.o" % (ctx.label.name, src.basename))
        ctx.actions.run(
            executable = NVCC,
            arguments = _FLAGS + ["-c", src.path, "-o", obj.path],
            inputs = depset([src] + ctx.files.hdrs, transitive = headers),
            outputs = [obj],
            env = {"PATH": "/usr/bin:/bin"},
            mnemonic = "Nvcc",
            progress_message = "Compiling %s with nvcc" % src.short_path,
        )
        objects.append(obj)
    return [DefaultInfo(files = depset(objects))]

_nvcc_objects = rule(
    implementation = _nvcc_objects_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu"]),
        "hdrs": attr.label_list(allow_files = [".cuh", ".h"]),
        "deps": attr.label_list(providers = [CcInfo]),
    },
)

def cuda_library(name, srcs, hdrs = [], deps = []):
    _nvcc_objects(
        name = name + "_objects",
        srcs = srcs,
        hdrs = hdrs,
        target_compatible_with = only_if("@gpu//:cuda"),
        deps = deps,
    )
    native.cc_library(
        name = name,
        srcs = [name + "_objects"],
        hdrs = [h for h in hdrs if h.endswith(".h")],
        linkopts = ["-lstdc++"],
        target_compatible_with = only_if("@gpu//:cuda"),
        deps = deps + ["@gpu//:cudart"],
    )
