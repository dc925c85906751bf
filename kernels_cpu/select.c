/* SPDX-License-Identifier: Apache-2.0
 * Rows of kernels.inc to a table.
 */
#include <string.h>

#include "kernels_cpu/cpu_features.h"
#include "kernels_cpu/kernels.h"

void hattn_cpu_kernels_select(unsigned isas, hattn_cpu_kernels *kernels)
{
    isas |= HATTN_ISA_SCALAR;
    memset(kernels, 0, sizeof *kernels);
#define HATTN_CPU_KERNEL(op, isa, symbol) \
    if (!kernels->op && isas & (isa))     \
        kernels->op = symbol;
#include "kernels_cpu/kernels.inc"
#undef HATTN_CPU_KERNEL
}
