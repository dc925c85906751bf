/* SPDX-License-Identifier: Apache-2.0
 * hattn verify: the conformance problems on the backends of this machine, against the reference, and against golden
 * values that another backend, perhaps on another machine, has written.
 */
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "conformance/checks.h"
#include "tools/args.h"
#include "tools/device.h"
#include "tools/golden.h"
#include "tools/text.h"
#include "tools/verify_report.h"

using namespace conformance;

namespace {

struct Options {
    std::string backend = "all", isa, filter, json, junit, write, against, commit;
    int64_t seed = 1, random = 0, small = 0;
};

std::vector<Problem> listed_problems()
{
    std::vector<Problem> listed;
    for (const Problem &problem : all_problems())
        if (problem.tag != Tag::BENCH)
            listed.push_back(problem);
    return listed;
}

std::vector<Problem> problems_of(const GoldenFile &file, const std::string &path)
{
    std::vector<Problem> problems;
    const std::vector<Problem> listed = listed_problems();
    for (const std::string &name : file.problems()) {
        const std::string kind = random_kind(name);
        int64_t seed = 0;
        const auto found =
            std::find_if(listed.begin(), listed.end(), [&](const Problem &problem) { return problem.name == name; });
        if (found != listed.end())
            problems.push_back(*found);
        else if (!kind.empty() && parse_number(name.substr(kind.size() + 1), &seed))
            problems.push_back(kind == "small" ? small_problem(seed) : random_problem(seed));
        else
            throw UsageError(path + ": has problem " + quoted(name) + ", which this build does not know");
    }
    return problems;
}

std::vector<Problem> chosen_problems(const Options &options, const GoldenFile *file)
{
    std::vector<Problem> all = file ? problems_of(*file, options.against) : listed_problems(), chosen;
    for (int64_t i = 0; i < options.random; i++)
        all.push_back(random_problem(options.seed + i));
    for (int64_t i = 0; i < options.small; i++)
        all.push_back(small_problem(options.seed + i));
    for (const Problem &problem : all)
        for (const std::string &op : operation_names(problem))
            if (is_named(problem.name + "/" + op, options.filter)) {
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

void verify(Session &session, const std::vector<Problem> &chosen, const Options &options, Golden *golden,
            VerifyReport *report)
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
            report->add(outcome, &problem);
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
    args.text("filter", "TEXT,...", "only operations with one of the TEXTs in PROBLEM/OPERATION", &options->filter);
    args.number("seed", "N", "of the data", &options->seed, 0, INT32_MAX);
    args.number("random", "N", "add N random problems, of seeds SEED, SEED + 1, ...", &options->random, 0, 1000000);
    args.number("small", "N", "add N small random problems likewise", &options->small, 0, 1000000);
    args.text("write", "FILE", "write the outputs of one backend as golden values (safetensors); -: to stdout",
              &options->write);
    args.text("commit", "ID", "of the sources, for --write to keep", &options->commit);
    args.text("against", "FILE", "check against golden values too: their problems, their seed", &options->against);
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
    if (!options.commit.empty() && options.write.empty())
        throw UsageError("--commit is for --write");
    if (!options.against.empty() && (options.random || options.small))
        throw UsageError("--against has problems of its own: no --random, no --small");
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
    const std::vector<Problem> chosen = chosen_problems(options, file.get());
    const std::vector<std::unique_ptr<Session>> sessions = chosen_sessions(options);
    const bool stdout_is_taken = json.is_stdout() || junit.is_stdout() || golden.is_stdout();
    VerifyReport report(stdout_is_taken ? stderr : stdout, sessions);
    if (golden.is_wanted()) {
        GoldenWriter writer;
        Session &session = writing_session(sessions);
        verify(session, chosen, options, &writer, &report);
        if (report.counts[int(Status::FAILED)])
            throw UsageError("--write: wrong values are not for others: nothing was written");
        writer.write(golden, session, options.seed, options.commit);
    } else {
        for (const auto &session : sessions)
            verify(*session, chosen, options, file.get(), &report);
    }

    if (file && !file->num_compared())
        throw UsageError(options.against + ": has values of none of the chosen problems");
    if (json.is_wanted())
        write_json(report.json(options.filter, file.get()).get(), json);
    if (junit.is_wanted())
        junit.write(report.junit());
    if (!stdout_is_taken) {
        if (file)
            std::printf("%s\n", file->table().c_str());
        else if (options.filter.empty())
            std::printf("%s\n", report.matrix().c_str());
        std::printf("%s\n", report.summary().c_str());
    }
    return report.counts[int(Status::FAILED)] ? EXIT_WRONG : EXIT_OK;
}
