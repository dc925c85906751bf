/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_trace.h"

#include <cstring>

#include "tools/args.h"
#include "tools/lane.h"

namespace {

std::vector<uint16_t> halves(const std::vector<uint8_t> &bytes)
{
    std::vector<uint16_t> values(bytes.size() / 2);
    std::memcpy(values.data(), bytes.data(), values.size() * 2);
    return values;
}

} // namespace

TraceKeys load_trace_keys(const std::string &path)
{
    const Trace trace = load_trace(path);
    const TraceMap *map = trace.find("hata128");
    if (!map || map->kind != HATTN_MAP_LINEAR || map->bits != 128)
        throw UsageError(path + ": has no linear map hata128 of 128 bits");
    if (trace.q_dtype != HATTN_F16 || map->query.dtype != HATTN_F16)
        throw UsageError(path + ": queries and map are not fp16");
    LaneSettings settings;
    settings.score_kind = HATTN_SCORE_HAMMING;
    settings.num_selection_heads = trace.num_kv_heads;
    settings.bits = map->bits;
    settings.topk = settings.threads = 1;
    const LaneDevice device("cpu", "", 1, trace);
    Lane lane(device, trace, *map, settings);
    lane.encode_keys();

    TraceKeys keys;
    keys.num_heads = trace.num_kv_heads;
    keys.num_keys = trace.num_keys;
    keys.num_words = map->bits / 32;
    for (int head = 0; head < keys.num_heads; head++)
        for (int64_t key = 0; key < keys.num_keys; key++)
            keys.codes.insert(keys.codes.end(), lane.code(head, key), lane.code(head, key) + keys.num_words);
    keys.num_queries = trace.num_queries;
    keys.group = trace.num_q_heads / trace.num_kv_heads;
    keys.head_dim = trace.head_dim_qk;
    keys.q = halves(trace.q);
    keys.query_map = halves(map->query.weight[0]);
    return keys;
}
