/* SPDX-License-Identifier: Apache-2.0
 * One block's share of an attention: up to 16 query heads that share rows, and an even part of those rows.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_ATTEND_SHARE_CUH
#define HATTN_KERNELS_CUDA_ATTEND_ATTEND_SHARE_CUH

#include "kernels_cuda/attend/attend_mma.cuh"
#include "kernels_cuda/attend/attend_wide.cuh"
#include "kernels_cuda/attend/parts.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {

/* Blocks of a group's query heads. */
__host__ __device__ inline int group_blocks(int group, int block_heads)
{
    return (group + block_heads - 1) / block_heads;
}

/* The heads of a group, from first_head on, that one of its group_blocks takes. */
__device__ inline void take_heads(Share &share, int group, int block_heads, int32_t first_head, int block)
{
    share.first_head = first_head + block * block_heads;
    share.count = min(block_heads, group - block * block_heads);
    share.heads = min(block_heads, group);
}

/* The grid is (row, blocks of the groups, split): no divisions of large numbers. */
__device__ inline Share share_of(int group, int block_heads, const hattn_cuda_divisor &splits)
{
    const int blocks = group_blocks(group, block_heads), which = static_cast<int>(blockIdx.y);
    const int of_group = blocks == 1 ? 0 : which % blocks;
    Share share;
    take_heads(share, group, block_heads, (blocks == 1 ? which : which / blocks) * group, of_group);
    share.row = static_cast<int32_t>(blockIdx.x);
    share.splits = splits;
    share.split = blockIdx.z;
    share.num_splits = gridDim.z;
    share.counter = blockIdx.x * gridDim.y + blockIdx.y;
    return share;
}

/* Shared memory of a block: what finds rows (Early has a member list of slots), what holds results, what joins them.
 * Each is done with when the next one starts, unless the engine works in shared memory all along. Little of it leaves
 * much for L1, where rows land. */
template <class Engine, class Early>
union LateSpace {
    typename Engine::Space engine;
    Early early;
    JoinSpace<typename Engine::Weight> join;
};

template <class Engine, class Early>
struct ApartSpace {
    typename Engine::Space engine;
    union {
        Early early;
        JoinSpace<typename Engine::Weight> join;
    };
};

template <class Engine, class Early>
using ShareSpace = std::conditional_t<Engine::kNeedsSpaceLate, LateSpace<Engine, Early>, ApartSpace<Engine, Early>>;

/* Which heads a block of a task joins. The task's counter has how many blocks have begun, and, from bit 16 on, how
 * many have asked for heads, in turn. Who asks when all have begun gets some, the last to ask the first ones. Who
 * asks earlier gets none; those are left to the last one to begin, which has seen how many had asked. The counter is
 * zero again after the last one. */
class Turn
{
public:
    struct Heads {
        int first, end, left; /* first..end, and from `left` on */
        bool is_last;         /* to ask */
    };
    struct Space {
        uint32_t begun;
        Heads heads;
    };

    __device__ Turn(const Share &share, hattn_buffer workspace, Space &space)
        : space_(space), counter_(&static_cast<hattn_cuda_control *>(hattn_address(workspace))->arrived[share.counter]),
          count_(share.num_splits)
    {
    }

    __device__ void begin()
    {
        if (threadIdx.x == 0)
            begun_ = count_up(counter_, 1);
    }

    /* When that has come, and before there is much else in registers. */
    __device__ void settle()
    {
        if (threadIdx.x == 0) {
            compute_now(begun_);
            space_.begun = begun_;
        }
    }

    __device__ void ask()
    {
        if (threadIdx.x == 0)
            asked_ = count_up(counter_, 1 << 16);
    }

    /* A block has `unit` of `num` heads. There is a barrier in it. */
    __device__ Heads heads(int num, int unit)
    {
        if (threadIdx.x == 0) {
            const uint32_t asked = asked_ >> 16, others = count_ - 1, begun = space_.begun;
            Heads heads = {num, num, num, asked == others};
            if ((asked_ & 0xffff) == count_) {
                heads.first = min(static_cast<int>(others - asked) * unit, num);
                heads.end = min(heads.first + unit, num);
            }
            if ((begun & 0xffff) == others)
                heads.left = min(static_cast<int>(count_ - (begun >> 16)) * unit, num);
            if (heads.is_last)
                *counter_ = 0;
            space_.heads = heads;
        }
        __syncthreads();
        return space_.heads;
    }

private:
    Space &space_;
    uint32_t *counter_;
    uint32_t count_, begun_ = 0, asked_ = 0;
};

/* Attends to a share of `total` rows, which all its queries see. ready(begin) is called when the queries are on their way; it may wait, and then
 * calls begin, once; where it returns a number, that takes the place of `total`. fill(first, end, until, list) writes the slots of ranks first..end, of all up to `until`
 * that will be asked for, and ends with a barrier. True in all
 * threads of one block of the task, when all others are done with their ready and fill. tail: settled
 * after all rows, which no warp is late for. */
template <class Engine, class Early, class S, class Ready, class Fill, class Tail = NoTail>
__device__ inline bool attend_share(const hattn_cuda_params &params, const Inputs &in, const S &share, int total,
                                    ShareSpace<Engine, Early> &space, Ready ready, Fill fill, const Tail &tail = Tail())
{
    const hattn_problem &p = params.problem;
    AttendTask task = {};
    task.kv_head = share.first_head / params.dense_group;
    task.count = share.count;
    task.k_cache = hattn_address(in.k_cache);
    task.v_cache = hattn_address(in.v_cache);
    task.wide = &params.wide;
    for (int i = 0; i < 2; i++) {
        task.k_stride[i] = params.k_stride[i];
        task.v_stride[i] = params.v_stride[i];
    }
    task.k_scale = hattn_kv_scale(&p, in.k_scale, task.kv_head);
    task.v_scale = hattn_kv_scale(&p, in.v_scale, task.kv_head);
    Engine engine(p, task, space.engine);
    const int q_size = p.q.dtype == HATTN_F32 ? 4 : 2;
    engine.start([&](int g) {
        return static_cast<const char *>(hattn_address(in.q)) +
               (share.row_of(g) * p.q.stride[0] + share.head_of(g) * p.q.stride[1]) * q_size;
    });
    __shared__ Turn::Space turns;
    Turn turn(share, in.workspace, turns);
    const bool is_whole = share.num_splits == 1;
    auto begin = [&] {
        if (!is_whole)
            turn.begin();
    };
    int first, end;
    auto cut = [&] {
        const int even = static_cast<int>(divide(total, share.splits)),
                  rest = total - even * share.num_splits; /* of which one each */
        first = share.split * even + min(share.split, rest);
        end = first + even + (share.split < rest);
    };
    if constexpr (std::is_void_v<decltype(ready(begin))>) {
        cut(); /* what can be known is known */
        compute_now(first);
        compute_now(end);
        ready(begin);
    } else {
        total = ready(begin);
        cut();
    }
    if (!is_whole)
        turn.settle();
    engine.settle();
    for (int done = first; done < end; done += kList) {
        const int count = min(kList, end - done);
        if (done != first)
            __syncthreads();
        fill(done, done + count, end, space.early.list);
        engine.add_rows(space.early.list, count);
    }
    if constexpr (std::is_same_v<S, TokenShare>) /* what later tokens alone see */
        if (share.split == share.num_splits - 1 && total < share.longest) {
            __syncthreads();
            fill(total, share.longest, share.longest, space.early.list);
            engine.add_apart(space.early.list, share.longest - total,
                             [&](int i) { return share.first_that_sees(total + i); });
        }
    if (!is_whole)
        turn.ask();
    tail.settle();
    engine.finish();

    using Weight = typename Engine::Weight;
    const Results results(p, in, share, Engine::kOne, tail);
    if (is_whole) {
        engine.each_value(
            [&](int g, int column, auto value, Weight weight) { results.store(g, column, value, weight); });
        return true;
    }
    const SentParts<Weight> parts(in, share, params.v_dim);
    engine.each_value([&](int g, int column, auto value, Weight weight) { parts.send(g, column, value, weight); });
    const int unit = static_cast<int>(divide(share.count + share.num_splits - 1, share.splits));
    const Turn::Heads heads = turn.heads(share.count, unit);
    if (heads.first < heads.end)
        parts.join(results, heads.first, heads.end, unit, space.join);
    if (heads.left < share.count)
        parts.join(results, heads.left, share.count, unit, space.join);
    return heads.is_last;
}

/* Positions of one sequence to slots. */
class SlotFinder
{
public:
    __device__ SlotFinder(const hattn_cuda_params &params, const hattn_batch &batch, int32_t sequence)
        : page_size_(params.page_size), sequence_(sequence)
    {
        if (params.problem.page_size)
            table_ = static_cast<const int32_t *>(hattn_address(batch.block_table)) +
                     sequence * params.problem.block_table.stride[0];
    }

    __device__ Slot find(int32_t position) const
    {
        if (!table_)
            return {sequence_, position};
        const uint32_t index = divide(position, page_size_);
        return {table_[index], static_cast<int32_t>(position - index * page_size_.divisor)};
    }

private:
    const hattn_cuda_divisor &page_size_;
    const int32_t *table_ = nullptr;
    int32_t sequence_;
};

template <class Engine>
struct EngineType {
    using type = Engine;
};

/* Calls make with the number of heads of a block, as a constant: 1, 4 or 8. */
template <class F>
inline DeviceError with_block_heads(int heads, F make)
{
    if (heads == 1)
        return make(std::integral_constant<int, 1>());
    if (heads == 4)
        return make(std::integral_constant<int, 4>());
    return make(std::integral_constant<int, 8>());
}

/* The engines that a plan may choose (`heads` a block). Each set is compiled in files of its own, to be built side by
 * side. */
struct MmaEngines {
    template <class F>
    static DeviceError choose(const hattn_problem &p, int heads, F f)
    {
        return with_block_heads(heads, [&](auto size) {
            constexpr int kGroup = decltype(size)::value;
            if (p.k_cache.dtype == HATTN_F16)
                return p.head_dim_qk == 64 ? f(EngineType<MmaEngine<float16, float16, 64, kGroup>>())
                                           : f(EngineType<MmaEngine<float16, float16, 128, kGroup>>());
            return p.head_dim_qk == 64 ? f(EngineType<MmaEngine<bfloat16, bfloat16, 64, kGroup>>())
                                       : f(EngineType<MmaEngine<bfloat16, bfloat16, 128, kGroup>>());
        });
    }
};

struct MmaBytesEngines {
    template <class F>
    static DeviceError choose(const hattn_problem &, int heads, F f)
    {
        return with_block_heads(heads, [&](auto size) {
            return f(EngineType<MmaEngine<float16, fp8_e4m3, 128, decltype(size)::value>>());
        });
    }
};

struct PlainEngines {
    template <class F>
    static DeviceError choose(const hattn_problem &p, int heads, F f)
    {
        return with_dtype(p.k_cache.dtype, [&](auto type) {
            return with_block_heads(heads, [&](auto size) {
                return f(EngineType<PlainEngine<value_of<decltype(type)>, decltype(size)::value>>());
            });
        });
    }
};

struct WideEngines {
    template <class F>
    static DeviceError choose(const hattn_problem &p, int heads, F f)
    {
        if (p.k_cache.dtype == HATTN_BF16)
            return heads == 8 ? f(EngineType<WideEngine<bfloat16, bfloat16, 1, false>>())
                              : f(EngineType<WideEngine<bfloat16, bfloat16, 2, false>>());
        return p.k_cache.dtype == HATTN_F16 ? of_stored<float16>(p, heads, f) : of_stored<fp8_e4m3>(p, heads, f);
    }

private:
    template <class Stored, class F>
    static DeviceError of_stored(const hattn_problem &p, int heads, F f)
    {
        if (p.q.dtype == HATTN_F32)
            return f(EngineType<WideEngine<float16, Stored, 2, true>>());
        return heads == 8 ? f(EngineType<WideEngine<float16, Stored, 1, false>>())
                          : f(EngineType<WideEngine<float16, Stored, 2, false>>());
    }
};

/* What a launch of blocks of `heads` knows of its caches beside the plan. */
inline hattn_cuda_params at_launch(hattn_cuda_params params, int heads, hattn_buffer k_cache, hattn_buffer v_cache)
{
    const hattn_problem &p = params.problem;
    if (params.engine == HATTN_CUDA_WIDE)
        params.wide = hattn_wide_lay_out(&p, p.q.dtype == HATTN_F32 ? 2 * heads : heads,
                                         hattn_wide_v_inside(&p, hattn_address(k_cache), hattn_address(v_cache)),
                                         params.attend_shared);
    return params;
}

/* For blocks of `heads`. */
inline dim3 attend_grid(int64_t rows, int groups, int group, int heads, int num_splits)
{
    return dim3(static_cast<unsigned>(rows), static_cast<unsigned>(groups * group_blocks(group, heads)),
                static_cast<unsigned>(num_splits));
}

} // namespace hattn

#endif
