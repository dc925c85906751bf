/* SPDX-License-Identifier: Apache-2.0
 * What a plan accepts runs: random valid problems through every call; decode selects what the separate calls select;
 * threads and teams change nothing.
 */
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "contract/attention.h"
#include "tests/api_job.h"

namespace {

class Random
{
public:
    explicit Random(unsigned seed) : engine_(seed) {}
    int range(int low, int high) { return low + static_cast<int>(engine_() % static_cast<unsigned>(high - low + 1)); }
    bool chance(int percent) { return range(0, 99) < percent; }
    int32_t among(std::initializer_list<int32_t> values)
    {
        return values.begin()[range(0, static_cast<int>(values.size()) - 1)];
    }

private:
    std::mt19937 engine_;
};

hattn_problem random_problem(Random &r)
{
    hattn_problem p = sized<hattn_problem>();
    int group = r.among({1, 2, 3, 4, 8});
    p.num_kv_heads = r.range(1, 3);
    p.num_q_heads = group * p.num_kv_heads;
    p.num_selection_heads = r.chance(30) ? p.num_q_heads : p.num_kv_heads;
    p.num_code_heads = p.num_selection_heads == p.num_q_heads && r.chance(60) ? p.num_q_heads : p.num_kv_heads;
    p.head_dim_qk = r.among({32, 40, 64, 72, 128});
    p.head_dim_v = r.among({32, 40, 64, 72, 128});
    p.code_bits = r.among({32, 40, 64, 72, 128, 200});
    p.score_kind = r.among({HATTN_SCORE_HAMMING, HATTN_SCORE_WEIGHTED});
    p.weight_bits = r.range(2, 8);
    p.key_norms = r.chance(30);
    p.page_size = r.among({0, 0, 1, 7, 16, 64});
    p.max_sequences = r.range(1, 3);
    p.max_q_len = r.range(1, 8);
    p.max_rows = p.max_sequences * p.max_q_len + (r.chance(30) ? r.range(1, 3) : 0);
    p.max_length = r.among({1, 2, 31, 64, 100, 257});
    p.k = r.chance(20) ? p.max_length + r.range(0, 5) : r.range(1, p.max_length);
    p.num_sink = r.chance(40) ? r.range(0, p.k) : 0;
    p.num_recent = r.chance(40) ? r.range(0, p.k - p.num_sink) : 0;
    p.soft_cap = r.chance(20) ? 5.0f : 0.0f;
    p.per_head_kv_scales = r.chance(50);
    p.q.dtype = r.among({HATTN_F32, HATTN_F16, HATTN_BF16});
    p.k_cache.dtype = r.among({HATTN_F32, HATTN_F16, HATTN_BF16, HATTN_F8_E4M3});
    p.out.dtype = r.chance(50) ? static_cast<int32_t>(HATTN_F32) : p.q.dtype;
    if (r.chance(25)) {
        p.map_kind = HATTN_MAP_MLP;
        for (hattn_map *map : {&p.key_map, &p.query_map}) {
            map->hidden[0] = 8 * r.range(1, 4);
            map->hidden[1] = 8 * r.range(1, 4);
        }
    }
    p.k_cache.memory = p.v_cache.memory = r.among({HATTN_MEMORY_DEVICE, HATTN_MEMORY_PINNED_HOST});
    if (!p.key_norms && r.chance(40)) {
        p.tail = r.chance(50) ? 0.5f : 1.0f;
        p.min_value_weight = r.chance(30) ? 0.01f : 0;
        p.min_probability = r.chance(50) ? 0.01f : 0.0f;
        p.min_k = p.min_probability > 0 ? r.range(0, p.k) : 0;
    }
    if (!p.key_norms && p.score_kind == HATTN_SCORE_WEIGHTED && r.chance(40))
        p.num_candidates = r.range(p.k, 4 * p.k);
    p = completed(p);
    if (r.chance(50)) {
        for (hattn_tensor *t : {&p.q, &p.k_new, &p.weights, &p.scores, &p.indices, &p.counts, &p.out, &p.lse}) {
            int64_t gap = r.range(0, 3);
            t->stride[1] += gap;
            t->stride[0] += gap * p.num_q_heads + r.range(0, 5);
        }
        p.k_cache.stride[0] += 8;
    }
    return p;
}

/* Ragged rows: any number of tokens, any length, some padding. */
std::vector<int64_t> set_ragged_batch(Job &job, Random &r)
{
    auto *q_start = static_cast<int32_t *>(job.batch.q_start.data),
         *seq_len = static_cast<int32_t *>(job.batch.seq_len.data);
    std::vector<int64_t> lengths(job.p.max_rows, 0);
    for (int b = 0; b < job.p.max_sequences; b++) {
        int tokens = r.range(0, job.p.max_q_len);
        q_start[b + 1] = q_start[b] + tokens;
        seq_len[b] = r.chance(20) ? r.range(-2, 2) : r.range(0, job.p.max_length + 3);
        for (int t = 0; t < tokens; t++)
            lengths[q_start[b] + t] = std::clamp(seq_len[b] - tokens + t + 1, 0, job.p.max_length);
    }
    return lengths;
}

template <typename T>
void for_each_row(const Job &job, const hattn_tensor &t, int heads, int64_t n, hattn_buffer buffer, T use)
{
    for (int64_t row = 0; row < job.p.max_rows; row++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t i = 0; i < n; i++)
                use(row, h, i, hattn_reference_load(buffer.data, t.dtype, row * t.stride[0] + h * t.stride[1] + i));
}

class AcceptedTest : public testing::TestWithParam<const char *>
{
protected:
    void expect_ok(hattn_status status, const char *what, const hattn_error &error)
    {
        EXPECT_EQ(HATTN_OK, status) << what << ": " << error.text;
    }

    void run(Job &job, unsigned seed)
    {
        Random r(seed);
        const hattn_problem &p = job.p;
        std::vector<int64_t> lengths = set_ragged_batch(job, r);
        hattn_error error = fresh_error();
#define RUN(call, args) expect_ok(hattn_##call(job.plan.get(), &args, &job.exec, &error), #call, error)
        auto keys = job.encode_keys_args();
        RUN(encode_keys, keys);
        auto decode = job.decode_args(true);
        decode.append = r.chance(50);
        decode.sink_logits = r.chance(50) ? job.sink_logits : hattn_buffer{};
        decode.budgets = r.chance(50) ? job.budgets : hattn_buffer{};
        RUN(decode, decode);
        if (p.tail > 0) {
            auto sum_values = job.sum_values_args();
            RUN(sum_values, sum_values);
        }
        auto weights = job.bytes(job.weights), indices = job.bytes(job.indices), counts = job.bytes(job.counts),
             out = job.bytes(job.out);
        auto lse = job.bytes(job.lse);

        auto queries = job.encode_queries_args();
        RUN(encode_queries, queries);
        auto score = job.score_args();
        RUN(score, score);
        auto topk = job.topk_args();
        topk.budgets = decode.budgets;
        for (hattn_buffer b : {job.indices, job.counts})
            std::fill(job.bytes(b).begin(), job.bytes(b).end(), 0xaa);
        RUN(topk, topk);
        EXPECT_TRUE(indices == job.bytes(job.indices));
        EXPECT_TRUE(counts == job.bytes(job.counts));
        for (int64_t row = 0; row < p.max_rows; row++)
            for (int64_t s = 0; s < p.num_selection_heads; s++)
                for (int64_t i = 0; i < p.code_bits; i++) {
                    int64_t at = row * p.weights.stride[0] + s * p.weights.stride[1] + i;
                    ASSERT_TRUE(lengths[row] == 0 || job.bytes(job.weights)[at] == weights[at])
                        << "row " << row << " bit " << i;
                }

        auto attend = job.attend_args(true);
        attend.sink_logits = decode.sink_logits;
        RUN(attend, attend);
        check_close(job, lengths, out, lse, decode.sink_logits.data);
        attend = job.attend_args(false);
        attend.sink_logits = decode.sink_logits;
        RUN(attend, attend);
        check_finite(job, lengths, attend.sink_logits.data);
        auto merge = job.merge_args();
        RUN(merge, merge);
        check_finite(job, std::vector<int64_t>(p.max_rows, 1), false);
#undef RUN
        EXPECT_TRUE(job.workspace_guard_intact());
    }

    /* Numbers everywhere, and -inf where there is nothing to attend to. */
    void check_finite(Job &job, const std::vector<int64_t> &lengths, bool sinks)
    {
        const hattn_problem &p = job.p;
        for_each_row(
            job, p.out, p.num_q_heads, p.head_dim_v, job.out, [&](int64_t row, int64_t h, int64_t i, double x) {
                ASSERT_TRUE(lengths[row] > 0 ? std::isfinite(x) : x == 0) << row << " " << h << " " << i << " " << x;
            });
        for_each_row(job, p.lse, p.num_q_heads, 1, job.lse, [&](int64_t row, int64_t h, int64_t, double x) {
            ASSERT_TRUE(lengths[row] > 0 || sinks ? std::isfinite(x) : x == -INFINITY) << row << " " << h << " " << x;
        });
    }

    /* Two results that may each be as far from the truth as docs/numerics.md allows. */
    void check_close(Job &job, const std::vector<int64_t> &lengths, const std::vector<uint8_t> &out,
                     const std::vector<uint8_t> &lse, bool sinks)
    {
        const hattn_problem &p = job.p;
        const double eps = contract::sum_error(contract::sums_of(p.q.dtype)), lse_eps = 4 * eps;
        double largest = 0;
        int64_t v_size = static_cast<int64_t>(job.bytes(job.v_cache).size()) / (p.v_cache.dtype == HATTN_F32       ? 4
                                                                                : p.v_cache.dtype == HATTN_F8_E4M3 ? 1
                                                                                                                   : 2);
        for (int64_t i = 0; i < v_size; i++)
            largest = std::max(largest, std::fabs(hattn_reference_load(job.v_cache.data, p.v_cache.dtype, i)));
        for_each_row(
            job, p.out, p.num_q_heads, p.head_dim_v, job.out, [&](int64_t row, int64_t h, int64_t i, double x) {
                double other =
                    hattn_reference_load(out.data(), p.out.dtype, row * p.out.stride[0] + h * p.out.stride[1] + i);
                ASSERT_TRUE(std::fabs(x - other) <= 2 * eps * largest)
                    << row << " " << h << " " << i << ": " << x << " " << other;
            });
        for_each_row(job, p.lse, p.num_q_heads, 1, job.lse, [&](int64_t row, int64_t h, int64_t, double x) {
            double other = hattn_reference_load(lse.data(), HATTN_F32, row * p.lse.stride[0] + h * p.lse.stride[1]);
            bool empty = lengths[row] == 0 || counts_of(job, row, h) == 0;
            ASSERT_TRUE(empty && !sinks ? x == -INFINITY && other == x
                                        : std::fabs(x - other) <= 2 * lse_eps * std::max(1.0, std::fabs(x)))
                << row << " " << h << ": " << x << " " << other;
        });
    }

    int32_t counts_of(Job &job, int64_t row, int64_t h)
    {
        const hattn_problem &p = job.p;
        int64_t s = h * p.num_selection_heads / p.num_q_heads;
        return static_cast<const int32_t *>(job.counts.data)[row * p.counts.stride[0] + s * p.counts.stride[1]];
    }

    Device device_{GetParam()};
};

TEST_P(AcceptedTest, RandomProblemsRun)
{
    for (unsigned seed = 0; seed < 60; seed++) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Random r(seed);
        Job job(device_, random_problem(r), seed);
        run(job, seed + 1000);
        if (HasFailure())
            return;
    }
}

class Barrier
{
public:
    explicit Barrier(int size) : size_(size) {}
    static void wait(void *context) { static_cast<Barrier *>(context)->wait(); }

private:
    void wait()
    {
        std::unique_lock<std::mutex> lock(mutex_);
        int round = round_;
        if (++waiting_ == size_) {
            waiting_ = 0;
            round_++;
            all_here_.notify_all();
        } else {
            all_here_.wait(lock, [&] { return round != round_; });
        }
    }

    int size_, waiting_ = 0, round_ = 0;
    std::mutex mutex_;
    std::condition_variable all_here_;
};

/* Everything that the calls write. */
std::vector<std::vector<uint8_t>> results(Job &job)
{
    std::vector<std::vector<uint8_t>> all;
    for (hattn_buffer b : {job.codes, job.weights, job.scores, job.indices, job.counts, job.out, job.lse})
        all.push_back(job.bytes(b));
    if (job.p.num_candidates)
        for (hattn_buffer b : {job.head_weights, job.head_steps})
            all.push_back(job.bytes(b));
    if (job.p.tail > 0)
        for (hattn_buffer b : {job.shares, job.rests, job.value_sums, job.value_lengths})
            all.push_back(job.bytes(b));
    return all;
}

void run_all(Job &job, const hattn_exec &exec)
{
    auto keys = job.encode_keys_args();
    auto queries = job.encode_queries_args();
    auto score = job.score_args();
    auto topk = job.topk_args();
    auto attend = job.attend_args(true);
    auto decode = job.decode_args(true);
    hattn_error error = fresh_error();
    EXPECT_EQ(HATTN_OK, hattn_encode_keys(job.plan.get(), &keys, &exec, &error)) << error.text;
    EXPECT_EQ(HATTN_OK, hattn_encode_queries(job.plan.get(), &queries, &exec, &error)) << error.text;
    EXPECT_EQ(HATTN_OK, hattn_score(job.plan.get(), &score, &exec, &error)) << error.text;
    EXPECT_EQ(HATTN_OK, hattn_topk(job.plan.get(), &topk, &exec, &error)) << error.text;
    if (job.p.tail > 0) {
        auto sum_values = job.sum_values_args();
        EXPECT_EQ(HATTN_OK, hattn_sum_values(job.plan.get(), &sum_values, &exec, &error)) << error.text;
    }
    EXPECT_EQ(HATTN_OK, hattn_attend(job.plan.get(), &attend, &exec, &error)) << error.text;
    EXPECT_EQ(HATTN_OK, hattn_decode(job.plan.get(), &decode, &exec, &error)) << error.text;
}

TEST_P(AcceptedTest, ThreadsAndTeamsChangeNothing)
{
    for (unsigned seed = 0; seed < 12; seed++) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Random r(seed + 5000);
        hattn_problem p = random_problem(r);
        Job alone(device_, p, seed);
        alone.exec.num_threads = 1;
        run_all(alone, alone.exec);
        Job many(device_, p, seed);
        many.exec.num_threads = 3;
        run_all(many, many.exec);
        EXPECT_TRUE(results(alone) == results(many));

        Job teamed(device_, p, seed);
        Barrier barrier(3);
        std::vector<std::thread> threads;
        for (int rank = 0; rank < 3; rank++)
            threads.emplace_back([&, rank] {
                hattn_team team = {3, rank, Barrier::wait, &barrier};
                hattn_exec exec = teamed.exec;
                exec.team = &team;
                run_all(teamed, exec);
            });
        for (std::thread &thread : threads)
            thread.join();
        EXPECT_TRUE(results(alone) == results(teamed));
        EXPECT_TRUE(teamed.workspace_guard_intact());
    }
}

INSTANTIATE_TEST_SUITE_P(Backends, AcceptedTest, testing::Values("reference", "cpu"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
