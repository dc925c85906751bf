/* SPDX-License-Identifier: Apache-2.0
 * Functions of opcodes that are written by hand, in own.c, own_floats.c and matrix.c; opcodes.py says which opcode has which.
 */
#ifndef HATTN_TESTS_AMDGPU_OWN_H
#define HATTN_TESTS_AMDGPU_OWN_H

#include "tests/amdgpu/machine.h"

/* Of register `reg` what a lane reads (own.c). */
uint32_t lane_value(Wave *w, const Inst *in, int reg, int lane);

extern Function own_refuse, own_nothing, own_end, own_barrier, own_sleep, own_sendmsg, own_trap, own_time, own_getreg,
    own_setreg, own_setreg_imm, own_pair, own_readfirstlane, own_readlane, own_writelane, own_permlane16,
    own_permlanex16, own_permlane64, own_bpermute, own_permute, own_swizzle, own_accvgpr_move, own_bcnt, own_add_u32,
    own_sub_u32, own_subrev_u32, own_mad_u64_u32, own_mad_i64_i32, own_perm, own_max_f32, own_min_f32, own_max_f16,
    own_min_f16, own_max_f64, own_min_f64, own_rndne_f32, own_ldexp_f32, own_div_scale_f32, own_div_fmas_f32,
    own_div_scale_f64, own_div_fmas_f64, own_mix_f32, own_mixlo_f16, own_mixhi_f16, own_mfma_f32_16x16x16_f16,
    own_mfma_f32_16x16x16_bf16, own_mfma_f32_32x32x8_f16, own_mfma_f32_32x32x8_bf16, own_mfma_f32_4x4x4_16b_f16,
    own_mfma_f32_4x4x4_16b_bf16, own_mfma_f32_4x4x1_16b_f32, own_mfma_f32_16x16x4_f32, own_mfma_f32_32x32x2_f32,
    own_wmma_f32_16x16x16_f16, own_wmma_f32_16x16x16_bf16;

#endif
