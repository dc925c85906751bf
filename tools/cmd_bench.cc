/* SPDX-License-Identifier: Apache-2.0
 * hattn bench: the stages of decode steps of real shapes, each beside what this machine's memory allows. All backends,
 * instruction sets, thread counts and stages of a shape take turns in the same rounds, and so do the ceilings.
 */
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <thread>

#include "bench/workload.h"
#include "tools/args.h"
#include "tools/device.h"
#include "tools/report.h"

namespace {

using conformance::Problem;

/* K and V of one layer of what is timed unless --shape asks for more. */
const size_t DEFAULT_LAYER = size_t(640) << 20;
const size_t MEMORY_LIMIT = size_t(6) << 30;
/* Ceilings are sampled in every third round: one sample reads 3 GiB. */
const int CEILING_EVERY = 3;

/* On an idle machine the timed thread works or spins all the time: 0.99 and more. */
const double IDLE_SHARE = 0.95;

struct Options {
    std::string backend = "cpu", isa, shape = "default", threads, json;
    int64_t rounds = 12;
};

/* One backend with one instruction set and number of threads. */
struct Config {
    std::unique_ptr<Device> device;
    std::unique_ptr<Plan> plan;
    int threads;
    Samples us[NUM_STAGES];
};

struct ThreadCeiling {
    int threads;
    Ceiling ceiling;
};

std::vector<std::string> split(const std::string &list)
{
    std::vector<std::string> words;
    for (size_t start = 0; start <= list.size();) {
        size_t end = std::min(list.find(',', start), list.size());
        words.push_back(list.substr(start, end - start));
        start = end + 1;
    }
    return words;
}

std::vector<int> thread_counts(const std::string &list)
{
    int online = std::max(1, int(std::thread::hardware_concurrency()));
    std::vector<int> counts = {1};
    if (online > 1)
        counts.push_back(online);
    if (list.empty())
        return counts;
    counts.clear();
    for (const std::string &word : split(list)) {
        int64_t count = 0;
        if (!parse_number(word, &count) || count < 1 || count > online)
            throw UsageError("--threads is a list of numbers from 1 to " + std::to_string(online) + ", not '" + list +
                             "'");
        counts.push_back(int(count));
    }
    return counts;
}

bool isa_is_there(const std::string &isa)
{
    hattn_device_options options = sized<hattn_device_options>();
    hattn_error error = sized<hattn_error>();
    options.backend = "cpu";
    options.isa = isa.c_str();
    hattn_device *device = nullptr;
    hattn_status status = hattn_device_open(&options, &device, &error);
    if (status == HATTN_NO_DEVICE)
        return false;
    check(status, error, "isa " + isa);
    hattn_device_close(device);
    return true;
}

/* "" is the best there is, and the only one of backends other than the cpu. */
std::vector<std::string> choose_isas(const std::string &backend, const std::string &isa)
{
    if (backend != "cpu" || isa != "all")
        return {isa};
    std::vector<std::string> isas;
    for (const char *name : {"scalar", "neon", "avx2", "avx512"})
        if (isa_is_there(name))
            isas.push_back(name);
    return isas;
}

std::vector<Problem> choose_problems(const std::string &names)
{
    std::vector<Problem> all = conformance::bench_problems(), chosen;
    for (const std::string &name : split(names)) {
        size_t before = chosen.size();
        for (const Problem &problem : all)
            if (name == problem.name || name == "all" ||
                (name == "default" && Workload::layer_bytes(problem) <= DEFAULT_LAYER))
                chosen.push_back(problem);
        if (chosen.size() == before) {
            std::string known = "default, all";
            for (const Problem &problem : all)
                known += known.find(problem.name) == std::string::npos ? ", " + problem.name : "";
            throw UsageError("no shape '" + name + "'; there are " + known);
        }
    }
    return chosen;
}

std::vector<Config> make_configs(const Options &options, const std::vector<int> &threads, const hattn_problem &shape)
{
    std::vector<Config> configs;
    for (const std::string &backend : choose_backends(options.backend))
        for (const std::string &isa : choose_isas(backend, options.isa))
            for (int count : threads) {
                if (backend != "cpu" && count != threads[0])
                    continue;
                Config config;
                config.device.reset(new Device(backend, isa, count));
                config.plan.reset(new Plan(*config.device, shape, count));
                config.threads = backend == "cpu" ? count : 1;
                configs.push_back(std::move(config));
            }
    return configs;
}

void run_stage(Workload &workload, Stage stage, Config &config, bool keep)
{
    hattn_error error = sized<hattn_error>();
    double start = now_us();
    hattn_status status = workload.run(stage, config.plan->get(), config.plan->exec(), &error);
    double us = now_us() - start;
    check(status, error, STAGE_NAMES[stage]);
    if (keep)
        config.us[stage].add(us);
}

/* Returns the share of a processor that this thread had. */
double run_rounds(Workload &workload, std::vector<Config> &configs, std::vector<ThreadCeiling> &ceilings,
                  int64_t rounds, const std::string &name)
{
    Progress progress("hattn bench", int(rounds) + 1);
    const double start = now_us(), cpu_start = thread_cpu_us();
    for (int64_t round = -1; round < rounds; round++) { /* the first one warms up */
        progress.step(name);
        for (Config &config : configs) {
            workload.next_layer();
            for (int stage = 0; stage < NUM_STAGES; stage++)
                run_stage(workload, Stage(stage), config, round >= 0);
        }
        if (round >= 0 && round % CEILING_EVERY == 0)
            for (ThreadCeiling &one : ceilings)
                one.ceiling.sample();
    }
    return (thread_cpu_us() - cpu_start) / (now_us() - start);
}

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

std::string number(double value, int digits)
{
    return std::isfinite(value) ? format("%.*f", digits, value) : "-";
}

class BenchReport
{
public:
    explicit BenchReport(bool print) : print_(print), notes_(json_array()), rows_(json_array()) {}

    void note(const std::string &text)
    {
        json_array_append_new(notes_.get(), json_string(text.c_str()));
        print(text + "\n");
    }

    /* Prints and keeps the stages of one config. */
    void add(const Problem &problem, const Workload &workload, const Config &config, const Ceiling &ceiling)
    {
        const hattn_device_info &info = config.device->info();
        const std::string score = score_name(workload.shape());
        const int bits = workload.shape().code_bits;
        Table table({"<shape", "<score", "bits", "<backend", "<isa", "threads", "<stage", "us", "us min", "KiB",
                     "floor us", "ceiling GB/s", "% of floor", "% stream"});
        std::vector<Row> rows;
        for (int stage = 0; stage < NUM_STAGES; stage++) {
            rows.emplace_back(config.us[stage], workload.traffic(Stage(stage)), ceiling);
            const Row &row = rows.back();
            table.row({problem.name, score, std::to_string(bits), info.backend, info.isa,
                       std::to_string(config.threads), STAGE_NAMES[stage], number(row.us, 1), number(row.us_min, 1),
                       number(row.bytes / 1024, 0), number(row.floor_us, 1), number(row.ceiling_gbps, 1),
                       number(row.percent, 0), number(row.percent_stream, 0)});
            json_t *json = json_object();
            json_array_append_new(rows_.get(), json);
            json_put(json, "backend", json_string(info.backend));
            json_put(json, "isa", json_string(info.isa));
            json_put(json, "threads", json_integer(config.threads));
            json_put(json, "shape", json_string(problem.name.c_str()));
            json_put(json, "score", json_string(score.c_str()));
            json_put(json, "code_bits", json_integer(bits));
            json_put(json, "stage", json_string(STAGE_NAMES[stage]));
            json_put(json, "us", json_number(row.us));
            json_put(json, "us_min", json_number(row.us_min));
            json_put(json, "bytes", json_integer(json_int_t(row.bytes)));
            json_put(json, "floor_us", json_number(row.floor_us));
            json_put(json, "ceiling_gbps", json_number(row.ceiling_gbps));
            json_put(json, "percent", json_number(row.percent));
            json_put(json, "percent_stream", json_number(row.percent_stream));
            json_put(json, "stream_gbps", json_number(ceiling.stream_gbps()));
            json_put(json, "gather_gbps", json_number(ceiling.gather_gbps()));
        }
        print(table.str() + "\n");
        const Row &decode = rows[DECODE], &dense = rows[DENSE];
        summary_.row({problem.name, score, std::to_string(bits), info.backend, info.isa, std::to_string(config.threads),
                      number(decode.us, 0), number(decode.percent, 0), number(decode.percent_stream, 0),
                      number(dense.us, 0), number(dense.percent_stream, 0), number(dense.us / decode.us, 1),
                      number(ceiling.stream_gbps(), 1), number(ceiling.gather_gbps(), 1)});
    }

    void print_summary() const
    {
        print("% of floor: codes and maps at stream, rows at gather speed. % stream: all bytes at stream speed.\n" +
              summary_.str());
    }

    void put_into(json_t *root)
    {
        json_put(root, "notes", notes_.release());
        json_put(root, "rows", rows_.release());
    }

private:
    void print(const std::string &text) const
    {
        if (print_)
            std::fputs(text.c_str(), stdout);
        std::fflush(stdout);
    }

    bool print_;
    Json notes_, rows_;
    Table summary_ = Table({"<shape", "<score", "bits", "<backend", "<isa", "threads", "decode us", "% of floor",
                            "% stream", "dense us", "% stream", "dense/decode", "stream GB/s", "gather GB/s"});
};

void bench_problem(const Problem &problem, const Options &options, const std::vector<int> &threads, size_t limit,
                   BenchReport &report)
{
    if (Workload::layer_bytes(problem) > limit) {
        report.note(format("%s: left out, one layer is %zu MiB and this machine can spare %zu MiB",
                           problem.name.c_str(), Workload::layer_bytes(problem) >> 20, limit >> 20));
        return;
    }
    Workload workload(problem, limit);
    report.note(problem.name + ": " + workload.layers());
    std::vector<Config> configs = make_configs(options, threads, workload.shape());
    std::vector<ThreadCeiling> ceilings;
    for (const Config &config : configs)
        if (std::none_of(ceilings.begin(), ceilings.end(),
                         [&](const ThreadCeiling &one) { return one.threads == config.threads; }))
            ceilings.push_back({config.threads, workload.ceiling(config.threads)});

    hattn_error error = sized<hattn_error>();
    check(workload.prepare(configs.back().plan->get(), configs.back().plan->exec(), &error), error, problem.name);
    const double share = run_rounds(workload, configs, ceilings, options.rounds, problem.name);
    if (share < IDLE_SHARE)
        report.note(format("%s: this machine is busy, the timed thread had %.0f %% of a processor: long stages look "
                           "slower than short ones, quote nothing of this",
                           problem.name.c_str(), 100 * share));

    for (const Config &config : configs)
        for (const ThreadCeiling &one : ceilings)
            if (one.threads == config.threads)
                report.add(problem, workload, config, one.ceiling);
}

} // namespace

int cmd_bench(Args &args)
{
    Options options;
    args.about(
        "Times the stages of decode steps with cold caches and sets them against what this machine's memory allows,\n"
        "measured in the same rounds. The floor of a stage is the time that its bytes need: codes, norms and maps at\n"
        "the speed of streams, selected rows of K and V at that of gathers.");
    args.choice("backend", backend_choices(), "what to time", &options.backend);
    args.choice("isa", {"all", "scalar", "neon", "avx2", "avx512"}, "of the cpu; without it the best of this machine",
                &options.isa);
    args.text("shape", "NAME[,NAME]", "which shapes; default: those with layers up to 640 MiB; all", &options.shape);
    args.text("threads", "N[,M]", "of the cpu; without it 1 and all", &options.threads);
    args.number("rounds", "N", "timings of each stage", &options.rounds, 1, 1000);
    args.text("json", "FILE", "write JSON to this file; -: to stdout, instead of the tables", &options.json);
    if (!args.parse())
        return EXIT_OK;
    check_writable(options.json);

    const std::vector<int> threads = thread_counts(options.threads);
    const size_t available = available_memory(), limit = std::min(MEMORY_LIMIT, available / 2);
    BenchReport report(options.json != "-");
    for (const Problem &problem : choose_problems(options.shape))
        bench_problem(problem, options, threads, limit, report);
    report.print_summary();

    if (!options.json.empty()) {
        Json root(json_object());
        json_put(root.get(), "version", json_integer(hattn_version()));
        json_put(root.get(), "processor", json_string(Device("cpu", "", 0).info().name));
        json_put(root.get(), "processors", json_integer(std::thread::hardware_concurrency()));
        json_put(root.get(), "last_level_cache", json_integer(json_int_t(last_level_cache())));
        json_put(root.get(), "available_memory", json_integer(json_int_t(available)));
        json_put(root.get(), "rounds", json_integer(options.rounds));
        report.put_into(root.get());
        write_json(root.get(), options.json);
    }
    return EXIT_OK;
}
