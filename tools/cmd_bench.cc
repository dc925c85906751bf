/* SPDX-License-Identifier: Apache-2.0
 * hattn bench: the stages of decode steps of real shapes, each beside what the memory allows that they work in. All
 * backends, instruction sets, thread counts and stages of a shape that share a memory take turns in the same rounds, and
 * so do the ceilings.
 */
#include <algorithm>
#include <map>
#include <memory>

#include "bench/workload.h"
#include "core/sized.h"
#include "tools/args.h"
#include "tools/bench_report.h"
#include "tools/bench_steps.h"
#include "tools/bench_trace.h"
#include "tools/bench_turns.h"

namespace {

using problems::Problem;

/* Of the host: K and V of one layer of what is timed unless --shape asks for more, and all that may be allocated. */
const size_t DEFAULT_LAYER = size_t(640) << 20;
const size_t MEMORY_LIMIT = size_t(6) << 30;
/* A device's recording takes longer than this, so that its time stamps (half a microsecond) do not show. */
const double MIN_RECORDING_US = 2000;
/* Ceilings are sampled in every third round: one sample reads 3 GiB. */
const int CEILING_EVERY = 3;

/* On an idle machine the timed thread works or spins all the time: 0.99 and more. */
const double IDLE_SHARE = 0.95;

struct Options {
    std::string backend = "cpu", isa, shape = "default", threads, json, traces = "examples";
    int64_t rounds = 12, steps = 0;
    bool in_turns = false;
};

/* Backends that work in one memory: all of the host's, or a device's one. */
struct Place {
    std::vector<std::string> backends;
    bool is_host;
    const devices::Memory &memory;
    size_t limit; /* bytes to allocate */

    bool by_default(const Problem &problem) const
    {
        return problem.set.empty() && (!is_host || Workload::layer_bytes(problem) <= DEFAULT_LAYER);
    }
};

struct ThreadCeiling {
    int threads;
    std::unique_ptr<Ceiling> ceiling;
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
    const int online = num_processors();
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
    hattn_error error = {};
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

std::vector<Place> make_places(const std::vector<std::string> &backends)
{
    std::vector<Place> places;
    std::vector<std::string> on_host;
    for (const std::string &backend : backends) {
        if (const devices::Memory *memory = devices::memory_of(backend)) {
            if (!devices::probe_of(backend))
                throw UsageError("--backend " + backend + ": there are no kernels to measure its ceilings with");
            const size_t limit = memory->properties().available / 4 * 3;
            places.push_back({{backend}, false, *memory, limit - std::min(limit, DeviceCeiling::MEMORY)});
        } else {
            on_host.push_back(backend);
        }
    }
    const devices::Memory &host = devices::host_memory();
    if (!on_host.empty())
        places.push_back({on_host, true, host, std::min(MEMORY_LIMIT, host.properties().available / 2)});
    return places;
}

std::vector<Problem> choose_problems(const std::string &names, const Place &place)
{
    std::vector<Problem> all = problems::bench_problems(), chosen;
    for (const std::string &name : split(names)) {
        size_t before = chosen.size();
        for (const Problem &problem : all)
            if (name == problem.name || name == "all" || (name == problem.set && !name.empty()) ||
                (name == "default" && place.by_default(problem)))
                chosen.push_back(problem);
        if (chosen.size() == before) {
            std::string known = "default, keys, plans, floors, heads, equal, all";
            for (const Problem &problem : all)
                known += known.find(problem.name) == std::string::npos ? ", " + problem.name : "";
            throw UsageError("no shape '" + name + "'; there are " + known);
        }
    }
    return chosen;
}

std::vector<Config> make_configs(const Place &place, const Options &options, const std::vector<int> &threads,
                                 const hattn_problem &shape)
{
    std::vector<Config> configs;
    for (const std::string &backend : place.backends)
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

/* A device's stage moves to the next layer by itself; the host's stages share the one of their round. */
void record_stage(Workload &workload, bool is_host, Config &config, Stage stage)
{
    const Plan &plan = *config.plan;
    const auto record = [&](int64_t calls) {
        return config.device->stopwatch().record([&workload, &plan, stage, is_host, calls] {
            for (int64_t i = 0; i < calls; i++) {
                if (!is_host)
                    workload.next_layer();
                hattn_error error = {};
                check(workload.run(stage, plan.get(), plan.exec(), &error), error, STAGE_NAMES[stage]);
            }
        });
    };
    config.calls[stage] = 1;
    if (!is_host) {
        const auto once = record(1);
        once->replay();
        config.calls[stage] = std::max(workload.cold_calls(stage), int64_t(MIN_RECORDING_US / once->replay()) + 1);
    }
    config.recordings[stage] = record(config.calls[stage]);
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
            for (int stage = 0; stage < NUM_STAGES; stage++) {
                const double us = config.recordings[stage]->replay() / double(config.calls[stage]);
                if (round >= 0)
                    config.us[stage].add(us);
            }
        }
        if (round >= 0 && round % CEILING_EVERY == 0)
            for (ThreadCeiling &one : ceilings)
                one.ceiling->sample();
    }
    return (thread_cpu_us() - cpu_start) / (now_us() - start);
}

/* Encoded when they are first asked for. */
class Traces
{
public:
    explicit Traces(const std::string &directory) : directory_(directory) {}

    const TraceKeys &get(const std::string &name)
    {
        const auto found = traces_.find(name);
        if (found != traces_.end())
            return found->second;
        return traces_[name] = load_trace_keys(directory_ + "/" + name + ".safetensors");
    }

private:
    std::string directory_;
    std::map<std::string, TraceKeys> traces_;
};

/* Whether a layer fits into `limit` bytes; says so where it does not. */
bool fits(const Problem &problem, const Place &place, size_t limit, BenchReport &report)
{
    const size_t bytes = Workload::layer_bytes(problem);
    if (bytes > limit)
        report.note(format("%s: left out, one layer is %zu MiB and %s can spare %zu MiB", problem.name.c_str(),
                           bytes >> 20, place.is_host ? "this machine" : "the device", limit >> 20));
    return bytes <= limit;
}

/* Data in `limit` bytes, weights and selections, and nothing recorded. */
Subject make_subject(const Problem &problem, const Place &place, size_t limit, const Options &options,
                     const std::vector<int> &threads, Traces &traces, BenchReport &report)
{
    const TraceKeys *trace = problem.trace.empty() ? nullptr : &traces.get(problem.trace);
    Subject subject;
    subject.problem = problem;
    subject.workload.reset(
        new Workload(problem, place.memory, place.is_host ? Turns::STAGES : Turns::ALONE, limit, trace));
    report.note(problem.name + ": " + subject.workload->layers());
    subject.configs = make_configs(place, options, threads, subject.workload->shape());
    hattn_error error = {};
    const Plan &plan = *subject.configs.back().plan;
    check(subject.workload->prepare(plan.get(), plan.exec(), &error), error, problem.name);
    return subject;
}

void bench_problem(const Problem &problem, const Place &place, const Options &options, const std::vector<int> &threads,
                   Traces &traces, BenchReport &report)
{
    if (!fits(problem, place, place.limit, report))
        return;
    Subject subject = make_subject(problem, place, place.limit, options, threads, traces, report);
    Workload &workload = *subject.workload;
    std::vector<Config> &configs = subject.configs;
    std::vector<ThreadCeiling> ceilings;
    for (const Config &config : configs)
        if (std::none_of(ceilings.begin(), ceilings.end(),
                         [&](const ThreadCeiling &one) { return one.threads == config.threads; }))
            ceilings.push_back({config.threads, place.is_host
                                                    ? workload.host_ceiling(config.threads)
                                                    : workload.device_ceiling(config.device->stopwatch(),
                                                                              *devices::probe_of(place.backends[0]))});

    for (Config &config : configs)
        for (int stage = 0; stage < NUM_STAGES; stage++)
            record_stage(workload, place.is_host, config, Stage(stage));
    const double share = run_rounds(workload, configs, ceilings, options.rounds, problem.name);
    if (place.is_host && share < IDLE_SHARE)
        report.note(format("%s: this machine is busy, the timed thread had %.0f %% of a processor: long stages look "
                           "slower than short ones, quote nothing of this",
                           problem.name.c_str(), 100 * share));
    if (options.steps)
        for (Config &config : configs)
            time_steps(workload, place.is_host, options.steps, config);

    for (const Config &config : configs)
        for (const ThreadCeiling &one : ceilings)
            if (one.threads == config.threads)
                report.add(problem, workload, config, *one.ceiling);
}

/* Decodes alone, all shapes having their data at once. */
void bench_turns(const std::vector<Problem> &problems, const Place &place, const Options &options,
                 const std::vector<int> &threads, Traces &traces, BenchReport &report)
{
    const size_t limit = place.limit / problems.size();
    std::vector<Subject> subjects;
    for (const Problem &problem : problems)
        if (fits(problem, place, limit, report))
            subjects.push_back(make_subject(problem, place, limit, options, threads, traces, report));
    for (Subject &subject : subjects)
        for (Config &config : subject.configs)
            record_stage(*subject.workload, place.is_host, config, DECODE);
    take_turns(subjects, options.rounds);
    for (const Subject &subject : subjects)
        for (const Config &config : subject.configs)
            report.add_turns(subject.problem, *subject.workload, config);
}

} // namespace

int cmd_bench(Args &args)
{
    Options options;
    args.about(
        "Times the stages of decode steps with cold caches and sets them against what the memory allows,\n"
        "measured in the same rounds. The floor of a stage is the time that its bytes need: codes, norms and maps at\n"
        "the speed of streams, selected rows of K and V at that of gathers.");
    args.choice("backend", backend_choices(), "what to time", &options.backend);
    args.choice("isa", {"all", "scalar", "neon", "avx2", "avx512"}, "of the cpu; without it the best of this machine",
                &options.isa);
    args.text(
        "shape", "NAME[,NAME]",
        "which shapes, or sets of them: default (on the host those with layers up to 640 MiB, on devices all), "
        "keys (keys that are like their neighbours), plans (larger than what they run), floors (floors and "
        "tails that change nothing), heads (scores per query head), equal (S4 with fewer and more rows and bits), all",
        &options.shape);
    args.text("threads", "N[,M]", "of the cpu; without it 1 and all", &options.threads);
    args.number("rounds", "N", "timings of each stage", &options.rounds, 1, 1000);
    args.number("steps", "N", "times so many decodes one by one, too, each of other queries: mean, median, p99",
                &options.steps, 0, 1000000);
    args.flag("in-turns",
              "time decodes alone, those of all shapes in the same rounds, and each round's ratio to the shape that a "
              "shape is to be compared with",
              &options.in_turns);
    args.text("traces", "DIR", "of the shapes with real keys: where layer3.safetensors and layer5.safetensors are",
              &options.traces);
    args.text("json", "FILE", "write JSON to this file; -: to stdout, instead of the tables", &options.json);
    if (!args.parse())
        return EXIT_OK;
    if (options.in_turns && options.steps)
        throw UsageError("--in-turns times decodes of all shapes in the same rounds, --steps a shape's by themselves");
    const Output json("--json", options.json);

    const std::vector<int> threads = thread_counts(options.threads);
    const devices::Properties host = devices::host_memory().properties();
    const std::string processor = Device("cpu", "", 1).info().name;
    BenchReport report(!json.is_stdout());
    Traces traces(options.traces);
    const std::vector<Place> places = make_places(choose_backends(options.backend));
    for (const Place &place : places) /* what is missing is said before anything is timed */
        for (const Problem &problem : choose_problems(options.shape, place))
            if (!problem.trace.empty())
                traces.get(problem.trace);
    for (const Place &place : places) {
        const std::vector<Problem> problems = choose_problems(options.shape, place);
        if (!place.is_host)
            report.device(Device(place.backends[0], "", 0));
        if (options.in_turns)
            bench_turns(problems, place, options, threads, traces, report);
        else
            for (const Problem &problem : problems)
                bench_problem(problem, place, options, threads, traces, report);
    }
    report.print_summary();

    if (json.is_wanted()) {
        Json root(json_object());
        json_put(root.get(), "version", json_integer(hattn_version()));
        json_put(root.get(), "processor", json_text(processor));
        json_put(root.get(), "processors", json_integer(num_processors()));
        json_put(root.get(), "last_level_cache", json_integer(json_int_t(host.cache)));
        json_put(root.get(), "available_memory", json_integer(json_int_t(host.available)));
        json_put(root.get(), "rounds", json_integer(options.rounds));
        report.put_into(root.get());
        write_json(root.get(), json);
    }
    return EXIT_OK;
}
