/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_report.h"

#include <cmath>
#include <cstdio>

#include "tools/args.h"
#include "tools/output.h"

namespace {

std::string score_name(const hattn_problem &shape)
{
    std::string name = shape.score_kind == HATTN_SCORE_HAMMING ? "hamming" : format("weighted%d", shape.weight_bits);
    return name + (shape.key_norms ? "+norms" : "");
}

/* One stage of one config, as it is printed and written. */
struct Row {
    double us, us_min, bytes, floor_us, ceiling_gbps, percent, percent_stream; /* NaN: has no floor */

    Row(const Samples &samples, const Traffic &traffic, const Ceiling &ceiling)
    {
        us = samples.median();
        us_min = samples.min();
        double from_memory = traffic.streamed + traffic.gathered;
        bytes = from_memory + traffic.cached;
        floor_us = ceiling_gbps = percent = percent_stream = std::nan("");
        if (from_memory > 0) {
            floor_us = traffic.streamed / ceiling.stream_gbps() * 1e-3;
            if (traffic.gathered > 0)
                floor_us += traffic.gathered / ceiling.gather_gbps() * 1e-3;
            ceiling_gbps = from_memory / floor_us * 1e-3;
            percent = 100 * floor_us / us;
            percent_stream = 100 * from_memory / ceiling.stream_gbps() * 1e-3 / us;
        }
    }
};

void put_config(const problems::Problem &problem, const Workload &workload, const Config &config, json_t *json)
{
    const hattn_device_info &info = config.device->info();
    json_put(json, "backend", json_text(info.backend));
    json_put(json, "isa", json_text(info.isa));
    json_put(json, "threads", json_integer(config.threads));
    json_put(json, "shape", json_text(problem.name));
    json_put(json, "score", json_text(score_name(workload.shape())));
    json_put(json, "code_bits", json_integer(workload.shape().code_bits));
}

std::string number(double value, int digits) { return std::isfinite(value) ? format("%.*f", digits, value) : "-"; }

} // namespace

void BenchReport::note(const std::string &text)
{
    json_array_append_new(notes_.get(), json_text(text));
    print(text + "\n");
}

void BenchReport::device(const Device &device)
{
    const hattn_device_info &info = device.info();
    const devices::Properties properties = device.memory().properties();
    json_t *json = json_object();
    json_array_append_new(devices_.get(), json);
    json_put(json, "backend", json_text(info.backend));
    json_put(json, "name", json_text(info.name));
    json_put(json, "isa", json_text(info.isa));
    json_put(json, "driver", json_text(properties.driver));
    json_put(json, "runtime", json_text(properties.runtime));
    json_put(json, "last_level_cache", json_integer(json_int_t(properties.cache)));
    json_put(json, "memory", json_integer(json_int_t(properties.total)));
    json_put(json, "available_memory", json_integer(json_int_t(properties.available)));
    print(format("%s: %s, driver %s, runtime %s, %zu MiB of last level cache\n", info.backend, info.name,
                 properties.driver.c_str(), properties.runtime.c_str(), properties.cache >> 20));
}

void BenchReport::add(const problems::Problem &problem, const Workload &workload, const Config &config,
                      const Ceiling &ceiling)
{
    const hattn_device_info &info = config.device->info();
    const std::string score = score_name(workload.shape());
    const int bits = workload.shape().code_bits;
    Table table({"<shape", "<score", "bits", "<backend", "<isa", "threads", "<stage", "us", "us min", "KiB", "floor us",
                 "ceiling GB/s", "% of floor", "% stream"});
    std::vector<Row> rows;
    for (int stage = 0; stage < NUM_STAGES; stage++) {
        rows.emplace_back(config.us[stage], workload.traffic(Stage(stage)), ceiling);
        const Row &row = rows.back();
        table.row({problem.name, score, std::to_string(bits), info.backend, info.isa, std::to_string(config.threads),
                   STAGE_NAMES[stage], number(row.us, 1), number(row.us_min, 1), number(row.bytes / 1024, 0),
                   number(row.floor_us, 1), number(row.ceiling_gbps, 1), number(row.percent, 0),
                   number(row.percent_stream, 0)});
        json_t *json = json_object();
        json_array_append_new(rows_.get(), json);
        put_config(problem, workload, config, json);
        json_put(json, "stage", json_text(STAGE_NAMES[stage]));
        if (stage == DECODE)
            add_steps(problem.name, config, json);
        json_put(json, "us", json_number(row.us));
        json_put(json, "us_min", json_number(row.us_min));
        if (stage == DECODE && !problem.baseline.empty())
            json_put(json, "baseline", json_text(problem.baseline));
        json_put(json, "bytes", json_integer(json_int_t(row.bytes)));
        json_put(json, "floor_us", json_number(row.floor_us));
        json_put(json, "ceiling_gbps", json_number(row.ceiling_gbps));
        json_put(json, "percent", json_number(row.percent));
        json_put(json, "percent_stream", json_number(row.percent_stream));
        json_put(json, "stream_gbps", json_number(ceiling.stream_gbps()));
        json_put(json, "gather_gbps", json_number(ceiling.gather_gbps()));
        json_put(json, "copy_gbps", json_number(ceiling.copy_gbps()));
    }
    print(table.str() + "\n");
    has_stages_ = true;
    const Row &decode = rows[DECODE], &dense = rows[DENSE];
    const double to_baseline = this->to_baseline(problem, config);
    summary_.row({problem.name, score, std::to_string(bits), info.backend, info.isa, std::to_string(config.threads),
                  number(decode.us, 1), number(decode.percent, 0), number(decode.percent_stream, 0),
                  number(dense.us, 1), number(dense.percent_stream, 0), number(dense.us / decode.us, 1),
                  number(to_baseline, 2), number(ceiling.stream_gbps(), 1), number(ceiling.gather_gbps(), 1)});
}

double BenchReport::to_baseline(const problems::Problem &problem, const Config &config)
{
    const hattn_device_info &info = config.device->info();
    const std::string of = format(" %s %s %d", info.backend, info.isa, config.threads);
    const double us = decode_us_[problem.name + of] = config.us[DECODE].median();
    const auto baseline = decode_us_.find(problem.baseline + of);
    return baseline == decode_us_.end() ? std::nan("") : us / baseline->second;
}

void BenchReport::add_steps(const std::string &shape, const Config &config, json_t *json)
{
    const Samples &us = config.step_us;
    if (us.empty())
        return;
    const hattn_device_info &info = config.device->info();
    const double median = us.median(), late = 100 * us.share_above(2 * median);
    has_steps_ = true;
    steps_.row({shape, info.backend, info.isa, std::to_string(config.threads), std::to_string(us.size()),
                number(us.mean(), 1), number(median, 1), number(us.quantile(0.99), 1), number(late, 1),
                config.rescored < 0 ? "-" : std::to_string(config.rescored)});
    json_t *steps = json_object();
    json_put(json, "steps", steps);
    json_put(steps, "number", json_integer(json_int_t(us.size())));
    json_put(steps, "mean_us", json_number(us.mean()));
    json_put(steps, "median_us", json_number(median));
    json_put(steps, "p99_us", json_number(us.quantile(0.99)));
    json_put(steps, "percent_above_2_medians", json_number(late));
    json_put(steps, "rescored", config.rescored < 0 ? json_null() : json_integer(config.rescored));
}

void BenchReport::add_turns(const problems::Problem &problem, const Workload &workload, const Config &config)
{
    const hattn_device_info &info = config.device->info();
    const std::string score = score_name(workload.shape());
    const int bits = workload.shape().code_bits;
    const Samples &us = config.us[DECODE], &ratios = config.to_baseline;
    const bool has_baseline = !ratios.empty();
    const double none = std::nan(""), ratio = has_baseline ? ratios.median() : none,
                 low = has_baseline ? ratios.quantile(0.25) : none, high = has_baseline ? ratios.quantile(0.75) : none;
    has_turns_ = true;
    turns_.row({problem.name, score, std::to_string(bits), info.backend, info.isa, std::to_string(config.threads),
                number(us.median(), 1), number(us.min(), 1), has_baseline ? problem.baseline : "-", number(ratio, 3),
                number(low, 3), number(high, 3)});
    json_t *json = json_object();
    json_array_append_new(turn_rows_.get(), json);
    put_config(problem, workload, config, json);
    json_put(json, "us", json_number(us.median()));
    json_put(json, "us_min", json_number(us.min()));
    if (!has_baseline)
        return;
    json_put(json, "baseline", json_text(problem.baseline));
    json_put(json, "ratio", json_number(ratio));
    json_put(json, "ratio_first_quarter", json_number(low));
    json_put(json, "ratio_last_quarter", json_number(high));
}

void BenchReport::print_summary() const
{
    if (has_stages_)
        print("% of floor: codes and maps at stream, rows at gather speed. % stream: all bytes at stream speed.\n" +
              summary_.str());
    if (has_turns_)
        print("Decodes of all shapes in turns. ratio: to the baseline's decode in the same round, median and quarters "
              "of the rounds.\n" +
              turns_.str());
    if (has_steps_)
        print("\nSingle decodes, each of other queries. scored again: rows and heads whose sample had promised too "
              "much.\n" +
              steps_.str());
}

void BenchReport::put_into(json_t *root)
{
    json_put(root, "notes", notes_.release());
    json_put(root, "devices", devices_.release());
    json_put(root, "rows", rows_.release());
    if (has_turns_)
        json_put(root, "turns", turn_rows_.release());
}

void BenchReport::print(const std::string &text) const
{
    std::string why;
    if (print_)
        std::fputs(text.c_str(), stdout);
    if (!flush_stdout(&why))
        throw UsageError(why);
}
