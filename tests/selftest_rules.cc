/* SPDX-License-Identifier: Apache-2.0
 * Conformance by its rules: what is allowed passes and is counted, what is a little more is caught, golden values hold.
 */
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

#include "backends/backend.h"
#include "reference/reference.h"
#include "tests/selftest.h"
#include "tools/verify_command.h"

namespace conformance {
namespace {

TEST(Selftest, ManyFlipsAreCaught)
{
    Flips flips;
    EXPECT_EQ(flips.verdict(), "");
    flips.bits = 1000000;
    flips.bit_flips = 100;
    flips.weights = 10000;
    flips.weight_flips = 100;
    EXPECT_EQ(flips.verdict(), "");
    flips.bit_flips++;
    EXPECT_NE(flips.verdict().find("code bits"), std::string::npos);
    flips.bit_flips--;
    flips.weight_flips++;
    EXPECT_NE(flips.verdict().find("weights"), std::string::npos);
}

/* Flips every key bit whose |z| is within share * bound. */
Runner flipping_keys(double share)
{
    Runner runner;
    runner.encode_keys = [share](const hattn_plan *plan, const hattn_encode_keys_args *args, const hattn_exec *exec,
                                 hattn_error *error) {
        hattn_status status = hattn_encode_keys(plan, args, exec, error);
        const hattn_problem &p = plan->problem;
        for (int32_t t = 0; t < args->num_tokens; t++) {
            int64_t slot = elements<int64_t>(args->slot_mapping)[t];
            for (int c = 0; slot >= 0 && c < p.num_code_heads; c++) {
                double x[576], z[512], bound[512];
                for (int i = 0; i < p.head_dim_qk; i++)
                    x[i] = hattn_reference_load(elements<void>(args->k_new), p.k_new.dtype,
                                                t * p.k_new.stride[0] + c * p.k_new.stride[1] + i);
                hattn_reference_project(&p, &p.key_map, &args->key_map, x, c, z, bound);
                uint32_t *code = elements<uint32_t>(args->codes) + slot / p.page_size * p.codes.stride[0] +
                                 slot % p.page_size * p.codes.stride[1] + c * p.codes.stride[2];
                for (int r = 0; r < p.code_bits; r++)
                    if (std::fabs(z[r]) <= share * bound[r])
                        code[r / 32] ^= 1u << r % 32;
            }
        }
        return status;
    };
    return runner;
}

TEST(Selftest, RoundingsPassAndCount)
{
    Session session({"reference", ""});
    session.runner = flipping_keys(1);
    Outcome allowed = outcome_of(session, "many_tokens", "encode_keys", 1);
    EXPECT_EQ(allowed.status, Status::PASSED) << allowed.text(verify_command);
    EXPECT_GT(session.flips.bit_flips, 0u);
    session.runner = flipping_keys(20);
    Outcome caught = outcome_of(session, "many_tokens", "encode_keys", 1);
    EXPECT_EQ(caught.status, Status::FAILED);
    EXPECT_NE(caught.message.find("bound"), std::string::npos) << caught.text(verify_command);
}

/* Queries with ten bits of mantissa, as TF32 has them: what fp32 inputs never go through. */
TEST(Selftest, ShortenedQueriesAreCaught)
{
    for (const char *name : {"q_f32_kv_f32", "q_f32_kv_f32_logits_115", "q_f32_kv_f32_logits_1200"}) {
        Session session({"cpu", "scalar"});
        session.runner.attend = [](const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                                   hattn_error *error) {
            const int64_t n = args->batch.num_rows * plan->problem.q.stride[0];
            std::vector<uint32_t> q(elements<uint32_t>(args->q), elements<uint32_t>(args->q) + n);
            for (uint32_t &bits : q)
                bits = (bits + 0x1000) & ~0x1fffu;
            hattn_attend_args changed = *args;
            changed.q = {q.data(), 0};
            return hattn_attend(plan, &changed, exec, error);
        };
        EXPECT_EQ(outcome_of(session, name, "attend_dense", 1).status, Status::FAILED) << name;
    }
}

/* The number after `what` in a message. */
double number_after(const std::string &message, const char *what)
{
    const size_t at = message.find(what);
    return at == std::string::npos ? NAN : std::strtod(message.c_str() + at + strlen(what), nullptr);
}

/* out or lse off by a share of what is allowed, which a first, broken run has told. */
TEST(Selftest, TwiceTheAllowedErrorIsCaught)
{
    for (const char *name :
         {"plain", "q_f32_kv_f32", "q_f32_kv_f16_logits_115", "q_f32_kv_f32_logits_1200", "large_logits_sinks"}) {
        for (bool lse : {false, true}) {
            const int32_t dtype = lse ? static_cast<int32_t>(HATTN_F32) : problem_called(name).q_dtype;
            Session session({"cpu", "scalar"});
            double value = NAN;
            session.runner.attend = [&](const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                                        hattn_error *error) {
                hattn_status status = hattn_attend(plan, args, exec, error);
                if (!lse || args->lse.data)
                    hattn_reference_store(elements<void>(lse ? args->lse : args->out), dtype, 0, value);
                return status;
            };
            const std::string told = outcome_of(session, name, "attend_dense", 1).message;
            const double exact = number_after(told, "exactly "), tolerance = number_after(told, "tolerance ");
            ASSERT_GT(tolerance, 0) << name << ": " << told;
            for (double share : {-2.0, -0.1, 0.1, 2.0}) { /* a little: out may be rounded to fp16 */
                value = exact + share * tolerance;
                const Outcome outcome = outcome_of(session, name, "attend_dense", 1);
                EXPECT_EQ(outcome.status, std::fabs(share) < 1 ? Status::PASSED : Status::FAILED)
                    << share << " of the allowed error: " << outcome.text(verify_command);
            }
        }
    }
}

class KeptValues : public Golden
{
public:
    std::string begin(const Instance &) override { return ""; }
    void compared(const Comparison &comparison) override { wrong += comparison.wrong; }
    void put(const std::string &key, int32_t, const std::vector<int64_t> &,
             const std::vector<uint8_t> &elements) override
    {
        if (!reading)
            kept[key] = elements;
    }
    bool get(const std::string &key, std::vector<uint8_t> *elements) override
    {
        if (!reading)
            return false;
        *elements = kept.at(key);
        return true;
    }
    bool reading = false;
    int wrong = 0;
    std::map<std::string, std::vector<uint8_t>> kept;
};

TEST(Selftest, GoldenValuesOfOneBackendHoldForAnother)
{
    KeptValues golden;
    Session reference({"reference", ""}), cpu({"cpu", "scalar"});
    const Problem &problem = problem_called("norms");
    for (const Outcome &outcome : check_problem(reference, problem, 1, "", &golden))
        EXPECT_EQ(outcome.status, Status::PASSED) << outcome.text(verify_command);
    golden.reading = true;
    for (const Outcome &outcome : check_problem(cpu, problem, 1, "", &golden))
        EXPECT_EQ(outcome.status, Status::PASSED) << outcome.text(verify_command);
    EXPECT_EQ(golden.wrong, 0);
    for (auto &[key, elements] : golden.kept) {
        if (key.find("/margins") != std::string::npos || key.find("/ties") != std::string::npos)
            continue; // for others to judge by
        std::vector<uint8_t> saved = elements;
        golden.wrong = 0;
        for (uint8_t &byte : elements)
            byte ^= 0x40;
        bool caught = false;
        for (const Outcome &outcome : check_problem(cpu, problem, 1, "", &golden))
            caught =
                caught || (outcome.status == Status::FAILED && outcome.message.find("golden") != std::string::npos);
        EXPECT_TRUE(caught) << key;
        EXPECT_GT(golden.wrong, 0) << key;
        elements = saved;
    }
}

} // namespace
} // namespace conformance
