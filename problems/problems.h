/* SPDX-License-Identifier: Apache-2.0
 * What is tested and timed: named problems. A problem says everything that is needed to build a hattn_problem and its
 * data; shape.h and conformance/instance.h build them. The list serves the tests, `hattn verify` and `hattn bench`.
 */
#ifndef HATTN_PROBLEMS_PROBLEMS_H
#define HATTN_PROBLEMS_PROBLEMS_H

#include "api/hattn.h"

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace problems {

enum class Pattern {
    RANDOM,
    ZERO,          /* queries, keys, codes, norms: all scores tie */
    EQUAL,         /* all keys of a sequence are the same, codes all ones */
    ALTERNATING,   /* two keys and codes take turns */
    CLUSTERED,     /* keys and codes come in runs of near copies */
    BY_TIME,       /* scores rise with the position */
    OVERFLOW,      /* all weights at their maximum against codes of all ones: the largest score there is */
    NOT_A_NUMBER,  /* among the random keys, queries and norms */
    LAST_IS_NONE,  /* each sequence's last key and value are no numbers: tokens before it may not notice */
    BIASED,        /* keys near one, as large biases make them: logits are large and close to each other */
    HUGE_VALUES,   /* equal keys, values and parts whose sums overflow where their means do not */
    INFINITE,      /* infinities of either sign among the random keys, one in a query */
    NOTHING,       /* every logit is -inf; values are no numbers */
    LOWEST_WEIGHT, /* -128 among the weights of hattn_score */
    SUBNORMAL,     /* numbers below the smallest normal one of their type in queries, keys and values */
    SAMPLED_APART /* codes are near copies of one but for those that kernels sample, which are random: what the sample promises is not there */
};

enum class Strides {
    COMPACT,     /* as hattn_problem_complete gives them */
    PADDED,      /* its order, 8 elements of padding in each dimension */
    ODD,         /* 3 elements: rows start at odd addresses */
    TOKEN_MAJOR, /* caches [page][slot][head] */
    HEAD_MAJOR,  /* heads outermost in every tensor */
    BROADCAST    /* no strides: one query vector for all heads, one map for all heads */
};

enum class Budgets { NONE, EACH, PER_SEQUENCE, PER_HEAD, ONE }; /* NONE: null; the others by broadcast strides */
enum class Scales { NONE, ONE, PER_HEAD };
/* Of a benchmark's keys. */
enum class Codes {
    RANDOM,
    RUNS,  /* neighbours are alike: run_length keys share a random code, of which 5.5 % of the bits flip in each */
    TRACE, /* of the keys of a trace in examples/, with its map and queries */
    SAMPLED_APART, /* all keys are alike but those that the CUDA kernels sample, which are random: what the sample promises is not there */
    EQUAL
};
enum class Tag { SMALL, MEDIUM, BENCH }; /* tests run the first two, benchmarks the last */

/* Zeros mean what they mean in a hattn_problem. */
struct Problem {
    std::string name;
    Tag tag = Tag::SMALL;
    Pattern pattern = Pattern::RANDOM;
    Strides strides = Strides::COMPACT;

    int num_kv_heads = 2, group = 4;
    bool codes_per_query_head = false, selections_per_query_head = false;
    int head_dim_qk = 64, head_dim_v = 0;
    int code_bits = 128;
    int32_t q_dtype = HATTN_F16, kv_dtype = HATTN_F16, map_dtype = 0, out_dtype = 0;
    int32_t map_kind = HATTN_MAP_LINEAR;
    int hidden[2] = {0, 0};
    int32_t query_map_dtype = 0;               /* 0: as the key map */
    int query_hidden[2] = {0, 0};              /* likewise */
    bool key_bias = false, shared_map = false; /* shared: the key map's memory serves both sides */
    int32_t score_kind = HATTN_SCORE_HAMMING;
    int weight_bits = 4;
    bool key_norms = false;

    int page_size = 16;
    bool ordered_pages = false;           /* else in random order */
    bool shared_prefix = false;           /* sequences share whole pages of old keys with the first one */
    std::vector<int> lengths = {70, 129}; /* seq_len of each sequence */
    int q_len = 1;                        /* query tokens of every sequence, where q_lens is empty */
    std::vector<int> q_lens;              /* of each sequence: given through q_start */
    int padding_rows = 0;                 /* with q_lens */
    int max_length = 0;                   /* 0: the longest */

    int k = 32, num_sink = 0, num_recent = 0;
    Budgets budgets = Budgets::NONE;
    std::vector<int> budget_values = {0, 1, 20, 31, 32, 33, 1000000, -5}; /* in turn */
    float min_probability = 0; /* a floor; with it, or a tail, steps of hattn_topk come from a list, too */
    int min_k = 0;
    float tail = 0;
    float min_value_weight = 0; /* with a tail */
    int num_candidates = 0;     /* scores per query head */
    bool value_slots = false;   /* states of values in another order than sequences */
    bool odd_slopes = false;    /* zero, negative, huge ones and NaN among them */
    float scale = 0, soft_cap = 0;
    bool sink_logits = false;
    Scales kv_scales = Scales::NONE;
    bool odd_scales = false;    /* 0, negative and large ones among them */
    bool k_scale_alone = false; /* no v_scale */
    bool v_inside_k = false;
    int v_offset = 0;         /* where V's row starts inside K's, in elements */
    bool kv_on_host = false;  /* K and V are HATTN_MEMORY_PINNED_HOST */
    bool v_on_device = false; /* then K alone is */

    bool append = false;
    int num_tokens = 37;      /* of hattn_encode_keys */
    bool slot_mapping = true; /* false: token t goes to slot t */
    int num_parts = 3;        /* of hattn_merge */

    /* Benchmarks. */
    std::string set;      /* empty: timed by default; else only if the set or the problem is asked for */
    std::string baseline; /* a problem before this one with the same work, in an easier form */
    Codes codes = Codes::RANDOM;
    int run_length = 0;        /* of Codes::RUNS */
    std::string trace;         /* of Codes::TRACE */
    bool first_alone = false;  /* codes, of the first sequence alone; the others' are random */
    bool nan_query = false;    /* in the first row */
    bool outlier_norm = false; /* of one key of each head */
    int max_sequences = 0;     /* of the plan; 0: as many as there are */
    int64_t pool_keys = 0;     /* sequences share pages where they need more; 0: they do not */

    int repetitions = 0; /* in how many manners, drawn by the seed, each operation is run again; 0: in all */
};

inline std::ostream &operator<<(std::ostream &stream, const Problem &problem) { return stream << problem.name; }

/* The list, in order; names are unique. */
const std::vector<Problem> &all_problems();
/* Those that tests run: all but the benchmark's. With HATTN_PROBLEMS=I/N in the environment, as the sanitizers run, the I-th (from 0) of every N. */
std::vector<Problem> tested_problems();
std::vector<Problem> bench_problems();
/* Added to the benchmark's: codes of keys that are alike (set "keys"), plans that are larger than what they run (set "plans"). */
void add_key_problems(std::vector<Problem> *all);
void add_plan_problems(std::vector<Problem> *all);

/* One out of the whole space of valid problems, small enough for a scalar backend; called "random-SEED". */
Problem random_problem(uint64_t seed);

/* The same space with small dims and short caches, each run again in three manners; called "small-SEED". */
Problem small_problem(uint64_t seed);

/* "random" or "small" for the name of such a problem, else "". */
std::string random_kind(const std::string &problem);

} // namespace problems
#endif
