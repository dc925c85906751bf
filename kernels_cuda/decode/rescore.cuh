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
    int32_t piece; /* keys of a block that scored */
    uint32_t index, wanted;
};

/* Of the row in the middle, in order, with a tail marked; in the memory of its lists, behind histograms and counts. */
__device__ inline uint32_t *rescored_positions(const RegionRun &run, uint32_t first_score)
{
    return reinterpret_cast<uint32_t *>(run.scores) + first_score + HATTN_CUDA_RESCORE_BINS +
           2 * HATTN_CUDA_RESCORE_CHUNKS;
}

/* Of one head, by page and slot. */
struct Strided {
    const char *base;
    uint32_t page, slot; /* bytes */

    __device__ const char *at(uint32_t its_page, uint32_t its_slot) const
    {
        return base + (static_cast<uint64_t>(its_page) * page + static_cast<uint64_t>(its_slot) * slot);
    }
};

__device__ inline Strided strided(const hattn_tensor &tensor, hattn_buffer buffer, int64_t first_page, int64_t head,
                                  uint32_t size)
{
    return {hattn_element(&tensor, buffer, first_page, 0, head), static_cast<uint32_t>(tensor.stride[0]) * size,
            static_cast<uint32_t>(tensor.stride[1]) * size};
}

template <SelectBy kBy>
class Rescorer
{
    static constexpr bool kKeyed = kBy == SelectBy::KEYS, kFloor = kHasFloor<kBy>, kTail = kBy == SelectBy::TAIL;

public:
    __device__ Rescorer(const hattn_cuda_params &params, const hattn_decode_args &args, const RunBy<kBy> &run,
                        const RescoreTask &task, SelectSpaceBy<kBy> &space)
        : params_(params), run_(run), task_(task), space_(space), positions_(rescored_positions(run, task.first_score)),
          counts_(positions_ - 2 * HATTN_CUDA_RESCORE_CHUNKS),
          histograms_(kKeyed ? run.keys + task.first_score : counts_ - HATTN_CUDA_RESCORE_BINS),
          claimed_(histogram_of(run, task.index) + level_words(run) + HATTN_CUDA_CLAIMED),
          done_(claimed_ + (HATTN_CUDA_DONE - HATTN_CUDA_CLAIMED)), wanted_(task.wanted),
          num_words_((params.problem.code_bits + 31) / 32),
          is_whole_(!params.has_loose_codes && params.code_words % 4 == 0),
          has_norms_(kKeyed && params.problem.key_norms), page_size_(params.page_size)
    {
        const int32_t middle = task.end - task.first;
        /* About two for each block of the task, as each costs its own latencies. */
        constexpr int kLeast = 4096;
        chunk_ = max(max(kLeast, task.piece / 2), (middle + HATTN_CUDA_RESCORE_CHUNKS - 1) / HATTN_CUDA_RESCORE_CHUNKS);
        num_chunks_ = static_cast<uint32_t>((middle + chunk_ - 1) / chunk_);
        const hattn_problem &p = params.problem;
        if (p.page_size)
            table_ = static_cast<const int32_t *>(hattn_address(args.batch.block_table)) +
                     task.sequence * p.block_table.stride[0];
        const int64_t code_head = static_cast<int64_t>(task.head) * p.num_code_heads / p.num_selection_heads,
                      first_page = p.page_size ? 0 : task.sequence;
        codes_ = strided(p.codes, args.codes, first_page, code_head, sizeof(uint32_t));
        if (has_norms_)
            norms_ = strided(p.norms, args.norms, first_page, code_head, sizeof(float16));
    }

    /* Ends with a barrier, when all positions are there. */
    __device__ void run()
    {
        load_query();
        const int digits = all_digits();
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
                pass_over(pass < digits    ? Pass::COUNT_DIGITS
                          : pass == digits ? Pass::COUNT_KEPT
                                           : Pass::LIST_KEPT,
                          chunk);
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
    /* Scores that are levels have one. */
    __device__ int all_digits() const { return kKeyed ? num_digits(params_) : 1; }

    __device__ Digit next_digit() const { return kKeyed ? digit(params_, num_known_) : Digit{0, 11}; }

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
        const int bins = all_digits() * HATTN_CUDA_RESCORE_BINS;
        for (int i = threadIdx.x; i < bins; i += kThreads)
            histograms_[i] = 0;
        if (threadIdx.x == 0)
            atomic_add(run_.rescored, uint64_t(1));
    }

    /* Keys of a thread whose codes are in flight together: positions first + i * kThreads, in the order of scores; 0 from `end` on. */
    static constexpr int kTogether = 4;

    __device__ void load_keys(uint32_t (&keys)[kTogether], int32_t first, int32_t end) const
    {
        const QueryCode &query = space_.rescore.query;
        const uint32_t *codes[kTogether];
        float16 norms[kTogether];
        uint32_t scores[kTogether] = {};
#pragma unroll
        for (int i = 0; i < kTogether; i++) {
            const int32_t position = min(first + i * kThreads, end - 1);
            uint32_t page = 0, slot = static_cast<uint32_t>(position);
            if (table_) {
                const uint32_t index = divide(slot, page_size_);
                page = static_cast<uint32_t>(table_[index]);
                slot -= index * page_size_.divisor;
            }
            codes[i] = reinterpret_cast<const uint32_t *>(codes_.at(page, slot));
            if (has_norms_)
                norms[i] = load_l2(reinterpret_cast<const float16 *>(norms_.at(page, slot)));
        }
#pragma unroll 1
        for (int w = 0; w < num_words_; w += 4) {
            uint32_t words[kTogether][4], sign[4];
            if (is_whole_)
#pragma unroll
                for (int i = 0; i < kTogether; i++) {
                    const uint4 four = load_l2(reinterpret_cast<const uint4 *>(codes[i] + w));
                    memcpy(words[i], &four, sizeof(four));
                }
            else
#pragma unroll
                for (int i = 0; i < kTogether; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        words[i][j] = w + j < num_words_ ? load_l2(codes[i] + w + j) : 0;
#pragma unroll
            for (int j = 0; j < 4; j++)
                sign[j] = query.sign[w + j];
#pragma unroll 1
            for (int plane = 0; plane < query.num_planes; plane++) {
                uint32_t counts[kTogether] = {};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const uint32_t mask = query.plane[plane][w + j];
#pragma unroll
                    for (int i = 0; i < kTogether; i++)
                        counts[i] += static_cast<uint32_t>(count_ones((words[i][j] ^ sign[j]) & mask));
                }
#pragma unroll
                for (int i = 0; i < kTogether; i++)
                    scores[i] += counts[i] << plane;
            }
        }
#pragma unroll
        for (int i = 0; i < kTogether; i++) {
            const uint32_t key =
                has_norms_ ? ordered_key(scale_score(scores[i], query.max_score, norms[i])) : scores[i];
            keys[i] = first + i * kThreads < end ? key : 0;
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
        const Digit d = next_digit();
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

    /* What is done with a chunk's keys: their digits are counted, then, when the last kept key is known, those above it and those equal to it, then
     * these are listed. */
    enum class Pass { COUNT_DIGITS, COUNT_KEPT, LIST_KEPT };

    /* One loop for all passes, as each kernel of attention has this code in it. */
    __device__ void pass_over(Pass pass, uint32_t chunk)
    {
        SelectSpace &select = space_.rescore.select;
        const int32_t end = end_of(chunk);
        uint32_t above = 0, equal = 0; /* of this thread; when they are listed, before the chunk */
        if (pass == Pass::COUNT_DIGITS)
            for (int i = threadIdx.x; i < HATTN_CUDA_BINS; i += kThreads)
                select.histogram[i] = 0;
        else if (pass == Pass::LIST_KEPT)
            for (uint32_t before = threadIdx.x; before < chunk; before += kThreads) {
                above += load_l2(counts_ + 2 * before);
                equal += load_l2(counts_ + 2 * before + 1);
            }
        if (pass == Pass::LIST_KEPT)
            add_up(&above, &equal);
        __syncthreads();
        int turn = 0;
#pragma unroll 1
        for (int32_t base = first_of(chunk); base < end; base += kTogether * kThreads) {
            uint32_t keys[kTogether];
            const int32_t first = base + static_cast<int32_t>(threadIdx.x);
            load_keys(keys, first, end);
            if (pass == Pass::COUNT_DIGITS) {
                count_digits(keys, first, end);
            } else if (pass == Pass::COUNT_KEPT) {
#pragma unroll
                for (int i = 0; i < kTogether; i++) {
                    above += keys[i] > prefix_; /* not past the end: 0 is never above */
                    equal += first + i * kThreads < end && keys[i] == prefix_;
                }
            } else {
                list_kept(keys, first, end, &select.histogram[turn], &above, &equal);
                turn ^= kTogether * kWarps;
            }
        }
        if (pass == Pass::COUNT_DIGITS) {
            __syncthreads();
            for (int i = threadIdx.x; i < HATTN_CUDA_BINS; i += kThreads)
                if (select.histogram[i])
                    atomic_add(histograms_ + num_known_ * HATTN_CUDA_RESCORE_BINS + i, select.histogram[i]);
        } else if (pass == Pass::COUNT_KEPT) {
            add_up(&above, &equal);
            if (threadIdx.x < 2)
                counts_[2 * chunk + threadIdx.x] = threadIdx.x ? equal : above;
        }
    }

    /* Over all threads. */
    __device__ void add_up(uint32_t *above, uint32_t *equal)
    {
        block_scan(*above, space_.rescore.select.sums[0], above);
        block_scan(*equal, space_.rescore.select.sums[1], equal);
    }

    __device__ void count_digits(const uint32_t (&keys)[kTogether], int32_t first, int32_t end)
    {
        SelectSpace &select = space_.rescore.select;
        const Digit d = next_digit();
#pragma unroll
        for (int i = 0; i < kTogether; i++) {
            const bool counts = first + i * kThreads < end && (keys[i] & known_) == prefix_;
            const uint32_t bin = counts ? keys[i] >> d.shift & ((1u << d.bits) - 1) : HATTN_CUDA_BINS;
            const bool are_alike = all_alike(bin); /* one counter must not be waited for 32 times */
            if (counts && (!are_alike || lane_id() == 0))
                atomic_add(&select.histogram[bin], are_alike ? 32u : 1u);
        }
    }

    /* Of a turn, after so many above the last kept key and equal to it, to which it adds its own. counts: of a turn, not those of the one before, which
     * may still be read. */
    __device__ void list_kept(const uint32_t (&keys)[kTogether], int32_t first, int32_t end, uint32_t *counts,
                              uint32_t *above, uint32_t *equal)
    {
        static_assert(kTogether * kWarps == 32, "a lane has one");
#pragma unroll
        for (int i = 0; i < kTogether; i++) {
            const uint32_t are_above = ballot(keys[i] > prefix_),
                           are_equal = ballot(first + i * kThreads < end && keys[i] == prefix_);
            if (lane_id() == 0)
                counts[i * kWarps + warp_id()] = count_ones(are_above) | count_ones(are_equal) << 16;
        }
        __syncthreads();
        /* Both in one scan: they are below 2^16. */
        const uint32_t its = counts[lane_id()], scan = warp_scan(its), total = from_lane(scan, 31);
        const std::conditional_t<kTail, Marks, NoMarks> marks;
#pragma unroll
        for (int i = 0; i < kTogether; i++) {
            const int32_t position = first + i * kThreads;
            const bool is_above = keys[i] > prefix_, is_equal = position < end && keys[i] == prefix_;
            const uint32_t before = from_lane(scan - its, i * kWarps + warp_id()),
                           num_above = *above + (before & 0xffff) + count_ones(ballot(is_above) & lanes_below()),
                           num_equal = *equal + (before >> 16) + count_ones(ballot(is_equal) & lanes_below());
            if (is_above || (is_equal && num_equal < wanted_))
                positions_[num_above + min(num_equal, wanted_)] = static_cast<uint32_t>(marks.mark(position, keys[i]));
        }
        *above += total & 0xffff;
        *equal += total >> 16;
    }

    const hattn_cuda_params &params_;
    const RunBy<kBy> &run_;
    const RescoreTask &task_;
    SelectSpaceBy<kBy> &space_;
    uint32_t *positions_, *counts_, *histograms_, *claimed_, *done_;
    const int32_t *table_ = nullptr; /* NULL: contiguous */
    Strided codes_ = {}, norms_ = {};
    int32_t chunk_; /* keys */
    uint32_t num_chunks_;
    uint32_t prefix_ = 0, known_ = 0; /* digits of the last kept key */
    uint32_t wanted_;                 /* of its equals, or of those that have these digits */
    int num_known_ = 0;
    /* What loops read: registers, unlike parameters, which every other load may have changed. */
    const int num_words_;
    const bool is_whole_, has_norms_;
    const hattn_cuda_divisor page_size_;
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
