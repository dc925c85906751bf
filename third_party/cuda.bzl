"""cuda_library: .cu files compiled by nvcc into a cc_library that carries cudart."""

load("@gpu//:defs.bzl", "CUDA_ARCHITECTURES", "NVCC")
load("//third_party:gpu.bzl", "only_if")

_FLAGS = [
    "-std=c++17",
    "-O3",
    "--Werror=all-warnings",
    "--compress-mode=size",
    "-objtemp",  # temporary files are named after the process, which sandboxes that share /tmp all number alike
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra",
    "-I.",
]

_PTX80 = ["-gencode=arch=compute_80,code=compute_80"]
_SM90 = ["-gencode=arch=compute_90,code=sm_90"]

# The first one's PTX is for whatever comes later.
_ARCHITECTURES = [
    "-gencode=arch=compute_%d,code=[sm_%d,compute_%d]" % (CUDA_ARCHITECTURES[0], CUDA_ARCHITECTURES[0], CUDA_ARCHITECTURES[0]),
] + ["-gencode=arch=compute_%d,code=sm_%d" % (number, number) for number in CUDA_ARCHITECTURES[1:]] + (
    ["-DHATTN_CUDA_LEAST=%d" % CUDA_ARCHITECTURES[0]] if CUDA_ARCHITECTURES[0] != 80 else []
)

# --//kernels_cuda:variant=NAME; CONTRIBUTING.md says what each is for.
_VARIANTS = {
    "checked": _PTX80 + _SM90 + ["-DHATTN_CHECKED"],
    "default": _ARCHITECTURES,
    "portable": _PTX80 + _SM90 + ["-DHATTN_PORTABLE"],
    "ptx80": _PTX80,
    "small": _SM90 + ["-DHATTN_SMALL_SHARED"],
}

def _variant_flag_impl(ctx):
    return []

_variant_flag = rule(
    implementation = _variant_flag_impl,
    build_setting = config.string(flag = True),
)

def cuda_variants(name):
    """The flag `name`, and a setting of each of its values but the default."""
    _variant_flag(name = name, build_setting_default = "default")
    for value in _VARIANTS:
        if value != "default":
            native.config_setting(name = value, flag_values = {":" + name: value})

def _nvcc_objects_impl(ctx):
    headers = [dep[CcInfo].compilation_context.headers for dep in ctx.attr.deps]
    objects = []
    made = []
    for name, text in ctx.attr.instances.items():
        made.append(ctx.actions.declare_file("%s/%s.cu" % (ctx.label.name, name)))
        ctx.actions.write(made[-1], text)
    for src in ctx.files.srcs + made:
        obj = ctx.actions.declare_file("%s/%s.o" % (ctx.label.name, src.basename))
        ctx.actions.run(
            executable = NVCC,
            arguments = _FLAGS + ctx.attr.architectures + ["-c", src.path, "-o", obj.path],
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
        "hdrs": attr.label_list(allow_files = [".cuh", ".h", ".inc"]),
        "instances": attr.string_dict(),
        "architectures": attr.string_list(),
        "deps": attr.label_list(providers = [CcInfo]),
    },
)

def cuda_library(name, srcs, instances = {}, hdrs = [], deps = [], **kwargs):
    """instances: more sources, {name: text}, that the build writes."""
    settings = {"//kernels_cuda:" + v: flags for v, flags in _VARIANTS.items() if v != "default"}
    settings["//conditions:default"] = _ARCHITECTURES
    _nvcc_objects(
        name = name + "_objects",
        srcs = srcs,
        instances = instances,
        hdrs = hdrs,
        architectures = select(settings),
        target_compatible_with = only_if("@gpu//:cuda"),
        deps = deps,
        **kwargs
    )
    native.cc_library(
        name = name,
        srcs = [name + "_objects"],
        hdrs = [h for h in hdrs if not h.endswith(".cuh")],
        linkopts = ["-lstdc++"],
        target_compatible_with = only_if("@gpu//:cuda"),
        deps = deps + ["@gpu//:cudart"],
        **kwargs
    )
