/* SPDX-License-Identifier: Apache-2.0
 * Where kernels_cuda/decode/code_reader.cuh samples a row of codes of 128 bits: what a problem must know to make the sample lie.
 */
#ifndef HATTN_PROBLEMS_SAMPLED_KEYS_H
#define HATTN_PROBLEMS_SAMPLED_KEYS_H

#include <cstdint>

namespace problems {

/* Runs of two keys, one somewhere in each of as many equal parts of a row; as many as a block has at once are placed anew from part to part. */
inline bool is_sampled(int64_t key, int64_t num_keys)
{
    enum { SAMPLE_RUNS = 512, PLACED_RUNS = 128 };
    const int64_t spread = (num_keys - 1) / SAMPLE_RUNS;
    if (spread <= 2 || key / spread >= SAMPLE_RUNS)
        return false;
    const uint32_t place = uint32_t(key / spread % PLACED_RUNS) * 0x9e3779b1u;
    const int64_t first = int64_t((uint64_t(place) * uint64_t(spread - 1)) >> 32);
    return key % spread == first || key % spread == first + 1;
}

} // namespace problems

#endif
