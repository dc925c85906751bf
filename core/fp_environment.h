/* SPDX-License-Identifier: Apache-2.0
 * The floating-point environment that results are defined in: round to nearest even, subnormal numbers kept, no traps. A host
 * may have changed its threads' (torch.set_flush_denormal, objects built with -ffast-math).
 */
#ifndef HATTN_CORE_FP_ENVIRONMENT_H
#define HATTN_CORE_FP_ENVIRONMENT_H

#include <stdint.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

/* Sets the default; returns what the thread had, for hattn_fp_leave. */
static inline uint64_t hattn_fp_enter(void)
{
#if defined(__x86_64__)
    const uint64_t found = _mm_getcsr();
    _mm_setcsr(0x1f80); /* all exceptions masked, none flagged */
    return found;
#elif defined(__aarch64__)
    uint64_t found;
    __asm__ volatile("mrs %0, fpcr\n\tmsr fpcr, xzr" : "=r"(found) : : "memory");
    return found;
#else
#error "which register holds the rounding mode here?"
#endif
}

static inline void hattn_fp_leave(uint64_t found)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)found);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(found) : "memory");
#endif
}

#endif
