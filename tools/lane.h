/* SPDX-License-Identifier: Apache-2.0
 * One lane of a decode race: a backend with one hash map of a trace, its codes and its plan.
 */
#ifndef HATTN_TOOLS_LANE_H
#define HATTN_TOOLS_LANE_H

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/arguments.h"
#include "tools/device.h"
#include "tools/trace.h"

struct LaneSettings {
    int32_t score_kind = 0, num_selection_heads = 0, bits = 0;
    int32_t topk = 0, sink = 0, recent = 0, threads = 0;
    bool norms = false;
    /* A floor, by the slopes of the map, which must be there; 0: none. */
    float min_probability = 0;
    int32_t min_k = 0;
    float tail = 0;             /* of a tail, likewise; 0: none */
    float min_value_weight = 0; /* with a tail */
    int32_t num_candidates = 0; /* scores per query head, likewise; 0: none */
};

/* A backend's device and the trace in its memory, shared by its lanes. */
class LaneDevice
{
public:
    LaneDevice(const std::string &backend, const std::string &isa, int32_t threads, const Trace &trace);

    const Device &device() const { return device_; }

private:
    friend class Lane;
    Device device_;
    devices::Buffer q_, k_new_, k_cache_, v_cache_,
        seq_len_; /* of each query: one row of one sequence is decoded at a time */
};

/* A query as encoding makes it. */
struct EncodedQuery {
    std::vector<int8_t> weights;      /* [Hs, bits] */
    std::vector<int32_t> steps;       /* [Hs]; without a floor or a tail empty */
    std::vector<int8_t> head_weights; /* [Hq, bits]; without candidates empty */
    std::vector<int32_t> head_steps;  /* [Hq], likewise */
};

/* What a call gives: everything that can be looked at, and how long it took. */
struct StepResult {
    double time_us = 0;
    EncodedQuery encoded;
    std::vector<int32_t> indices, counts; /* [Hs, k], [Hs] */
    std::vector<float> out, lse;          /* [Hq, dv], [Hq] */
    std::vector<uint32_t> shares;         /* [Hs, k], with candidates [Hq, k]; of select with a tail */
    std::vector<int64_t> rests;           /* [Hs] or [Hq], likewise */
};

class Lane
{
public:
    /* Makes the plan; the references must outlive the lane. Throws UsageError with the plan's text if it says no. */
    Lane(const LaneDevice &device, const Trace &trace, const TraceMap &map, const LaneSettings &settings);

    const hattn_problem &problem() const { return problem_; }
    const LaneDevice &device() const { return device_; }

    /* Another floor, or least weight of values: a new plan, with the keys that were encoded. */
    void set_min_probability(float min_probability);
    void set_min_value_weight(float min_value_weight);

    void encode_keys();
    EncodedQuery encode_query(int query);
    /* One decode step of a query, and dense attention of it (only out and lse). */
    StepResult decode(int query);
    StepResult attend_dense(int query);
    /* From weights and from the codes (and norms) of another lane of the same map: scores [Hs, max_length], which are nothing
     * past the query's own keys; indices and counts. */
    devices::Buffer score(int query, const std::vector<int8_t> &weights, const Lane &codes) const;
    StepResult select(int query, const EncodedQuery &encoded, const Lane &codes) const;
    /* Of a selection head; there is a floor or a tail. */
    float slope(int head) const { return slope_values_[head]; }
    float head_slope(int head) const { return head_slope_values_[head]; }

    /* Of the keys that were encoded. */
    const uint32_t *code(int head, int64_t key) const;
    uint16_t norm(int head, int64_t key) const;
    /* Addresses of the backend's memory. */
    const hattn_map_buffers &key_map() const { return key_map_; }
    const hattn_map_buffers &query_map() const { return query_map_; }

private:
    /* Of the calls for one query. */
    Arguments arguments(int query) const;
    const devices::Memory &memory() const { return device_.device().memory(); }
    /* Brings the sums of values to what a step of the query has before it. */
    void sum_values(int query) const;
    /* Makes the call and returns its microseconds. */
    double time(const std::function<void()> &call) const;

    const LaneDevice &device_;
    const Trace &trace_;
    const int32_t threads_;
    hattn_problem problem_;
    Plan plan_;
    std::vector<float> slope_values_, head_slope_values_;
    devices::Buffer map_memory_[2][6];
    hattn_map_buffers key_map_ = {}, query_map_ = {};
    devices::Buffer codes_, norms_, weights_, slopes_, steps_, indices_, counts_, out_, lse_, value_sums_,
        value_lengths_, head_weights_, head_slopes_, head_steps_;
    std::vector<uint32_t> encoded_codes_; /* on the host */
    std::vector<uint16_t> encoded_norms_;
};

#endif
