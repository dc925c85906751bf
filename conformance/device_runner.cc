/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/device_runner.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <stdexcept>

namespace conformance {
namespace {

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
    for (hattn_buffer *buffer : {&args.q, &args.weights})
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
    for (hattn_buffer *buffer : {&args.scores, &args.budgets, &args.indices, &args.counts})
        fn(*buffer);
}

template <class Fn>
void for_each_buffer(hattn_attend_args &args, Fn fn)
{
    for_each_buffer(args.batch, fn);
    for (hattn_buffer *buffer : {&args.q, &args.k_cache, &args.v_cache, &args.k_scale, &args.v_scale, &args.sink_logits, &args.indices, &args.counts,
                                 &args.out, &args.lse})
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
    for (hattn_buffer *buffer : {&args.q, &args.k_cache, &args.v_cache, &args.codes, &args.norms, &args.k_scale, &args.v_scale, &args.sink_logits,
                                 &args.budgets, &args.out, &args.lse, &args.weights, &args.indices, &args.counts})
        fn(*buffer);
}

/* Bytes in front of each tensor on the device that nobody may write. */
constexpr size_t GUARD = 256;

/* Regions of one call on the device. */
class Mirror
{
public:
    explicit Mirror(const devices::Memory &memory) : memory_(memory) {}

    ~Mirror()
    {
        for (const auto &[region, address] : copies_)
            memory_.release(address);
    }

    hattn_buffer there(hattn_buffer here)
    {
        if (!here.data)
            return here;
        const uint8_t *address = static_cast<const uint8_t *>(here.data) + here.byte_offset;
        Region *region = find_region(address);
        if (!region)
            throw std::runtime_error("a buffer in no tensor");
        auto [place, is_new] = copies_.emplace(region, nullptr);
        if (is_new) {
            std::vector<uint8_t> bytes(GUARD + region->size(), 0xAA);
            std::copy_n(region->data(), region->size(), bytes.begin() + GUARD);
            place->second = static_cast<uint8_t *>(memory_.allocate(bytes.size()));
            memory_.write(place->second, bytes.data(), bytes.size());
        }
        /* The offset stays, so that ignoring it shows. */
        return {place->second + GUARD + (address - region->data()) - here.byte_offset, here.byte_offset};
    }

    /* "" or what was written that must not be. */
    std::string bring_back() const
    {
        memory_.synchronize();
        std::string wrong;
        for (const auto &[region, address] : copies_) {
            std::vector<uint8_t> bytes(GUARD + region->size());
            memory_.read(bytes.data(), address, bytes.size());
            for (size_t i = 0; i < GUARD; i++)
                if (bytes[i] != 0xAA)
                    wrong = "wrote before the start of " + region->name();
            if (region->writable())
                memcpy(region->data(), bytes.data() + GUARD, region->size());
            else if (memcmp(region->data(), bytes.data() + GUARD, region->size()))
                wrong = "wrote to " + region->name() + ", an input";
        }
        return wrong;
    }

private:
    const devices::Memory &memory_;
    std::map<Region *, uint8_t *> copies_;
};

hattn_status fail(hattn_error *error, const std::string &text)
{
    if (error) {
        error->status = HATTN_DEVICE_ERROR;
        snprintf(error->text, sizeof(error->text), "%s", text.c_str());
    }
    return HATTN_DEVICE_ERROR;
}

template <class Args>
auto mirrored(const devices::Memory &memory, hattn_status (*call)(const hattn_plan *, const Args *, const hattn_exec *, hattn_error *))
{
    return [&memory, call](const hattn_plan *plan, const Args *args, const hattn_exec *exec, hattn_error *error) {
        try {
            Mirror mirror(memory);
            Args there = *args;
            for_each_buffer(there, [&](hattn_buffer &buffer) { buffer = mirror.there(buffer); });
            hattn_exec exec_there = *exec;
            exec_there.workspace = mirror.there(exec->workspace);
            if (hattn_status status = call(plan, &there, &exec_there, error))
                return status;
            const std::string wrong = mirror.bring_back();
            return wrong.empty() ? HATTN_OK : fail(error, wrong);
        } catch (const std::runtime_error &failure) {
            return fail(error, failure.what());
        }
    };
}

} // namespace

Runner device_runner(const devices::Memory &memory)
{
    Runner runner;
    runner.workspace_init = [&memory](hattn_device *device, hattn_buffer workspace, uint64_t size, void *stream, hattn_error *error) {
        Mirror mirror(memory);
        if (hattn_status status = hattn_workspace_init(device, mirror.there(workspace), size, stream, error))
            return status;
        const std::string wrong = mirror.bring_back();
        return wrong.empty() ? HATTN_OK : fail(error, wrong);
    };
    runner.encode_keys = mirrored(memory, hattn_encode_keys);
    runner.encode_queries = mirrored(memory, hattn_encode_queries);
    runner.score = mirrored(memory, hattn_score);
    runner.topk = mirrored(memory, hattn_topk);
    runner.attend = mirrored(memory, hattn_attend);
    runner.merge = mirrored(memory, hattn_merge);
    runner.decode = mirrored(memory, hattn_decode);
    return runner;
}

} // namespace conformance
