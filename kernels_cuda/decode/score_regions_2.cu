/* SPDX-License-Identifier: Apache-2.0
 * Codes of 2 words.
 */
#include "kernels_cuda/decode/score_regions.cuh"

namespace hattn {

const DecodeKernel decode_score_2 = {load_score_regions<2, false>, launch_score_regions<2, false>};

} // namespace hattn
