/* SPDX-License-Identifier: Apache-2.0
 * The operations straight from the formulas of api/hattn.h: scalar, sums in double, one loop after the other. The oracle of
 * all tests; shares no code with any kernel. Arguments are host addresses that api/ has checked. No allocation.
 */
#ifndef HATTN_REFERENCE_REFERENCE_H
#define HATTN_REFERENCE_REFERENCE_H

#include "api/hattn.h"

#ifdef __cplusplus
extern "C" {
#endif

void hattn_reference_encode_keys(const hattn_problem *problem, const hattn_encode_keys_args *args);
void hattn_reference_encode_queries(const hattn_problem *problem, const hattn_encode_queries_args *args);
void hattn_reference_score(const hattn_problem *problem, const hattn_score_args *args);
void hattn_reference_topk(const hattn_problem *problem, const hattn_topk_args *args);
void hattn_reference_attend(const hattn_problem *problem, const hattn_attend_args *args);
void hattn_reference_merge(const hattn_problem *problem, const hattn_merge_args *args);
void hattn_reference_sum_values(const hattn_problem *problem, const hattn_sum_values_args *args);
/* Codes (and norms) of the batch's own tokens, read from the K cache. */
void hattn_reference_append(const hattn_problem *problem, const hattn_decode_args *args);

/* What the tests need to tell a rounding from a mistake. bound[r] is the numerics contract's e_r: how far an honest
 * fp32 evaluation may be from z[r]: (d+8) 2^-23 sum |x_i W_ir|, carried through MLP layers as |W| e 1.1. */
void hattn_reference_project(const hattn_problem *problem, const hattn_map *map, const hattn_map_buffers *buffers,
                             const double *x, int code_head, double *z, double *bound);

/* One element of a tensor as a double; dtype is F32, F16, BF16 or F8_E4M3. */
double hattn_reference_load(const void *data, int32_t dtype, int64_t index);
/* Nearest value, ties to even; F32, F16 or BF16. */
void hattn_reference_store(void *data, int32_t dtype, int64_t index, double value);

#ifdef __cplusplus
}
#endif
#endif
