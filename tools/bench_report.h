/* SPDX-License-Identifier: Apache-2.0
 * What hattn bench prints and writes: a row for each stage of each configuration.
 */
#ifndef HATTN_TOOLS_BENCH_REPORT_H
#define HATTN_TOOLS_BENCH_REPORT_H

#include <map>
#include <string>

#include "bench/workload.h"
#include "tools/device.h"
#include "tools/report.h"

/* One backend with one instruction set and number of threads. */
struct Config {
    std::unique_ptr<Device> device;
    std::unique_ptr<Plan> plan;
    int threads = 1;
    std::unique_ptr<devices::Recording> recordings[NUM_STAGES];
    int64_t calls[NUM_STAGES] = {}; /* of a recording */
    Samples us[NUM_STAGES];         /* of a call */
    Samples step_us;                /* of single decodes, each of other queries; empty: not timed */
    int64_t rescored = -1;          /* HATTN_COUNTER_RESCORED of these decodes; -1: not counted */
    Samples to_baseline;            /* ratios of rounds, where decodes of shapes take turns; empty: of none */
};

class BenchReport
{
public:
    explicit BenchReport(bool print)
        : print_(print), notes_(json_array()), devices_(json_array()), rows_(json_array()), turn_rows_(json_array())
    {
    }

    void note(const std::string &text);
    /* A device with memory of its own. */
    void device(const Device &device);
    /* Prints and keeps the stages of one config. */
    void add(const problems::Problem &problem, const Workload &workload, const Config &config, const Ceiling &ceiling);
    /* Keeps a config's decodes, and their ratios to a baseline's, of rounds in which shapes took turns. */
    void add_turns(const problems::Problem &problem, const Workload &workload, const Config &config);
    void print_summary() const;
    void put_into(json_t *root);

private:
    void print(const std::string &text) const;
    /* The config's decode against that of the same config of problem.baseline; NaN where that was not timed before. */
    double to_baseline(const problems::Problem &problem, const Config &config);
    void add_steps(const std::string &shape, const Config &config, json_t *json);

    bool print_;
    std::map<std::string, double> decode_us_; /* by shape and config */
    Json notes_, devices_, rows_, turn_rows_;
    Table summary_ =
        Table({"<shape", "<score", "bits", "<backend", "<isa", "threads", "decode us", "% of floor", "% stream",
               "dense us", "% stream", "dense/decode", "of baseline", "stream GB/s", "gather GB/s"});
    bool has_stages_ = false, has_steps_ = false, has_turns_ = false;
    Table steps_ = Table({"<shape", "<backend", "<isa", "threads", "steps", "mean us", "median us", "p99 us",
                          "% above 2 medians", "scored again"});
    Table turns_ = Table({"<shape", "<score", "bits", "<backend", "<isa", "threads", "decode us", "us min", "<baseline",
                          "ratio", "first quarter", "last quarter"});
};

#endif
