/* SPDX-License-Identifier: Apache-2.0
 * The data of one benchmark problem, and its stages as calls. Everything that a model would find in DRAM is there
 * several times, as a model has several layers: each call takes the next one, so that nothing is left of it in any
 * cache. What a stage hands to the next within one step (weights, scores) is as warm as in a step.
 */
#ifndef HATTN_BENCH_WORKLOAD_H
#define HATTN_BENCH_WORKLOAD_H

#include <memory>
#include <string>
#include <vector>

#include "api/hattn.h"
#include "bench/ceiling.h"
#include "bench/key_codes.h"
#include "core/arguments.h"
#include "devices/buffer.h"
#include "problems/problems.h"

enum Stage { ENCODE, SCORE, TOPK, ATTEND, MERGE, DECODE, DENSE, ENCODE_KEYS, NUM_STAGES };
extern const char *const STAGE_NAMES[NUM_STAGES];

/* Who empties the caches between two calls of one stage. */
enum class Turns {
    STAGES, /* the other stages, which take turns with it: how hosts are timed */
    ALONE   /* nobody, a stage is replayed on its own: it must itself touch enough until it meets its data again */
};

/* The bytes that a stage cannot do without. */
struct Traffic {
    double streamed = 0, gathered = 0; /* from DRAM: codes, norms, maps, keys one after the other; rows by selection */
    double cached = 0;                 /* handed on by the stage before: no DRAM floor */
};

class Workload
{
public:
    /* Fills `memory`, which outlives it. With Turns::STAGES K and V rotate over at least 1 GiB, three last level caches and
     * two layers, codes over three caches; with Turns::ALONE each stage touches three caches before it starts again. Over
     * less where that would pass `memory_limit` bytes, but one layer always. Problems of Codes::TRACE need `trace`, of their
     * dims, which outlives the workload too. Throws what the memory throws. */
    Workload(const problems::Problem &problem, const devices::Memory &memory, Turns turns, size_t memory_limit,
             const TraceKeys *trace = nullptr);
    /* Of one layer, K, V and codes. */
    static size_t layer_bytes(const problems::Problem &problem);

    const hattn_problem &shape() const { return shape_; }
    /* Of the host with so many threads, or of the device that has the memory. They read the workload's K and V. */
    std::unique_ptr<Ceiling> host_ceiling(int num_threads) const;
    std::unique_ptr<Ceiling> device_ceiling(devices::Stopwatch &stopwatch, const devices::Probe &probe) const;
    Traffic traffic(Stage stage) const;
    /* Calls of a stage, one after the other, that touch three caches: what a recording of it must hold at least. */
    int64_t cold_calls(Stage stage) const;
    /* "8 layers of 128 MiB, 24 of 4 MiB of codes", and whether there should be more. */
    std::string layers() const;

    /* Makes weights and selections for the stages that start from them. Once, before run. */
    hattn_status prepare(const hattn_plan *plan, const hattn_exec *exec, hattn_error *error);
    /* Moves to the next layer of K and V: before the stages of one step. */
    void next_layer() { kv_layer_ = (kv_layer_ + 1) % num_kv_layers_; }
    /* Writes other queries for the call that was run, or recorded, when set_turn() was `turn`. */
    void renew_queries(size_t turn, uint64_t seed) { fill_queries(sets_[turn % sets_.size()], seed); }
    size_t set_turn() const { return set_; }
    hattn_status run(Stage stage, const hattn_plan *plan, const hattn_exec *exec, hattn_error *error);

private:
    /* Queries and what comes out of them; several, so that no call finds the rows of the last one in a cache. */
    struct Set {
        devices::Buffer q, weights, indices, counts, steps, shares, rests, value_sums, head_weights, head_steps;
    };
    struct Sizes {
        size_t num_pages, k, v, codes, norms, query_map, key_map;
        Sizes(const hattn_problem &shape, const problems::Problem &problem);
        size_t kv_layer() const { return k + v; }
        size_t code_layer() const { return codes + norms; }
        size_t map_layer() const { return query_map + key_map; }
    };

    void choose_rotation(Turns turns, size_t memory_limit);
    void fill_layers();
    void write_codes(uint8_t *layer, uint64_t seed);
    void write_query_maps();
    void fill_queries(Set &set, uint64_t seed);
    void make_sets();
    void make_beyond();
    void make_block_table();

    hattn_batch batch() const;
    Arguments arguments(const Set &set) const;
    Arguments with_next_codes(Arguments all); /* and maps */
    Arguments with_last_codes(Arguments all) const;
    hattn_decode_args decode_args();
    hattn_encode_keys_args encode_keys_args();
    Set &next_set() { return sets_[set_++ % sets_.size()]; }
    hattn_buffer k() const { return kv_.at(kv_layer_ * sizes_.kv_layer()); }
    hattn_buffer v() const { return kv_.at(kv_layer_ * sizes_.kv_layer() + sizes_.k * (sizes_.v > 0)); }
    GatherShape gather_shape() const;
    uint64_t new_key_bytes() const; /* of a token's keys that are to be encoded */

    problems::Problem problem_;
    const TraceKeys *trace_;
    const devices::Memory &memory_;
    hattn_problem shape_;
    Sizes sizes_;
    int num_sequences_, q_len_, num_tokens_, num_parts_, append_;
    int64_t num_rows_ = 0, num_keys_ = 0, num_scores_ = 0, num_kept_ = 0; /* of all sequences; of one head */
    size_t cache_; /* bytes to touch before anything is met again */
    size_t num_kv_layers_, num_code_layers_, num_map_layers_, num_sets_;
    size_t kv_layer_ = 0, code_layer_ = 0, map_layer_ = 0, set_ = 0;
    bool short_of_memory_ = false;
    devices::Buffer kv_, codes_;
    size_t maps_; /* where they start behind the codes: on the host they are in huge pages together */
    std::vector<Set> sets_;
    devices::Buffer seq_len_, q_start_, block_table_, slopes_, head_slopes_, value_lengths_;
    devices::Buffer scores_, out_, lse_, partial_out_, partial_lse_, new_codes_, new_norms_;
};

#endif
