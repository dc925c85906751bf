/* SPDX-License-Identifier: Apache-2.0
 * Instruction sets: what the processor and the system report, less the environment's list.
 */
#define _POSIX_C_SOURCE 200809L
#include "kernels_cpu/cpu_features.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#ifdef __x86_64__
#include <cpuid.h>
#endif

/* Lowest first. */
static const struct {
    unsigned bit;
    const char *name;
} isa_names[] = {
    {HATTN_ISA_SCALAR, "scalar"},
    {HATTN_ISA_NEON, "neon"},
    {HATTN_ISA_AVX2, "avx2"},
    {HATTN_ISA_AVX512, "avx512"},
};
enum { NUM_ISAS = sizeof isa_names / sizeof isa_names[0] };

/* Of a name in any case; 0: no such name. */
static unsigned isa_bit(const char *name, size_t length)
{
    for (int i = 0; i < NUM_ISAS; i++) {
        if (strlen(isa_names[i].name) == length && strncasecmp(isa_names[i].name, name, length) == 0)
            return isa_names[i].bit;
    }
    return 0;
}

#ifdef __x86_64__
/* Not every compiler's __builtin_cpu_supports knows f16c. */
static int has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx & bit_F16C;
}
#endif

static unsigned machine_isas(void)
{
    unsigned isas = HATTN_ISA_SCALAR;
#ifdef __x86_64__
    /* The compiler's runtime also asks the system whether it saves the wide registers. */
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && has_f16c() && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))
        isas |= HATTN_ISA_AVX2;
    if (isas & HATTN_ISA_AVX2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vpopcntdq"))
        isas |= HATTN_ISA_AVX512;
#elif defined(__aarch64__)
    isas |= HATTN_ISA_NEON; /* all of them have it */
#endif
    return isas;
}

unsigned hattn_cpu_isas(char *unknown, size_t size)
{
    static const char separators[] = ", \t";
    unsigned isas = machine_isas();
    const char *list = getenv("HATTN_CPU_DISABLE");
    for (list = list ? list : ""; *(list += strspn(list, separators));) {
        const size_t length = strcspn(list, separators);
        const unsigned bit = isa_bit(list, length);
        if (!bit) {
            const size_t copied = length < size ? length : size - 1;
            memcpy(unknown, list, copied);
            unknown[copied] = 0;
            return 0;
        }
        isas &= ~bit;
        list += length;
    }
    return isas | HATTN_ISA_SCALAR;
}

unsigned hattn_cpu_isas_up_to(unsigned isas, const char *name)
{
    unsigned bit = isa_bit(name, strlen(name));
    if (!(isas & bit))
        return 0;
    return isas & (bit | (bit - 1));
}

const char *hattn_cpu_isa_name(unsigned isas)
{
    for (int i = NUM_ISAS - 1; i > 0; i--) {
        if (isas & isa_names[i].bit)
            return isa_names[i].name;
    }
    return isa_names[0].name;
}

int hattn_cpu_loads_first(void)
{
#ifdef __x86_64__
    __builtin_cpu_init();
    return __builtin_cpu_is("intel") != 0;
#else
    return 0;
#endif
}
