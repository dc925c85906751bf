/* SPDX-License-Identifier: Apache-2.0
 * The problems of the list through the CUDA backend, whose kernels are run by the engine: waves of 32 lanes and of 64, in orders that
 * seeds choose.
 * Usage: simt_test [--seeds FIRST,COUNT] [--most KEYS_TIMES_HEADS], and GoogleTest's flags.
 */
#include <gtest/gtest.h>

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "conformance/checks.h"
#include "conformance/device_runner.h"
#include "conformance/instance.h"
#include "devices/memory.h"
#include "tests/simt/engine.h"

namespace conformance {
namespace {

/* What main was asked for. By default four minutes of one core. */
#ifdef __SANITIZE_ADDRESS__
uint64_t first_seed = 1, num_seeds = 1;
#else
uint64_t first_seed = 1, num_seeds = 2;
#endif
int64_t most_work = 2000;

/* And longer ones, whatever they take, for what short rows do not reach: rows that are scored anew, by keys (ties from
 * end to end) and by levels, top-k of a row by several blocks, lists and more positions than a block finds at a time, and of candidates
 * small probabilities and floors. */
const std::set<std::string> longer_problems = {
    "large_bf16_norms_budgets", "long_clustered", "long_equal_norms",      "long_sampled_apart_kind_0", "k_2100",
    "short_in_long_plan",       "heads_mlp",      "heads_floor_of_nothing"};

/* Each piece as little aligned as the backend allows, with what it may not touch right behind it. */
class SimtMemory : public devices::Memory
{
public:
    void *allocate(size_t size) const override
    {
#ifdef __SANITIZE_ADDRESS__
        void *address;
        if (posix_memalign(&address, kAlignment, size))
            throw std::bad_alloc();
        return address;
#else
        const size_t length = mapped(size);
        void *mapping = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapping == MAP_FAILED)
            throw std::bad_alloc();
        char *end = static_cast<char *>(mapping) + length - page();
        if (mprotect(end, page(), PROT_NONE))
            throw std::bad_alloc();
        char *address = end - (size + kAlignment - 1) / kAlignment * kAlignment;
        memset(address, 0xff, static_cast<size_t>(end - address));
        mappings_[address] = {mapping, length};
        return address;
#endif
    }

    void release(void *address) const override
    {
#ifdef __SANITIZE_ADDRESS__
        free(address);
#else
        const auto mapping = mappings_.find(address);
        munmap(mapping->second.first, mapping->second.second);
        mappings_.erase(mapping);
#endif
    }

    void write(void *to_device, const void *from_host, size_t size) const override
    {
        memcpy(to_device, from_host, size);
    }

    void read(void *to_host, const void *from_device, size_t size) const override
    {
        memcpy(to_host, from_device, size);
    }

    void fill(void *, size_t, uint64_t, uint64_t, uint64_t) const override {}
    void synchronize() const override {}
    devices::Properties properties() const override { return {}; }

private:
    static constexpr size_t kAlignment = 16;

    static size_t page() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

    static size_t mapped(size_t size) { return (size + 2 * page() - 1) / page() * page() + page(); }

    mutable std::map<void *, std::pair<void *, size_t>> mappings_;
};

/* One for each number of multiprocessors, of which a device is opened with what is configured then. */
std::map<int, std::unique_ptr<Session>> &sessions()
{
    static std::map<int, std::unique_ptr<Session>> all;
    return all;
}

Session &session()
{
    static const SimtMemory memory;
    std::unique_ptr<Session> &one = sessions()[simt::config().multiprocessors];
    if (!one) {
        one = std::make_unique<Session>(Target{"cuda", ""});
        DeviceCalls calls = {&memory, &memory};
        calls.leaves_workspaces = true;
        one->runner = device_runner(calls);
    }
    return *one;
}

/* What a fiber's instructions grow with. */
int64_t work_of(const Problem &problem)
{
    int64_t keys = 0, rows = 0;
    for (size_t b = 0; b < problem.lengths.size(); b++) {
        keys += problem.lengths[b];
        rows += problem.q_lens.empty() ? problem.q_len : problem.q_lens[b];
    }
    return keys * problem.num_kv_heads * problem.group *
           std::max<int64_t>(1, rows / std::max<int64_t>(1, problem.lengths.size()));
}

std::vector<Problem> small_problems()
{
    std::vector<Problem> tested;
    int left_out = 0;
    for (const Problem &problem : tested_problems()) {
        if (work_of(problem) <= most_work || longer_problems.count(problem.name))
            tested.push_back(problem);
        else
            left_out++;
    }
    fprintf(stderr, "%zu problems; %d are left out, of more than %lld keys times heads\n", tested.size(), left_out,
            static_cast<long long>(most_work));
    return tested;
}

std::vector<simt::Config> tested_configs()
{
    constexpr simt::Matrices of_wave32[] = {simt::Matrices::CUDA, simt::Matrices::WMMA_GFX11,
                                            simt::Matrices::WMMA_GFX12};
    std::vector<simt::Config> configs;
    for (uint64_t seed = first_seed; seed < first_seed + num_seeds; seed++) {
        const int multiprocessors = seed % 2 ? 3 : 8; /* no parts to join, or some */
        configs.push_back({32, 0, seed, of_wave32[seed % 3], multiprocessors});
        configs.push_back({64, 0, seed, simt::Matrices::MFMA, multiprocessors});
    }
    return configs;
}

using Param = std::pair<Problem, simt::Config>;

std::vector<Param> all_params()
{
    std::vector<Param> params;
    for (const Problem &problem : small_problems())
        for (const simt::Config &config : tested_configs())
            params.push_back({problem, config});
    return params;
}

std::string repeat_command(const Outcome &outcome) { return "simt_test --gtest_filter='*/" + outcome.problem + "_*'"; }

class Simt : public testing::TestWithParam<Param>
{
protected:
    static Trial &trial_of(const Problem &problem)
    {
        static std::pair<std::string, std::unique_ptr<Trial>> last;
        if (last.first != problem.name)
            last = {problem.name, std::make_unique<Trial>(problem, 1)};
        return *last.second;
    }
};

TEST_P(Simt, AgreesWithReference)
{
    const auto &[problem, config] = GetParam();
    simt::configure(config);
    const std::vector<Outcome> outcomes = check_trial(session(), trial_of(problem), "", nullptr);
    EXPECT_EQ(outcomes.size(), operation_names().size() - !problem.append - !(problem.tail > 0));
    for (const Outcome &outcome : outcomes)
        if (outcome.status != Status::PASSED)
            ADD_FAILURE() << outcome.text(repeat_command) << " --seeds " << config.seed << ",1";
}

INSTANTIATE_TEST_SUITE_P(All, Simt, testing::ValuesIn(all_params()), [](const auto &info) {
    return info.param.first.name + "_wave" + std::to_string(info.param.second.wave) + "_seed" +
           std::to_string(info.param.second.seed);
});

/* After the problems, as tests run in the order of their definition. */
TEST(SimtFlips, AreRare)
{
    for (const auto &[multiprocessors, session] : sessions())
        EXPECT_EQ(session->flips.verdict(), "") << multiprocessors << " multiprocessors";
}

} // namespace

int run_tests(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i++) {
        if (!strcmp(argv[i], "--seeds"))
            sscanf(argv[i + 1], "%lu,%lu", &first_seed, &num_seeds);
        if (!strcmp(argv[i], "--most"))
            most_work = atoll(argv[i + 1]);
    }
    testing::InitGoogleTest(&argc, argv);
    const int result = RUN_ALL_TESTS();
    const simt::Totals totals = simt::totals();
    fprintf(stderr, "%lu launches, %lu blocks, %lu meetings of warps, %lu switches of blocks\n", totals.launches,
            totals.blocks, totals.meetings, totals.switches);
    return result;
}

} // namespace conformance

int main(int argc, char **argv) { return conformance::run_tests(argc, argv); }
