/* SPDX-License-Identifier: Apache-2.0
 * Who is tested (a backend, and for CPUs an instruction set) and how its calls are made: threads, teams, workspaces.
 */
#ifndef HATTN_CONFORMANCE_SESSION_H
#define HATTN_CONFORMANCE_SESSION_H

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "api/hattn.h"
#include "conformance/memory.h"
#include "problems/problems.h"

namespace conformance {

using namespace problems;

/* The calls under test; selftest.cc puts broken ones in. */
struct Runner {
    std::function<decltype(hattn_workspace_init)> workspace_init = hattn_workspace_init;
    std::function<decltype(hattn_encode_keys)> encode_keys = hattn_encode_keys;
    std::function<decltype(hattn_encode_queries)> encode_queries = hattn_encode_queries;
    std::function<decltype(hattn_score)> score = hattn_score;
    std::function<decltype(hattn_topk)> topk = hattn_topk;
    std::function<decltype(hattn_attend)> attend = hattn_attend;
    std::function<decltype(hattn_merge)> merge = hattn_merge;
    std::function<decltype(hattn_sum_values)> sum_values = hattn_sum_values;
    std::function<decltype(hattn_decode)> decode = hattn_decode;
};

/* Allowed differences from the reference that were seen on random data, and out of how many. */
struct Flips {
    uint64_t bits = 0, bit_flips = 0, weights = 0, weight_flips = 0;
    /* "" if their shares are within contract/flips.h, or there are too few to say. */
    std::string verdict() const;
};

class Session;

/* 0xAA, then initialised. */
class Workspace
{
public:
    Workspace(const Session &session, uint64_t size);
    hattn_buffer buffer() const { return {memory_.data(), 0}; }
    uint64_t size() const { return memory_.size(); }
    /* "" if the control region is zero and nothing was written past the end. */
    std::string check() const;

private:
    Region memory_;
    size_t control_size_ = 0;
};

struct Target {
    std::string backend, isa; /* isa "": the backend has none to choose */
    std::string text() const { return isa.empty() ? backend : backend + "/" + isa; }
};

inline std::ostream &operator<<(std::ostream &stream, const Target &target) { return stream << target.text(); }

/* Every known backend; the CPU once for each instruction set that hattn knows. */
std::vector<Target> all_targets();

/* An open device. */
class Session
{
public:
    explicit Session(Target target);
    ~Session();
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    Target target;
    std::string skipped; /* why there is no device; "" if there is one */
    hattn_device *device = nullptr;
    hattn_device_info info = {};
    Runner runner;
    Flips flips;

    /* One for all plans, at least of this size. */
    Workspace &shared_workspace(uint64_t size);

private:
    std::unique_ptr<Workspace> shared_;
};

/* One way to make a call. */
struct Manner {
    bool team; /* the threads are ours, not the device's */
    int threads;
    bool shared_workspace; /* that of all plans, instead of the plan's own */
    bool bare;             /* without the optional outputs */
    std::string text() const;
};

/* All manners that must give the same results; the first works on the calling thread. */
std::vector<Manner> all_manners(const Session &session);

using Call = std::function<hattn_status(const hattn_exec *, hattn_error *)>;

/* Makes the call; "" or what went wrong: a status, a fault (see run_guarded), a workspace left dirty. */
std::string run_in_manner(const Manner &manner, const Workspace &workspace, const std::string &context,
                          const Call &call);

} // namespace conformance
#endif
