/* SPDX-License-Identifier: Apache-2.0
 * A test of the tests: runners that are broken on purpose must be caught, each for the right reason.
 */
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backends/backend.h"
#include "tests/selftest.h"
#include "tools/verify_command.h"

namespace conformance {
namespace {

/* After the real call of OP, if it went well, runs BODY, which sees plan's problem as p, args and exec. */
#define AFTER(OP, BODY)                                                                               \
    [](Runner &runner) {                                                                              \
        runner.OP = [](const hattn_plan *plan, const hattn_##OP##_args *args, const hattn_exec *exec, \
                       hattn_error *error) {                                                          \
            hattn_status status = hattn_##OP(plan, args, exec, error);                                \
            const hattn_problem &p = plan->problem;                                                   \
            (void)p;                                                                                  \
            BODY;                                                                                     \
            return status;                                                                            \
        };                                                                                            \
    }

/* The real call of OP with arguments that BODY has changed. */
#define WITH(OP, BODY)                                                                                \
    [](Runner &runner) {                                                                              \
        runner.OP = [](const hattn_plan *plan, const hattn_##OP##_args *args, const hattn_exec *exec, \
                       hattn_error *error) {                                                          \
            hattn_##OP##_args changed = *args;                                                        \
            BODY;                                                                                     \
            return hattn_##OP(plan, &changed, exec, error);                                           \
        };                                                                                            \
    }

/* The real call of OP, after which the T at element INDEX of FIELD is as it was before. */
#define KEEP(OP, FIELD, T, INDEX)                                                                     \
    [](Runner &runner) {                                                                              \
        runner.OP = [](const hattn_plan *plan, const hattn_##OP##_args *args, const hattn_exec *exec, \
                       hattn_error *error) {                                                          \
            const hattn_problem &p = plan->problem;                                                   \
            T *kept = elements<T>(args->FIELD) + (INDEX), value = *kept;                              \
            hattn_status status = hattn_##OP(plan, args, exec, error);                                \
            *kept = value;                                                                            \
            (void)p;                                                                                  \
            return status;                                                                            \
        };                                                                                            \
    }

int64_t first_code(const hattn_problem &p, const hattn_encode_keys_args *args)
{
    int64_t slot = elements<int64_t>(args->slot_mapping)[0];
    return slot / p.page_size * p.codes.stride[0] + slot % p.page_size * p.codes.stride[1];
}

/* The first slot of page 0 that no token goes to. */
int64_t free_code(const hattn_problem &p, const hattn_encode_keys_args *args)
{
    const int64_t *slots = elements<int64_t>(args->slot_mapping);
    int64_t slot = 0;
    while (std::find(slots, slots + args->num_tokens, slot) != slots + args->num_tokens)
        slot++;
    return slot / p.page_size * p.codes.stride[0] + slot % p.page_size * p.codes.stride[1];
}

int64_t last_index(const hattn_problem &p, int32_t num_rows)
{
    return (num_rows - 1) * p.indices.stride[0] + (p.num_selection_heads - 1) * p.indices.stride[1] + p.k - 1;
}

/* Adds 0 * K[j] to the first output, j being the first position that row 0 does not select. Without pages. */
void touch_unselected(const hattn_problem &p, hattn_buffer k_cache, const int32_t *indices, int32_t count,
                      hattn_buffer out)
{
    int32_t j = 0;
    while (std::find(indices, indices + count, j) != indices + count)
        j++;
    *elements<float>(out) += 0 * elements<float>(k_cache)[j * p.k_cache.stride[1]];
}

int threads_of(const hattn_exec *exec) { return exec->team ? exec->team->size : exec->num_threads; }

bool is_first(const hattn_exec *exec) { return !exec->team || exec->team->rank == 0; }

struct Broken {
    const char *name, *backend, *problem, *op;
    void (*break_it)(Runner &);
    const char *expected; /* part of the message */
};

const Broken all_broken[] = {
    {"wrong bit", "reference", "plain", "encode_keys",
     AFTER(encode_keys, elements<uint32_t>(args->codes)[first_code(p, args)] ^= 1), "bit 0, z"},
    {"stale bits", "reference", "bits_40", "encode_keys",
     AFTER(encode_keys, elements<uint32_t>(args->codes)[first_code(p, args) + 1] |= 1u << 31), "past code_bits"},
    {"skipped token written", "reference", "plain", "encode_keys",
     AFTER(encode_keys, elements<uint32_t>(args->codes)[free_code(p, args)] = 0), "must not be written"},
    {"code not written", "reference", "plain", "encode_keys", KEEP(encode_keys, codes, uint32_t, first_code(p, args)),
     "codes["},
    {"norm 2 ulp off", "reference", "norms", "encode_keys",
     AFTER(encode_keys, elements<uint16_t>(args->norms)[first_code(p, args) / 4] += 2), "norms["},
    {"last token forgotten", "reference", "plain", "encode_keys", WITH(encode_keys, changed.num_tokens--), "codes["},
    {"key scale ignored", "reference", "f8_scale_per_head", "encode_keys",
     WITH(encode_keys, changed.k_scale.data = nullptr), "norms["},
    {"key bias ignored", "reference", "key_bias", "encode_keys",
     WITH(encode_keys, changed.key_map.bias[0].data = nullptr), "bit"},

    {"weight off by one", "reference", "weight_bits_4", "encode_queries",
     AFTER(encode_queries, elements<int8_t>(args->weights)[5]++), "weights[0,0,5]"},
    {"vote lost", "reference", "plain", "encode_queries", AFTER(encode_queries, elements<int8_t>(args->weights)[5]--),
     "undecided"},
    {"last weight not written", "reference", "plain", "encode_queries",
     KEEP(encode_queries, weights, int8_t, args->num_rows *p.weights.stride[0] - 1), "weights[1,1,127]"},
    {"last row forgotten", "reference", "plain", "encode_queries", WITH(encode_queries, changed.num_rows--),
     "weights[1,0,0]"},
    {"written before the start", "reference", "plain", "encode_queries",
     AFTER(encode_queries, elements<int8_t>(args->weights)[-1] = 1), ""},

    {"score off by one", "reference", "plain", "score", AFTER(score, elements<uint16_t>(args->scores)[60]++),
     "scores[0,0,60]"},
    {"scaled score off by one ulp", "reference", "norms", "score", AFTER(score, elements<uint32_t>(args->scores)[60]++),
     "scores[0,0,60]"},
    {"score past the length", "reference", "plain", "score", AFTER(score, elements<uint16_t>(args->scores)[70] = 0),
     "scores[0,0,70] must not be written"},
    {"tail not written", "reference", "plain", "score", KEEP(score, scores, uint16_t, 69), "scores[0,0,69]"},
    {"NaN score", "reference", "norms", "score", AFTER(score, elements<float>(args->scores)[0] = NAN), "got nan"},

    {"ties to the largest position", "reference", "equal", "topk",
     AFTER(topk, for (int i = 0; i < p.k; i++) elements<int32_t>(args->indices)[i] = 300 - p.k + i), "indices[0,0,0]"},
    {"tie dropped", "reference", "equal", "topk",
     AFTER(topk, elements<int32_t>(args->counts)[0]--; elements<int32_t>(args->indices)[p.k - 1] = -1),
     "counts[0,0,0]"},
    {"unsorted", "reference", "plain", "topk",
     AFTER(topk, std::swap(elements<int32_t>(args->indices)[0], elements<int32_t>(args->indices)[1])),
     "indices[0,0,0]"},
    {"count wrong", "reference", "plain", "topk", AFTER(topk, elements<int32_t>(args->counts)[1]++), "counts[0,1,0]"},
    {"no -1 past the count", "reference", "k_past_length", "topk", KEEP(topk, indices, int32_t, p.k - 1),
     "indices[0,0,499]"},
    {"one past the end", "reference", "plain", "topk",
     AFTER(topk, elements<int32_t>(args->indices)[last_index(p, args->batch.num_rows) + 1] = -1), ""},
    {"budgets ignored", "reference", "budgets_each", "topk", WITH(topk, changed.budgets.data = nullptr), "counts["},
    {"gap written", "reference", "strides_padded", "topk", AFTER(topk, elements<int32_t>(args->indices)[p.k] = -1),
     "wrote outside"},

    {"unselected row read", "reference", "strides_odd_contiguous_norms", "attend_sparse",
     AFTER(attend, touch_unselected(p, args->k_cache, elements<int32_t>(args->indices),
                                    *elements<int32_t>(args->counts), args->out)),
     "got nan"},
    {"out slightly wrong", "reference", "q_f32_kv_f32", "attend_sparse",
     AFTER(attend, elements<float>(args->out)[3] += 1e-4f), "out[0,0,3]"},
    {"f16 out wrong", "reference", "plain", "attend_dense", AFTER(attend, elements<uint16_t>(args->out)[3] ^= 1 << 12),
     "out[0,0,3]"},
    {"NaN out", "reference", "plain", "attend_sparse", AFTER(attend, elements<uint16_t>(args->out)[3] = 0x7e00),
     "got nan"},
    {"NaN swallowed", "reference", "nan", "attend_dense", AFTER(attend, elements<uint16_t>(args->out)[0] = 0),
     "expected nan"},
    {"lse off", "reference", "q_f32_kv_f32", "attend_dense",
     AFTER(attend, if (args->lse.data) elements<float>(args->lse)[1] += 1e-3f), "lse[0,1,0]"},
    {"empty lse not -inf", "reference", "lengths_around_k", "attend_dense",
     AFTER(attend, if (args->lse.data) elements<float>(args->lse)[0] = -1e30f), "expected -inf"},
    {"sink logits ignored", "reference", "sink_logits", "attend_sparse",
     WITH(attend, changed.sink_logits.data = nullptr), ""},
    {"value scale ignored", "reference", "f8_one_scale", "attend_dense", WITH(attend, changed.v_scale.data = nullptr),
     "out["},
    {"dense where sparse was asked", "reference", "plain", "attend_sparse",
     WITH(attend, changed.indices.data = changed.counts.data = nullptr), "got nan"},
    {"input written", "reference", "plain", "attend_dense", AFTER(attend, *elements<uint16_t>(args->q) = 0),
     "wrote to q, an input"},
    {"out not written", "reference", "plain", "attend_dense", KEEP(attend, out, uint16_t, 5), ""},

    {"share off by one", "reference", "tail_hamming", "topk", AFTER(topk, elements<uint32_t>(args->shares)[p.k]++),
     "shares[0,1,0]"},
    {"rest off by one", "reference", "tail_hamming", "topk", AFTER(topk, elements<int64_t>(args->rests)[3]++),
     "rests[1,1,0]"},
    {"tail ignored", "reference", "tail_hamming", "attend_sparse",
     WITH(attend, changed.shares = changed.rests = changed.value_sums = changed.value_lengths = {}), "out["},
    {"sum of values off by one", "reference", "tail_hamming", "sum_values",
     AFTER(sum_values, elements<int64_t>(args->value_sums)[5]++), "value_sums[0,0,5]"},
    {"length of sums not told", "reference", "tail_hamming", "sum_values", KEEP(sum_values, value_lengths, int32_t, 2),
     "value_lengths[1,0,0]"},

    {"part ignored", "reference", "plain", "merge", WITH(merge, changed.num_parts--), ""},
    {"merged lse off", "reference", "plain", "merge",
     AFTER(merge, if (args->lse.data) elements<float>(args->lse)[0] += 0.5f), "lse[0,0,0]"},
    {"depends on the optional output", "reference", "plain", "merge",
     AFTER(merge, if (!args->lse.data) elements<uint16_t>(args->out)[0] ^= 1), "no optional outputs"},

    {"weights of its own", "reference", "plain", "decode",
     AFTER(decode, if (args->weights.data) elements<int8_t>(args->weights)[7] += 1), "weights[0,0,7]"},
    {"selection of its own", "reference", "budgets_each", "decode", WITH(decode, changed.budgets.data = nullptr),
     "counts["},
    {"last index wrong", "reference", "plain", "decode",
     AFTER(decode, if (args->indices.data) elements<int32_t>(args->indices)[p.k - 1]++), "indices[0,0,31]"},
    {"decode's lse off", "reference", "plain", "decode",
     AFTER(decode, if (args->lse.data) elements<float>(args->lse)[0] += 0.5f), "lse[0,0,0]"},
    {"decode touches an unselected row", "reference", "strides_odd_contiguous_norms", "decode",
     AFTER(decode, if (args->indices.data) touch_unselected(p, args->k_cache, elements<int32_t>(args->indices),
                                                            *elements<int32_t>(args->counts), args->out)),
     "run again"},
    {"nothing appended", "reference", "plain_append", "decode_append", WITH(decode, changed.append = 0), "codes["},
    {"old code changed", "reference", "page_0", "decode_append", AFTER(decode, elements<uint32_t>(args->codes)[0] ^= 2),
     "codes[0,0,0,0]"},
    {"fails", "reference", "plain", "decode", WITH(decode, changed.struct_size = 1), "returned 'invalid argument'"},

    {"depends on the threads", "cpu", "plain", "attend_dense",
     AFTER(attend, if (!exec->team && threads_of(exec) == 3) elements<uint16_t>(args->out)[0] ^= 1), "threads: 3"},
    {"depends on the team", "cpu", "plain", "score",
     AFTER(score, if (exec->team && threads_of(exec) == 7 && is_first(exec)) elements<uint16_t>(args->scores)[0] ^= 1),
     "a team of 7"},
    {"depends on the workspace", "cpu", "plain", "score",
     AFTER(score,
           if (exec->workspace_size != hattn_plan_workspace_size(plan)) elements<uint16_t>(args->scores)[0] ^= 1),
     "shared workspace"},
    {"workspace left dirty", "cpu", "plain", "topk", AFTER(topk, *elements<uint8_t>(exec->workspace) = 1),
     "control region"},
    {"past the workspace", "cpu", "plain", "topk",
     AFTER(topk, elements<uint8_t>(exec->workspace)[exec->workspace_size] = 1), "past"},
};

Session *open_session(const Broken &broken)
{
    return new Session({broken.backend, std::string(broken.backend) == "cpu" ? "scalar" : ""});
}

/* Tensors lie at the end of their pages for one seed and at the start for another. */
const uint64_t SEEDS[] = {1, 2, 3, 4};

TEST(Selftest, BrokenRunnersAreCaught)
{
    for (const Broken &broken : all_broken) {
        SCOPED_TRACE(broken.name);
        std::unique_ptr<Session> session(open_session(broken));
        ASSERT_EQ(session->skipped, "");
        const char *problem = broken.problem, *op = broken.op;
        for (uint64_t seed : SEEDS) {
            session->runner = Runner();
            Trial trial(problem_called(problem),
                        seed); /* of both: what the reference said to the first must not hide the second */
            Outcome sound = outcome_of(*session, trial, op);
            EXPECT_EQ(sound.status, Status::PASSED) << "unbroken: " << sound.text(verify_command);
            broken.break_it(session->runner);
            Outcome caught = outcome_of(*session, trial, op);
            EXPECT_EQ(caught.status, Status::FAILED);
            EXPECT_NE(caught.message.find(broken.expected), std::string::npos) << caught.text(verify_command);
        }
    }
}

TEST(Selftest, EveryOperationHasABrokenRunner)
{
    for (const std::string &op : operation_names()) {
        bool found = false;
        for (const Broken &broken : all_broken)
            found = found || op == broken.op;
        EXPECT_TRUE(found) << op;
    }
}

TEST(Selftest, FailureSaysHowToRepeat)
{
    Session session({"reference", ""});
    session.runner.score = [](const hattn_plan *, const hattn_score_args *, const hattn_exec *, hattn_error *) {
        return HATTN_OK;
    };
    std::string text = outcome_of(session, "plain", "score", 9).text(verify_command);
    EXPECT_NE(text.find("hattn verify --backend reference --filter plain/score --seed 9"), std::string::npos) << text;
}

} // namespace
} // namespace conformance
