/* SPDX-License-Identifier: Apache-2.0
 * A selection where the sampled bound was too high, a list had too little room, or too many keys share the threshold's level: the row is scored
 * anew, as often as its keys have digits and twice more, and the positions are listed in the memory of its lists. Each block of the task that
 * comes takes chunks of keys until there are none left, and waits for no block but those that have taken one. Functions apart from the rest,
 * which must not pay for them in registers.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_RESCORE_CUH
#define HATTN_KERNELS_CUDA_DECODE_RESCORE_CUH

#include "kernels_cuda/decode/floor.cuh"
#include "kernels_cuda/decode/region_lists.cuh"
#include "kernels_cuda/device/exchange.cuh"

namespace hattn {

/* By value: what is referred to would not stay in registers. */
struct RescoreTask {
    uint32_t first_score; /* RegionCut */
    int32_t row, head, sequence, first, end;
    uint32_t index, wanted;
};

/* Of the row in the middle, in order, with a tail marked; in the memory of its lists, behind histograms and counts. */
__device__ inline uint32_t *rescored_positions(const RegionRun &run, uint32_t first_score)
{
    return reinterpret_cast<uint32_t *>(run.scores) + first_score + HATTN_CUDA_RESCORE_BINS +
           2 * HATTN_CUDA_RESCORE_CHUNKS;
}

template <SelectBy kBy>
class Rescorer
{
    static constexpr bool kKeyed = kBy == SelectBy::KEYS, kFloor = kHasFloor<kBy>, kTail = kBy == SelectBy::TAIL;

public:
    __device__ Rescorer(const hattn_cuda_params &params, const hattn_decode_args &args, const RunBy<kBy> &run,
                        const RescoreTask &task, SelectSpaceBy<kBy> &space)
        : params_(params), args_(args), run_(run), task_(task), space_(space),
          positions_(rescored_positions(run, task.first_score)), counts_(positions_ - 2 * HATTN_CUDA_RESCORE_CHUNKS),
          histograms_(kKeyed ? run.keys + task.first_score : counts_ - HATTN_CUDA_RESCORE_BINS),
          claimed_(histogram_of(run, task.index) + level_words(run) + HATTN_CUDA_CLAIMED),
          done_(claimed_ + (HATTN_CUDA_DONE - HATTN_CUDA_CLAIMED)), wanted_(task.wanted)
    {
        const int32_t middle = task.end - task.first;
        constexpr int kLeast = 4096;
        chunk_ = max(kLeast, (middle + HATTN_CUDA_RESCORE_CHUNKS - 1) / HATTN_CUDA_RESCORE_CHUNKS);
        num_chunks_ = static_cast<uint32_t>((middle + chunk_ - 1) / chunk_);
        table_ = params.problem.page_size ? static_cast<const int32_t *>(hattn_address(args.batch.block_table)) +
                                                task.sequence * params.problem.block_table.stride[0]
                                          : nullptr;
        code_head_ =
            static_cast<int64_t>(task.head) * params.problem.num_code_heads / params.problem.num_selection_heads;
    }

    /* Ends with a barrier, when all positions are there. */
    __device__ void run()
    {
        load_query();
        const int digits = num_digits(params_);
        const uint32_t num_passes = static_cast<uint32_t>(digits) + 2, total = 1 + num_passes * num_chunks_;
        for (;;) {
            if (threadIdx.x == 0)
                space_.rescore.claimed = atomic_add(claimed_, 1u);
            __syncthreads();
            const uint32_t claimed = space_.rescore.claimed;
            if (claimed >= total)
                break;
            if (claimed == 0) {
                begin();
            } else {
                const int pass = static_cast<int>((claimed - 1) / num_chunks_);
                const uint32_t chunk = (claimed - 1) % num_chunks_;
                wait_for(1 + static_cast<uint32_t>(pass) * num_chunks_);
                while (num_known_ < min(pass, digits))
                    find_digit();
                if (pass < digits)
                    count_digits(chunk);
                else if (pass == digits)
                    count_kept(chunk);
                else
                    list_kept(chunk);
            }
            __syncthreads();
            if (threadIdx.x == 0)
                arrive(done_);
        }
        wait_for(total);
        if (kFloor && num_known_ < digits) /* it had no chunk to find it for */
            find_digit();
    }

private:
    __device__ void load_query()
    {
        QueryCode &query = space_.rescore.query;
        const int8_t *weights = run_.weights + task_.row * run_.weights_row + task_.head * run_.weights_head;
        __syncthreads();
        for (int r = threadIdx.x; r < 512; r += kThreads)
            query.weights[r] = r < params_.problem.code_bits ? weights[r] : static_cast<int8_t>(0);
        __syncthreads();
        split_planes(query);
    }

    /* For so many claims to be done, by blocks that run. */
    __device__ void wait_for(uint32_t claims) const
    {
        if (threadIdx.x == 0) {
            while (receive(done_) < claims)
                pause();
            acquire();
        }
        __syncthreads();
    }

    __device__ void begin()
    {
        const int bins = num_digits(params_) * HATTN_CUDA_RESCORE_BINS;
        for (int i = threadIdx.x; i < bins; i += kThreads)
            histograms_[i] = 0;
        if (threadIdx.x == 0)
            atomic_add(run_.rescored, uint64_t(1));
    }

    /* Keys of a thread whose codes are in flight together: positions first + i * kThreads, in the order of scores; 0 from `end` on. */
    static constexpr int kTogether = 8;

    __device__ void load_keys(uint32_t (&keys)[kTogether], int32_t first, int32_t end) const
    {
        const hattn_problem &p = params_.problem;
        const QueryCode &query = space_.rescore.query;
        const uint32_t *codes[kTogether];
        float16 norms[kTogether];
        uint32_t scores[kTogether] = {};
#pragma unroll
        for (int i = 0; i < kTogether; i++) {
            const int32_t position = min(first + i * kThreads, end - 1);
            int64_t page = task_.sequence;
            int32_t slot = position;
            if (table_) {
                const uint32_t index = divide(position, params_.page_size);
                page = table_[index];
                slot = position - static_cast<int32_t>(index * params_.page_size.divisor);
            }
            codes[i] = reinterpret_cast<const uint32_t *>(hattn_element(&p.codes, args_.codes, page, slot, code_head_));
            if (kKeyed && p.key_norms)
                norms[i] = load_l2(
                    reinterpret_cast<const float16 *>(hattn_element(&p.norms, args_.norms, page, slot, code_head_)));
        }
#pragma unroll 1
        for (int w = 0; w < (p.code_bits + 31) / 32; w += 4) {
            uint32_t words[kTogether][4];
#pragma unroll
            for (int i = 0; i < kTogether; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    words[i][j] = w + j < (p.code_bits + 31) / 32 ? load_l2(codes[i] + w + j) : 0;
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll 1
                for (int plane = 0; plane < query.num_planes; plane++) {
                    const uint32_t mask = query.plane[plane][min(w + j, 15)], sign = query.sign[min(w + j, 15)];
#pragma unroll
                    for (int i = 0; i < kTogether; i++)
                        scores[i] += static_cast<uint32_t>(count_ones((words[i][j] ^ sign) & mask)) << plane;
                }
        }
#pragma unroll
        for (int i = 0; i < kTogether; i++) {
            const uint32_t key =
                kKeyed && p.key_norms ? ordered_key(scale_score(scores[i], query.max_score, norms[i])) : scores[i];
            keys[i] = first + i * kThreads < end ? key : 0;
        }
    }

    /* f(position, key) for a chunk's keys by all threads together; past its end with key 0. */
    template <class F>
    __device__ void each_key(uint32_t chunk, F f) const
    {
        const int32_t end = end_of(chunk);
#pragma unroll 1
        for (int32_t base = first_of(chunk); base < end; base += kTogether * kThreads) {
            uint32_t keys[kTogether];
            const int32_t first = base + static_cast<int32_t>(threadIdx.x);
            load_keys(keys, first, end);
#pragma unroll
            for (int i = 0; i < kTogether; i++)
                f(first + i * kThreads, keys[i]);
        }
    }

    __device__ int32_t first_of(uint32_t chunk) const { return task_.first + static_cast<int32_t>(chunk) * chunk_; }

    __device__ int32_t end_of(uint32_t chunk) const { return min(first_of(chunk) + chunk_, task_.end); }

    /* The next digit of the last kept key, from all keys' counts. */
    __device__ void find_digit()
    {
        if constexpr (kFloor)
            return find_above_floor();
        SelectSpace &select = space_.rescore.select;
        const Digit d = digit(params_, num_known_);
        for (int i = threadIdx.x; i < HATTN_CUDA_BINS; i += kThreads)
            select.histogram[i] = load_l2(histograms_ + num_known_ * HATTN_CUDA_RESCORE_BINS + i);
        __syncthreads();
        find_bin(select, HATTN_CUDA_BINS, wanted_);
        prefix_ |= select.bin << d.shift;
        known_ |= ((1u << d.bits) - 1) << d.shift;
        wanted_ -= select.above;
        num_known_++;
        __syncthreads();
    }

    /* The last kept score, which is its only digit, and how many are kept. */
    __device__ void find_above_floor()
    {
        const FloorQuery query =
            floor_query(run_, task_.row, task_.head, static_cast<uint32_t>(task_.end - task_.first), task_.wanted);
        /* In the place of counts, which are read from where they are added up. No union: that would cost those without a floor. */
        static_assert(sizeof(LevelSpace) <= sizeof(space_.rescore.select.histogram), "words both");
        LevelSpace &levels = *reinterpret_cast<LevelSpace *>(space_.rescore.select.histogram);
        const uint32_t *pairs = histogram_of(run_, task_.index);
        const FloorFound found =
            find_floor<kTail>(run_.row_size, query, levels, space_.floor,
                              load_l2(pairs + level_words(run_) + HATTN_CUDA_ZEROS), [&](auto &x, auto &y, int i) {
                                  for (int k = 0; k < static_cast<int>(sizeof(x) / sizeof(*x)); k++) {
                                      x[k] = load_l2(histograms_ + i + k + 1);
                                      y[k] = load_l2(pairs + 2 * (i + k) + 1);
                                  }
                              });
        if (threadIdx.x == 0)
            space_.floor.kept = found.kept;
        prefix_ = found.kept ? found.threshold.key : UINT32_MAX; /* above all */
        wanted_ = found.kept ? found.threshold.ties : 0;
        num_known_++;
        __syncthreads();
    }

    __device__ void count_digits(uint32_t chunk)
    {
        SelectSpace &select = space_.rescore.select;
        const Digit d = digit(params_, num_known_);
        for (int i = threadIdx.x; i < HATTN_CUDA_BINS; i += kThreads)
            select.histogram[i] = 0;
        __syncthreads();
        each_key(chunk, [&](int32_t position, uint32_t mine) {
            const bool counts = position < end_of(chunk) && (mine & known_) == prefix_;
            const uint32_t bin = counts ? mine >> d.shift & ((1u << d.bits) - 1) : HATTN_CUDA_BINS;
            const bool are_alike = all_alike(bin); /* one counter must not be waited for 32 times */
            if (counts && (!are_alike || lane_id() == 0))
                atomic_add(&select.histogram[bin], are_alike ? 32u : 1u);
        });
        __syncthreads();
        for (int i = threadIdx.x; i < HATTN_CUDA_BINS; i += kThreads)
            if (select.histogram[i])
                atomic_add(histograms_ + num_known_ * HATTN_CUDA_RESCORE_BINS + i, select.histogram[i]);
    }

    /* Of a chunk, now that the last kept key is known: above it, and equal to it. */
    __device__ void count_kept(uint32_t chunk)
    {
        uint32_t above = 0, equal = 0;
        each_key(chunk, [&](int32_t position, uint32_t mine) {
            above += mine > prefix_; /* not past the end: 0 is never above */
            equal += position < end_of(chunk) && mine == prefix_;
        });
        uint32_t totals[2];
        block_scan(above, space_.rescore.select.sums[0], &totals[0]);
        block_scan(equal, space_.rescore.select.sums[1], &totals[1]);
        if (threadIdx.x < 2)
            counts_[2 * chunk + threadIdx.x] = totals[threadIdx.x];
    }

    __device__ void list_kept(uint32_t chunk)
    {
        SelectSpace &select = space_.rescore.select;
        uint32_t above = 0, equal = 0;
        for (uint32_t before = threadIdx.x; before < chunk; before += kThreads) {
            above += load_l2(counts_ + 2 * before);
            equal += load_l2(counts_ + 2 * before + 1);
        }
        block_scan(above, select.sums[0], &above);
        block_scan(equal, select.sums[1], &equal);
        int turn = 0;
        const std::conditional_t<kTail, Marks, NoMarks> marks;
        __syncthreads();
        each_key(chunk, [&](int32_t position, uint32_t mine) {
            const bool is_above = mine > prefix_, is_equal = position < end_of(chunk) && mine == prefix_;
            uint32_t all;
            const uint32_t before =
                               block_scan(is_above | static_cast<uint32_t>(is_equal) << 16, select.sums[turn], &all),
                           num_above = above + (before & 0xffff), num_equal = equal + (before >> 16);
            if (is_above || (is_equal && num_equal < wanted_))
                positions_[num_above + min(num_equal, wanted_)] = static_cast<uint32_t>(marks.mark(position, mine));
            above += all & 0xffff;
            equal += all >> 16;
            turn ^= 1;
        });
    }

    const hattn_cuda_params &params_;
    const hattn_decode_args &args_;
    const RunBy<kBy> &run_;
    const RescoreTask &task_;
    SelectSpaceBy<kBy> &space_;
    uint32_t *positions_, *counts_, *histograms_, *claimed_, *done_;
    const int32_t *table_; /* NULL: contiguous */
    int64_t code_head_;
    int32_t chunk_; /* keys */
    uint32_t num_chunks_;
    uint32_t prefix_ = 0, known_ = 0; /* digits of the last kept key */
    uint32_t wanted_;                 /* of its equals, or of those that have these digits */
    int num_known_ = 0;
};

/* With a floor, space.floor.kept then says how many of the middle are kept. */
template <SelectBy kBy>
static __device__ __noinline__ void rescore(const hattn_cuda_params &params, const hattn_decode_args &args,
                                            const RunBy<kBy> &run, RescoreTask task, SelectSpaceBy<kBy> &space)
{
    Rescorer<kBy>(params, args, run, task, space).run();
}

} // namespace hattn

#endif
