/* SPDX-License-Identifier: Apache-2.0
 * Codes of 4 words.
 */
#include "kernels_cuda/decode/score_regions.cuh"

namespace hattn {

const DecodeKernel decode_score_4 = {load_score_regions<4, false>, launch_score_regions<4, false>};

} // namespace hattn
