/* SPDX-License-Identifier: Apache-2.0
 * Small kernels whose results unit_test.cc knows, for clang alone.
 */
#include <stdint.h>

#include "tests/amdgpu/unit_ops.h"

#define KERNEL extern "C" __attribute__((global)) void
#define DEVICE __attribute__((device))
#define SHARED __attribute__((shared))
#define THREAD __builtin_amdgcn_workitem_id_x()
#define BLOCK __builtin_amdgcn_workgroup_id_x()

DEVICE inline void barrier()
{
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

#define UNIT(name, expression)                                              \
    KERNEL unit_##name(const uint32_t *in, uint64_t *out)                   \
    {                                                                       \
        const unsigned i = BLOCK * 256 + THREAD;                            \
        const uint32_t x = in[3 * i], y = in[3 * i + 1], z = in[3 * i + 2]; \
        out[i] = expression;                                                \
    }
UNITS(UNIT)

/* ---- control, scratch, calls ---- */

KERNEL collatz(const uint32_t *in, uint64_t *out)
{
    const unsigned i = BLOCK * 256 + THREAD;
    uint64_t x = in[3 * i] & 0xffff | 1;
    unsigned steps = 0;
    for (; x != 1; steps++)
        x = x % 2 ? 3 * x + 1 : x / 2;
    out[i] = steps;
}

DEVICE __attribute__((noinline)) uint64_t choose(const uint32_t *from, unsigned which) { return from[which & 15]; }

KERNEL scratch_and_calls(const uint32_t *in, uint64_t *out)
{
    const unsigned i = BLOCK * 256 + THREAD;
    uint32_t kept[16];
    for (int k = 0; k < 16; k++)
        kept[(k + THREAD) & 15] = in[3 * i] * k;
    out[i] = choose(kept, in[3 * i + 1]);
}

/* ---- LDS, atomics, barriers ---- */

KERNEL histogram(const uint32_t *in, uint64_t *out)
{
    SHARED uint32_t bins[64];
    if (THREAD < 64)
        bins[THREAD] = 0;
    barrier();
    const unsigned i = BLOCK * 256 + THREAD;
    __hip_atomic_fetch_add(&bins[in[3 * i] & 63], 1u, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_WORKGROUP);
    barrier();
    if (THREAD < 64)
        __hip_atomic_fetch_add(&out[THREAD], bins[THREAD], __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

/* Without the second barrier, what a thread reads depends on the order of waves. */
KERNEL racing(const uint32_t *in, uint64_t *out)
{
    SHARED uint32_t words[256];
    words[THREAD] = 0;
    barrier();
    words[THREAD] = in[3 * THREAD] | 1;
    out[THREAD] = words[(THREAD + 64) & 255];
}

KERNEL uncleared(const uint32_t *, uint64_t *out)
{
    SHARED uint32_t words[256];
    out[THREAD] = ((volatile uint32_t *)words)[THREAD];
}

/* Each block waits for the one before it. */
KERNEL chain(const uint32_t *in, uint64_t *out)
{
    if (THREAD)
        return;
    while (BLOCK && __hip_atomic_load(&out[BLOCK - 1], __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_AGENT) == ~0ull)
        __builtin_amdgcn_s_sleep(1);
    const uint64_t before = BLOCK ? __hip_atomic_load(&out[BLOCK - 1], __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT) : 0;
    __hip_atomic_store(&out[BLOCK], before + in[3 * BLOCK] % 1000, __ATOMIC_RELEASE, __HIP_MEMORY_SCOPE_AGENT);
}

KERNEL forever(const uint32_t *, uint64_t *out)
{
    while (__hip_atomic_load(out, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT))
        __builtin_amdgcn_s_sleep(1);
}

KERNEL beyond(const uint32_t *in, uint64_t *out) { out[THREAD] = in[3 * 1024 - 255 + THREAD]; }

__attribute__((constant)) extern const uint32_t table[256];
__attribute__((constant)) const uint32_t table[256] = {1, 2, 3, 5, 8};

KERNEL constants(const uint32_t *in, uint64_t *out) { out[THREAD] = table[in[3 * THREAD] & 7]; }

KERNEL to_constants(const uint32_t *in, uint64_t *) { const_cast<volatile uint32_t *>(table)[in[0] & 7] = 0; }

/* ---- across lanes ---- */

/* Prefix sums of 16 lanes by DPP, source and destination the same register. */
KERNEL row_sums(const uint32_t *in, uint64_t *out)
{
    int x = static_cast<int>(in[3 * (BLOCK * 256 + THREAD)]);
    x += __builtin_amdgcn_update_dpp(0, x, 0x111, 15, 15, true);
    x += __builtin_amdgcn_update_dpp(0, x, 0x112, 15, 15, true);
    x += __builtin_amdgcn_update_dpp(0, x, 0x114, 15, 15, true);
    x += __builtin_amdgcn_update_dpp(0, x, 0x118, 15, 15, true);
    out[BLOCK * 256 + THREAD] = static_cast<unsigned>(x);
}

KERNEL quads(const uint32_t *in, uint64_t *out)
{
    const int x = static_cast<int>(in[3 * (BLOCK * 256 + THREAD)]);
    const unsigned swapped = __builtin_amdgcn_update_dpp(0, x, 0xb1, 15, 15, true);   /* 1 0 3 2 */
    const unsigned mirrored = __builtin_amdgcn_update_dpp(7, x, 0x140, 15, 5, false); /* banks 0 and 2 */
    out[BLOCK * 256 + THREAD] = static_cast<uint64_t>(swapped) << 32 | mirrored;
}

KERNEL permuted(const uint32_t *in, uint64_t *out)
{
    const unsigned i = BLOCK * 256 + THREAD, x = in[3 * i];
    const unsigned there = __builtin_amdgcn_ds_bpermute(static_cast<int>((THREAD ^ 21) * 4), static_cast<int>(x));
    const unsigned swizzled = __builtin_amdgcn_ds_swizzle(static_cast<int>(x), 0x1f | 3 << 10); /* ^ 3 */
    out[i] = static_cast<uint64_t>(there) << 32 | swizzled;
}

KERNEL balloted(const uint32_t *in, uint64_t *out)
{
    const unsigned i = BLOCK * 256 + THREAD, x = in[3 * i];
#if __AMDGCN_WAVEFRONT_SIZE__ == 64
    const uint64_t mask = __builtin_amdgcn_ballot_w64(x & 1);
#else
    const uint64_t mask = __builtin_amdgcn_ballot_w32(x & 1);
#endif
    out[i] = mask + (static_cast<uint64_t>(__builtin_amdgcn_readfirstlane(x)) << 32) +
             static_cast<uint32_t>(__builtin_amdgcn_readlane(x, 5));
}

/* ---- matrices: a[32 x 32] b[32 x 32], by pieces; fp16 in the low halves of the words ---- */

typedef _Float16 half4 __attribute__((ext_vector_type(4)));
typedef _Float16 half16 __attribute__((ext_vector_type(16)));
typedef float float4 __attribute__((ext_vector_type(4)));
typedef float float8 __attribute__((ext_vector_type(8)));
typedef float float16 __attribute__((ext_vector_type(16)));

DEVICE inline _Float16 small(uint32_t x) { return static_cast<_Float16>(static_cast<int>(x % 17) - 8); }

/* 16 x 16 x 16, a wave: out[16 row + column] is the sum's bits. */
KERNEL matrix16(const uint32_t *in, uint64_t *out)
{
    const unsigned l = THREAD;
#if __AMDGCN_WAVEFRONT_SIZE__ == 64
    half4 a, b;
    for (int k = 0; k < 4; k++) {
        a[k] = small(in[l % 16 * 16 + l / 16 * 4 + k]);
        b[k] = small(in[256 + (l / 16 * 4 + k) * 16 + l % 16]);
    }
    const float4 c = __builtin_amdgcn_mfma_f32_16x16x16f16(a, b, float4{1, 1, 1, 1}, 0, 0, 0);
    for (int r = 0; r < 4; r++)
        out[(l / 16 * 4 + r) * 16 + l % 16] = UNIT_U(c[r]);
#elif defined(__GFX11__)
    half16 a, b;
    for (int k = 0; k < 16; k++) {
        a[k] = small(in[l % 16 * 16 + k]);
        b[k] = small(in[256 + k * 16 + l % 16]);
    }
    const float8 c = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a, b, float8{1, 1, 1, 1, 1, 1, 1, 1});
    for (int r = 0; r < 8; r++)
        out[(2 * r + l / 16) * 16 + l % 16] = UNIT_U(c[r]);
#endif
}

#if __AMDGCN_WAVEFRONT_SIZE__ == 64
KERNEL matrix32(const uint32_t *in, uint64_t *out)
{
    const unsigned l = THREAD;
    half4 a, b;
    for (int k = 0; k < 4; k++) {
        a[k] = small(in[l % 32 * 8 + l / 32 * 4 + k]);
        b[k] = small(in[256 + (l / 32 * 4 + k) * 32 + l % 32]);
    }
    float16 c = {};
    c = __builtin_amdgcn_mfma_f32_32x32x8f16(a, b, c, 0, 0, 0);
    for (int r = 0; r < 16; r++)
        out[(8 * (r / 4) + 4 * (l / 32) + r % 4) * 32 + l % 32] = UNIT_U(c[r]);
}
#endif

/* ---- functions that are nearly right ---- */

KERNEL nearly(const uint32_t *in, uint64_t *out)
{
    const unsigned i = BLOCK * 256 + THREAD;
    const float x = static_cast<float>(in[3 * i] % 100000) * 0.0001f;
    out[i] = static_cast<uint64_t>(UNIT_U(__builtin_amdgcn_exp2f(x))) << 32 | UNIT_U(__builtin_sqrtf(x));
}

/* An opcode that the emulator does not know. */
KERNEL unknown(const uint32_t *in, uint64_t *out) { out[THREAD] = __builtin_amdgcn_cosf(UNIT_F(in[THREAD])) > 0; }
