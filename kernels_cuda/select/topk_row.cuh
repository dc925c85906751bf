/* SPDX-License-Identifier: Apache-2.0
 * A row and selection head of a top-k call.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_TOPK_ROW_CUH
#define HATTN_KERNELS_CUDA_SELECT_TOPK_ROW_CUH

#include "kernels_cuda/select/select.cuh"

namespace hattn {

/* One row of a call. */
template <class Key>
struct TopkRow {
    int64_t row, head;
    int length, kept;
    const Key *keys;
    int32_t *indices;

    __device__ TopkRow(const hattn_problem &p, const hattn_topk_args &args, uint32_t task)
        : row(task / static_cast<uint32_t>(p.num_selection_heads)),
          head(task - static_cast<uint32_t>(row) * static_cast<uint32_t>(p.num_selection_heads))
    {
        const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row));
        length = resolved.length;
        kept = hattn_kept(&p, args.budgets, &resolved, head);
        keys = reinterpret_cast<const Key *>(hattn_element(&p.scores, args.scores, row, head, 0));
        indices = reinterpret_cast<int32_t *>(hattn_element(&p.indices, args.indices, row, head, 0));
    }

    /* Of the middle, by rank; 0 or less: nothing is ranked. */
    __device__ int wanted(const hattn_problem &p) const { return kept < length ? kept - p.num_sink - p.num_recent : 0; }
};

/* Scores handed in may be any u16, not only what this problem's weights can give. */
template <class Key>
__device__ void select_row(const hattn_cuda_params &params, const TopkRow<Key> &row, SelectSpace &space)
{
    const hattn_problem &p = params.problem;
    Selection<Key> selection = {row.keys + p.num_sink, row.length, row.kept, p.num_sink, p.num_recent, {}};
    selection.find(params, space);
    selection.visit(0, row.kept, space, [&](int rank, int position) { row.indices[rank] = position; });
}

} // namespace hattn

#endif
