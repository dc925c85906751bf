/* SPDX-License-Identifier: Apache-2.0
 * Codes of 16 words.
 */
#include "kernels_cuda/decode/score_regions.cuh"

namespace hattn {

const DecodeKernel decode_score_16 = {load_score_regions<16, false>, launch_score_regions<16, false>};

} // namespace hattn
