/* SPDX-License-Identifier: Apache-2.0
 * Codes of 8 words.
 */
#include "kernels_cuda/decode/score_regions.cuh"

namespace hattn {

const DecodeKernel decode_score_8 = {load_score_regions<8, false>, launch_score_regions<8, false>};

} // namespace hattn
