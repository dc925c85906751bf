"""The instruction sets: one cc_library each, out of the files that carry its name."""

_X86 = ["@platforms//cpu:x86_64"]

# Name: (compiler flags, where it compiles). A row here, a bit in cpu_features.h, and rows in kernels.inc make an ISA.
_ISAS = {
    "scalar": ([], []),
    "neon": ([], []),  # on aarch64; elsewhere SIMDe's, for tests only
    "avx2": (
        [
            "-mavx2",
            "-mfma",
            "-mf16c",
            "-mpopcnt",
            "-mbmi",
            "-mbmi2",
        ],
        _X86,
    ),
    "avx512": (
        [
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mavx512vbmi2",
            "-mavx512vpopcntdq",
            "-mf16c",
            "-mfma",
            "-mbmi",
            "-mbmi2",
            "-mpopcnt",
        ],
        _X86,
    ),
}

# What kernels.inc lists, for every target that includes it.
ISA_DEFINES = select({
    "@platforms//cpu:x86_64": [
        "HATTN_BUILD_AVX2",
        "HATTN_BUILD_AVX512",
    ],
    "@platforms//cpu:aarch64": ["HATTN_BUILD_NEON"],
    "//conditions:default": [],
})

_PER_PLATFORM = select({
    "@platforms//cpu:x86_64": [":scalar", ":avx2", ":avx512"],
    "@platforms//cpu:aarch64": [":scalar", ":neon"],
    "//conditions:default": [":scalar"],
})

def cpu_kernels(name, hdrs, deps):
    for isa, (flags, where) in _ISAS.items():
        native.cc_library(
            name = isa,
            srcs = native.glob(["*_%s.c" % isa, "%s.h" % isa], allow_empty = True) + hdrs,
            copts = flags,
            target_compatible_with = where,
            deps = deps,
        )
    native.cc_library(name = name, deps = _PER_PLATFORM)
