/* SPDX-License-Identifier: Apache-2.0
 * A call's tensors in a device's memory.
 */
#ifndef HATTN_CONFORMANCE_MIRROR_H
#define HATTN_CONFORMANCE_MIRROR_H

#include <map>
#include <string>

#include "api/hattn.h"
#include "conformance/memory.h"
#include "devices/memory.h"

namespace conformance {

/* Calls fn(buffer) for every buffer of a call's arguments, always in the same order. */
template <class Fn>
void for_each_buffer(hattn_batch &batch, Fn fn)
{
    for (hattn_buffer *buffer : {&batch.q_start, &batch.seq_len, &batch.block_table})
        fn(*buffer);
}

template <class Fn>
void for_each_buffer(hattn_map_buffers &map, Fn fn)
{
    for (int layer = 0; layer < 3; layer++) {
        fn(map.weight[layer]);
        fn(map.bias[layer]);
    }
}

template <class Fn>
void for_each_buffer(hattn_encode_keys_args &args, Fn fn)
{
    for_each_buffer(args.key_map, fn);
    for (hattn_buffer *buffer : {&args.k_new, &args.k_scale, &args.slot_mapping, &args.codes, &args.norms})
        fn(*buffer);
}

template <class Fn>
void for_each_buffer(hattn_encode_queries_args &args, Fn fn)
{
    for_each_buffer(args.query_map, fn);
    for (hattn_buffer *buffer :
         {&args.q, &args.weights, &args.slopes, &args.steps, &args.head_slopes, &args.head_weights, &args.head_steps})
        fn(*buffer);
}

template <class Fn>
void for_each_buffer(hattn_score_args &args, Fn fn)
{
    for_each_buffer(args.batch, fn);
    for (hattn_buffer *buffer : {&args.weights, &args.codes, &args.norms, &args.scores})
        fn(*buffer);
}

template <class Fn>
void for_each_buffer(hattn_topk_args &args, Fn fn)
{
    for_each_buffer(args.batch, fn);
    for (hattn_buffer *buffer : {&args.scores, &args.budgets, &args.indices, &args.counts, &args.steps, &args.shares,
                                 &args.rests, &args.codes, &args.head_weights, &args.head_steps})
        fn(*buffer);
}

template <class Fn>
void for_each_buffer(hattn_attend_args &args, Fn fn)
{
    for_each_buffer(args.batch, fn);
    for (hattn_buffer *buffer : {&args.q, &args.k_cache, &args.v_cache, &args.k_scale, &args.v_scale, &args.sink_logits,
                                 &args.indices, &args.counts, &args.out, &args.lse, &args.shares, &args.rests,
                                 &args.value_sums, &args.value_lengths, &args.value_slots})
        fn(*buffer);
}

template <class Fn>
void for_each_buffer(hattn_sum_values_args &args, Fn fn)
{
    for_each_buffer(args.batch, fn);
    for (hattn_buffer *buffer : {&args.v_cache, &args.value_slots, &args.value_sums, &args.value_lengths})
        fn(*buffer);
}

template <class Fn>
void for_each_buffer(hattn_merge_args &args, Fn fn)
{
    for (hattn_buffer *buffer : {&args.partial_out, &args.partial_lse, &args.out, &args.lse})
        fn(*buffer);
}

template <class Fn>
void for_each_buffer(hattn_decode_args &args, Fn fn)
{
    for_each_buffer(args.batch, fn);
    for_each_buffer(args.key_map, fn);
    for_each_buffer(args.query_map, fn);
    for (hattn_buffer *buffer : {&args.q,           &args.k_cache,     &args.v_cache,
                                 &args.codes,       &args.norms,       &args.k_scale,
                                 &args.v_scale,     &args.sink_logits, &args.budgets,
                                 &args.out,         &args.lse,         &args.weights,
                                 &args.indices,     &args.counts,      &args.slopes,
                                 &args.steps,       &args.value_sums,  &args.value_lengths,
                                 &args.value_slots, &args.head_slopes, &args.head_weights,
                                 &args.head_steps})
        fn(*buffer);
}

/* Regions of host memory on the device, copied when they are first asked for. */
class Mirror
{
public:
    /* pinned: for regions that are marked to stay on the host; may be null if there is none. */
    Mirror(const devices::Memory &memory, const devices::Memory *pinned) : memory_(memory), pinned_(pinned) {}
    ~Mirror();
    Mirror(const Mirror &) = delete;
    Mirror &operator=(const Mirror &) = delete;

    hattn_buffer there(hattn_buffer here);
    template <class Args>
    Args there_all(Args args)
    {
        for_each_buffer(args, [&](hattn_buffer &buffer) { buffer = there(buffer); });
        return args;
    }

    /* The region that holds the buffer is copied again, if it was asked for. */
    void refresh(hattn_buffer here) const;
    /* Waits, and copies what may be written to the host; "" or what was written that must not be. */
    std::string bring_back() const;

private:
    /* The region that it lies in. Throws std::runtime_error. */
    static Region *region_of(hattn_buffer here);
    void send(const Region &region, uint8_t *address) const;
    const devices::Memory &memory_of(const Region &region) const;

    const devices::Memory &memory_, *pinned_;
    std::map<Region *, uint8_t *> copies_;
};

} // namespace conformance
#endif
