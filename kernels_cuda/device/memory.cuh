/* SPDX-License-Identifier: Apache-2.0
 * Loads by how long what they bring is wanted and who else may write it, copies into shared memory, prefetches.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_MEMORY_CUH
#define HATTN_KERNELS_CUDA_DEVICE_MEMORY_CUH

#include <cstdint>

#include "kernels_cuda/device/vendor.cuh"

namespace hattn {

/* What kernels before this one on the stream may have been writing when it began: not from L1, which may hold an old
 * line of it, and before the loads that come after it. */
using vendor::load_now;

/* Past L1, which may hold what another kernel or block has written since. */
using vendor::load_l2;

/* What nothing writes while the kernel runs: maps. */
using vendor::load_constant;

/* 16 bytes of a row that no other block reads: not kept in L1. */
using vendor::load_row16;

/* 16 bytes of global memory into shared memory, without passing registers or L1; zeros (and no read) where not
 * `present`. Copies since the last copy_commit are a group; copy_wait returns when all groups but the last `pending`
 * (0, 1 or 2) have landed, for this thread. */
using vendor::copy_async16;

/* The same for 4 bytes, through L1. */
using vendor::copy_async4;

/* The same for 8 bytes. */
using vendor::copy_async8;

using vendor::copy_commit;
using vendor::copy_wait;

/* Read once: not worth a place in L1. The kernels before may write it until they are waited for (appended codes and
 * norms): no read-only loads. The address is aligned to the array's size. */
using vendor::load_streamed;

/* Brings a line into L2; the address need not be aligned. */
using vendor::prefetch_line;

} // namespace hattn

#endif
