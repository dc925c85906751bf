/* SPDX-License-Identifier: Apache-2.0
 * Codes of other numbers of words, or that do not start at 16 bytes.
 */
#include "kernels_cuda/decode/score_regions.cuh"

namespace hattn {

const DecodeKernel decode_score_loose_4 = {load_score_regions<4, true>, launch_score_regions<4, true>};
const DecodeKernel decode_score_loose_8 = {load_score_regions<8, true>, launch_score_regions<8, true>};
const DecodeKernel decode_score_loose_16 = {load_score_regions<16, true>, launch_score_regions<16, true>};

} // namespace hattn
