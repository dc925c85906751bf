/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/verify_report.h"

#include <algorithm>
#include <ctime>
#include <sstream>

#include "tools/device.h"
#include "tools/text.h"
#include "tools/verify_command.h"

using namespace conformance;

namespace {

std::string escape(const std::string &text)
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

/* Today, UTC. */
std::string date_text()
{
    const std::time_t now = std::time(nullptr);
    std::tm parts = {};
    char text[16] = "";
    std::strftime(text, sizeof(text), "%Y-%m-%d", gmtime_r(&now, &parts));
    return text;
}

Json session_json(const Session &session)
{
    Json json(json_object());
    const bool is_there = session.skipped.empty();
    json_put(json.get(), "target", json_text(session.target.text()));
    json_put(json.get(), "device", json_text(is_there ? session.info.name : ""));
    json_put(json.get(), "isa", json_text(is_there ? session.info.isa : ""));
    json_put(json.get(), "driver", json_text(is_there ? driver_of(session.target.backend) : ""));
    json_put(json.get(), "not_present", json_text(session.skipped));
    return json;
}

} // namespace

void VerifyReport::add(const Outcome &outcome, const Problem *problem)
{
    counts[int(outcome.status)]++;
    outcomes_.push_back(outcome);
    if (outcome.status == Status::FAILED)
        std::fprintf(failures_, "%s\n", outcome.text(verify_command).c_str());
    for (const Feature &feature : all_features()) {
        const std::vector<std::string> &checks = feature.checks;
        if (!problem || std::find(checks.begin(), checks.end(), outcome.op) == checks.end() || !feature.is_in(*problem))
            continue;
        Cell &cell = cells_[{outcome.target.text(), &feature}];
        cell.counts[int(outcome.status)]++;
        if (outcome.status == Status::REFUSED && cell.why.empty())
            cell.why = outcome.message;
    }
}

void VerifyReport::add_flips(const Session &session)
{
    const Flips &seen = session.flips;
    flips_.bits += seen.bits;
    flips_.bit_flips += seen.bit_flips;
    flips_.weights += seen.weights;
    flips_.weight_flips += seen.weight_flips;
    if (!seen.verdict().empty())
        add({Status::FAILED, session.target, "flips", "all", 0, seen.verdict()});
}

VerifyReport::Cell VerifyReport::cell(const Session &session, const Feature &feature) const
{
    const auto found = cells_.find({session.target.text(), &feature});
    return found == cells_.end() ? Cell() : found->second;
}

std::string VerifyReport::Cell::status() const
{
    const auto count = [this](Status status) { return counts[int(status)]; };
    return count(Status::FAILED)    ? "failed"
           : count(Status::REFUSED) ? "refused"
           : count(Status::PASSED)  ? "passed"
                                    : "not run";
}

std::string VerifyReport::Cell::text() const
{
    std::string text;
    for (const Status status : {Status::PASSED, Status::FAILED, Status::REFUSED})
        if (const int64_t count = counts[int(status)])
            text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + status_name(status);
    return text.empty() ? "not run" : text + (why.empty() ? "" : ": " + why);
}

std::string VerifyReport::matrix() const
{
    std::vector<std::string> headers = {"<operation", "<feature"};
    std::string absent;
    for (const auto &session : sessions_) {
        if (session->skipped.empty())
            headers.push_back("<" + session->target.text());
        else
            absent += "not present: " + session->target.text() + ": " + printable(session->skipped) + "\n";
    }
    Table table(headers);
    for (const Feature &feature : all_features()) {
        std::vector<std::string> row = {feature.operation, feature.name};
        for (const auto &session : sessions_)
            if (session->skipped.empty())
                row.push_back(cell(*session, feature).text());
        table.row(row);
    }
    return table.str() + absent;
}

Json VerifyReport::matrix_json() const
{
    Json list(json_array());
    for (const auto &session : sessions_)
        for (const Feature &feature : all_features()) {
            const Cell seen = cell(*session, feature);
            json_t *entry = json_object();
            json_array_append_new(list.get(), entry);
            json_put(entry, "target", json_text(session->target.text()));
            json_put(entry, "operation", json_text(feature.operation));
            json_put(entry, "feature", json_text(feature.name));
            json_put(entry, "status", json_text(session->skipped.empty() ? seen.status() : "not present"));
            for (const Status status : {Status::PASSED, Status::FAILED, Status::REFUSED})
                json_put(entry, status_name(status), json_integer(seen.counts[int(status)]));
            json_put(entry, "why", json_text(session->skipped.empty() ? seen.why : session->skipped));
        }
    return list;
}

Json VerifyReport::json(const std::string &filter, const GoldenFile *golden) const
{
    Json json(json_object());
    for (int status = 0; status < 4; status++)
        json_put(json.get(), status_name(Status(status)), json_integer(counts[status]));
    json_put(json.get(), "date", json_text(date_text()));
    json_put(json.get(), "filter", json_text(filter));
    json_t *flips_json = json_object();
    json_put(json.get(), "flips", flips_json);
    json_put(flips_json, "bits", json_integer(json_int_t(flips_.bits)));
    json_put(flips_json, "bit_flips", json_integer(json_int_t(flips_.bit_flips)));
    json_put(flips_json, "weights", json_integer(json_int_t(flips_.weights)));
    json_put(flips_json, "weight_flips", json_integer(json_int_t(flips_.weight_flips)));
    json_t *sessions = json_array();
    json_put(json.get(), "sessions", sessions);
    for (const auto &session : sessions_)
        json_array_append_new(sessions, session_json(*session).release());
    json_put(json.get(), "matrix", matrix_json().release());
    if (golden)
        json_put(json.get(), "golden", golden->json().release());
    json_t *cases = json_array();
    json_put(json.get(), "cases", cases);
    for (const Outcome &outcome : outcomes_) {
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

std::string VerifyReport::junit() const
{
    std::ostringstream file;
    file << "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"hattn verify\" tests=\"" << outcomes_.size()
         << "\" failures=\"" << counts[int(Status::FAILED)] << "\" skipped=\""
         << counts[int(Status::SKIPPED)] + counts[int(Status::REFUSED)] << "\">\n";
    for (const Outcome &outcome : outcomes_) {
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

std::string VerifyReport::summary() const
{
    std::string text;
    for (int status = 0; status < 4; status++)
        text += (status ? ", " : "") + std::to_string(counts[status]) + " " + status_name(Status(status));
    return text + "; roundings turned " + std::to_string(flips_.bit_flips) + " of " + std::to_string(flips_.bits) +
           " code bits, " + std::to_string(flips_.weight_flips) + " of " + std::to_string(flips_.weights) + " weights";
}
