/* SPDX-License-Identifier: Apache-2.0
 * hattn verify: the conformance problems on the backends of this machine, against the reference, and against golden
 * values that another backend, perhaps on another machine, has written.
 */
#include <unistd.h>

#include <cstdio>
#include <map>
#include <sstream>

#include "conformance/checks.h"
#include "tools/args.h"
#include "tools/device.h"
#include "tools/report.h"
#include "tools/safetensors.h"
#include "tools/text.h"
#include "tools/verify_command.h"

using namespace conformance;

namespace {

struct Options {
    std::string backend = "all", isa, filter, json, junit, write, against;
    int64_t seed = 1, random = 0, small = 0;
};

/* Keys of golden files are those of class Golden; the metadata say how the inputs were made. */
class GoldenFile : public Golden
{
public:
    explicit GoldenFile(const std::string &path) : file_(Safetensors::open(path)) {}

    void put(const std::string &, int32_t, const std::vector<int64_t> &, const std::vector<uint8_t> &) override {}
    bool get(const std::string &key, std::vector<uint8_t> *elements) override
    {
        const Safetensors::Tensor *tensor = file_.find(key);
        if (!tensor)
            return false;
        *elements = file_.read(*tensor);
        compared_++;
        return true;
    }

    int64_t seed() const
    {
        const auto found = file_.metadata().find("seed");
        int64_t value = 0;
        if (found == file_.metadata().end() || !parse_number(found->second, &value))
            throw UsageError(file_.path() + ": the metadata have no seed; was it made by hattn verify --write?");
        return value;
    }
    int64_t num_compared() const { return compared_; }

private:
    Safetensors file_;
    int64_t compared_ = 0;
};

class GoldenWriter : public Golden
{
public:
    void put(const std::string &key, int32_t dtype, const std::vector<int64_t> &extents,
             const std::vector<uint8_t> &elements) override
    {
        const std::map<int32_t, Dtype> dtypes = {
            {HATTN_F32, Dtype::F32}, {HATTN_F16, Dtype::F16}, {HATTN_BF16, Dtype::BF16}, {HATTN_I8, Dtype::I8},
            {HATTN_U16, Dtype::U16}, {HATTN_I32, Dtype::I32}, {HATTN_U32, Dtype::U32},
        };
        writer_.add(key, dtypes.at(dtype), extents, elements.data());
    }
    bool get(const std::string &, std::vector<uint8_t> *) override { return false; }

    void write(const Output &output, const Session &session, int64_t seed)
    {
        writer_.metadata("seed", std::to_string(seed));
        writer_.metadata("backend", session.info.backend);
        writer_.metadata("isa", session.info.isa);
        writer_.metadata("device", session.info.name);
        output.write(writer_.bytes());
    }

private:
    SafetensorsWriter writer_;
};

std::vector<Problem> chosen_problems(const Options &options)
{
    std::vector<Problem> all, chosen;
    for (const Problem &problem : all_problems())
        if (problem.tag != Tag::BENCH)
            all.push_back(problem);
    for (int64_t i = 0; i < options.random; i++)
        all.push_back(random_problem(options.seed + i));
    for (int64_t i = 0; i < options.small; i++)
        all.push_back(small_problem(options.seed + i));
    for (const Problem &problem : all)
        for (const std::string &op : operation_names())
            if ((problem.name + "/" + op).find(options.filter) != std::string::npos) {
                chosen.push_back(problem);
                break;
            }
    if (chosen.empty())
        throw UsageError("no problem or operation has '" + options.filter + "' in PROBLEM/OPERATION");
    return chosen;
}

std::vector<std::unique_ptr<Session>> chosen_sessions(const Options &options)
{
    std::vector<std::unique_ptr<Session>> sessions;
    std::string reasons;
    bool any = false;
    for (const Target &target : all_targets()) {
        /* The reference against itself says nothing; whoever wants its golden values asks for it. */
        if (options.backend == "all" ? target.backend == "reference" : target.backend != options.backend)
            continue;
        if (!options.isa.empty() && target.isa != options.isa)
            continue;
        try {
            sessions.push_back(std::make_unique<Session>(target));
        } catch (const std::runtime_error &error) {
            throw UsageError(error.what());
        }
        any = any || sessions.back()->skipped.empty();
        reasons += "; " + sessions.back()->skipped;
    }
    if (!any)
        throw UsageError("nothing to verify" + (reasons.empty() ? ": --isa is for --backend cpu" : reasons));
    return sessions;
}

/* A random problem is made, and filled, from the seed in its name. */
uint64_t seed_of(const Problem &problem, const Options &options)
{
    int64_t seed = options.seed;
    if (!random_kind(problem.name).empty())
        parse_number(problem.name.substr(problem.name.rfind('-') + 1), &seed);
    return seed;
}

class Report
{
public:
    /* Failures are told as they come; outcomes are kept for json() and junit(), if one will be asked for. */
    Report(std::FILE *failures, bool keep_outcomes) : failures_(failures), keep_outcomes_(keep_outcomes) {}

    void add(const Outcome &outcome)
    {
        counts[int(outcome.status)]++;
        if (keep_outcomes_)
            outcomes.push_back(outcome);
        if (outcome.status == Status::FAILED)
            std::fprintf(failures_, "%s\n", outcome.text(verify_command).c_str());
    }

    void add_flips(const Session &session)
    {
        const Flips &seen = session.flips;
        flips.bits += seen.bits;
        flips.bit_flips += seen.bit_flips;
        flips.weights += seen.weights;
        flips.weight_flips += seen.weight_flips;
        if (!seen.verdict().empty())
            add({Status::FAILED, session.target, "flips", "all", 0, seen.verdict()});
    }

    Json json() const
    {
        Json json(json_object());
        for (int status = 0; status < 4; status++)
            json_put(json.get(), status_name(Status(status)), json_integer(counts[status]));
        json_t *flips_json = json_object();
        json_put(json.get(), "flips", flips_json);
        json_put(flips_json, "bits", json_integer(json_int_t(flips.bits)));
        json_put(flips_json, "bit_flips", json_integer(json_int_t(flips.bit_flips)));
        json_put(flips_json, "weights", json_integer(json_int_t(flips.weights)));
        json_put(flips_json, "weight_flips", json_integer(json_int_t(flips.weight_flips)));
        json_t *cases = json_array();
        json_put(json.get(), "cases", cases);
        for (const Outcome &outcome : outcomes) {
            json_t *entry = json_object();
            json_array_append_new(cases, entry);
            json_put(entry, "backend", json_text(outcome.target.backend));
            json_put(entry, "isa", json_text(outcome.target.isa));
            json_put(entry, "op", json_text(outcome.op));
            json_put(entry, "problem", json_text(outcome.problem));
            json_put(entry, "seed", json_integer(json_int_t(outcome.seed)));
            json_put(entry, "status", json_text(status_name(outcome.status)));
            json_put(entry, "message", json_text(outcome.message));
        }
        return json;
    }

    std::string junit() const
    {
        std::ostringstream file;
        file << "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"hattn verify\" tests=\""
             << outcomes.size() << "\" failures=\"" << counts[int(Status::FAILED)] << "\" skipped=\""
             << counts[int(Status::SKIPPED)] + counts[int(Status::REFUSED)] << "\">\n";
        for (const Outcome &outcome : outcomes) {
            file << "  <testcase classname=\"" << escape(outcome.target.text()) << "\" name=\""
                 << escape(outcome.problem + "/" + outcome.op) << "\"";
            if (outcome.status == Status::PASSED)
                file << "/>\n";
            else
                file << "><" << (outcome.status == Status::FAILED ? "failure" : "skipped") << " message=\""
                     << escape(outcome.text(verify_command)) << "\"/></testcase>\n";
        }
        file << "</testsuite>\n";
        return file.str();
    }

    std::string summary() const
    {
        std::string text;
        for (int status = 0; status < 4; status++)
            text += (status ? ", " : "") + std::to_string(counts[status]) + " " + status_name(Status(status));
        return text + "; roundings turned " + std::to_string(flips.bit_flips) + " of " + std::to_string(flips.bits) +
               " code bits, " + std::to_string(flips.weight_flips) + " of " + std::to_string(flips.weights) +
               " weights";
    }

    int64_t counts[4] = {};

private:
    static std::string escape(const std::string &text)
    {
        std::string escaped;
        for (const char c : valid_utf8(text)) {
            switch (c) {
            case '&': escaped += "&amp;"; break;
            case '<': escaped += "&lt;"; break;
            case '>': escaped += "&gt;"; break;
            case '"': escaped += "&quot;"; break;
            default: escaped += uint8_t(c) < ' ' ? ' ' : c;
            }
        }
        return escaped;
    }

    std::FILE *failures_;
    bool keep_outcomes_;
    Flips flips;
    std::vector<Outcome> outcomes;
};

void verify(Session &session, const std::vector<Problem> &chosen, const Options &options, Golden *golden,
            Report *report)
{
    if (!session.skipped.empty()) {
        report->add({Status::SKIPPED, session.target, "all", "all", uint64_t(options.seed), session.skipped});
        return;
    }
    Progress progress(session.target.text(), int(chosen.size()));
    for (const Problem &problem : chosen) {
        progress.step(problem.name);
        const uint64_t seed = seed_of(problem, options);
        for (const Outcome &outcome : check_problem(session, problem, seed, options.filter, golden))
            report->add(outcome);
    }
    report->add_flips(session);
}

/* The only session that has a device. */
Session &writing_session(const std::vector<std::unique_ptr<Session>> &sessions)
{
    Session *found = nullptr;
    for (const auto &session : sessions) {
        if (!session->skipped.empty())
            continue;
        if (found)
            throw UsageError("--write takes the values of one backend: choose with --backend and --isa");
        found = session.get();
    }
    return *found;
}

void declare(Args &args, Options *options)
{
    args.about(
        "Checks every operation of the backends against the reference, by the numerics contract, on the conformance "
        "problems. Golden values made on one machine (--write) can be checked on another (--against).");
    args.choice("backend", backend_choices(), "which", &options->backend);
    args.choice("isa", {"scalar", "neon", "avx2", "avx512"}, "cpu: only this instruction set; without: each",
                &options->isa);
    args.text("filter", "TEXT", "only operations with TEXT in PROBLEM/OPERATION", &options->filter);
    args.number("seed", "N", "of the data", &options->seed, 0, INT32_MAX);
    args.number("random", "N", "add N random problems, of seeds SEED, SEED + 1, ...", &options->random, 0, 1000000);
    args.number("small", "N", "add N small random problems likewise", &options->small, 0, 1000000);
    args.text("write", "FILE", "write the outputs of one backend as golden values (safetensors); -: to stdout",
              &options->write);
    args.text("against", "FILE", "check against golden values too; their seed is used", &options->against);
    args.text("json", "OUT", "write the outcomes as JSON; -: to stdout", &options->json);
    args.text("junit", "OUT", "write the outcomes as JUnit XML; -: to stdout", &options->junit);
}

} // namespace

int cmd_verify(Args &args)
{
    Options options;
    declare(args, &options);
    if (!args.parse())
        return EXIT_OK;
    if (!options.write.empty() && !options.against.empty())
        throw UsageError("--write and --against exclude each other");
    const Output json("--json", options.json), junit("--junit", options.junit), golden("--write", options.write);
    Output::check_apart({&json, &junit, &golden}, {{"--against", options.against}});
    if (golden.is_stdout() && isatty(1))
        throw UsageError("--write: golden values are not for a terminal");

    std::unique_ptr<GoldenFile> file;
    if (!options.against.empty()) {
        file = std::make_unique<GoldenFile>(options.against);
        if (args.given("seed") && options.seed != file->seed())
            throw UsageError(options.against + ": made with --seed " + std::to_string(file->seed()));
        options.seed = file->seed();
    }
    const std::vector<Problem> chosen = chosen_problems(options);
    const std::vector<std::unique_ptr<Session>> sessions = chosen_sessions(options);
    const bool stdout_is_taken = json.is_stdout() || junit.is_stdout() || golden.is_stdout();
    Report report(stdout_is_taken ? stderr : stdout, json.is_wanted() || junit.is_wanted());
    if (golden.is_wanted()) {
        GoldenWriter writer;
        Session &session = writing_session(sessions);
        verify(session, chosen, options, &writer, &report);
        writer.write(golden, session, options.seed);
    } else {
        for (const auto &session : sessions)
            verify(*session, chosen, options, file.get(), &report);
    }

    if (file && !file->num_compared())
        throw UsageError(options.against + ": has values of none of the chosen problems");
    if (json.is_wanted())
        write_json(report.json().get(), json);
    if (junit.is_wanted())
        junit.write(report.junit());
    if (!stdout_is_taken)
        std::printf("%s\n", report.summary().c_str());
    return report.counts[int(Status::FAILED)] ? EXIT_WRONG : EXIT_OK;
}
