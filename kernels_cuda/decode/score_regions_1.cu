/* SPDX-License-Identifier: Apache-2.0
 * Codes of 1 word.
 */
#include "kernels_cuda/decode/score_regions.cuh"

namespace hattn {

const DecodeKernel decode_score_1 = {load_score_regions<1, false>, launch_score_regions<1, false>};

} // namespace hattn
