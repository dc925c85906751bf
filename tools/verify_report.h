/* SPDX-License-Identifier: Apache-2.0
 * What hattn verify tells: failures as they come, JSON, JUnit, a summary, and the matrix of what was seen to work where.
 */
#ifndef HATTN_TOOLS_VERIFY_REPORT_H
#define HATTN_TOOLS_VERIFY_REPORT_H

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "conformance/checks.h"
#include "tools/features.h"
#include "tools/golden.h"
#include "tools/report.h"

class VerifyReport
{
public:
    using Sessions = std::vector<std::unique_ptr<conformance::Session>>;

    VerifyReport(std::FILE *failures, const Sessions &sessions) : failures_(failures), sessions_(sessions) {}

    /* problem: null where it is of none. */
    void add(const conformance::Outcome &outcome, const problems::Problem *problem = nullptr);
    void add_flips(const conformance::Session &session);

    /* golden: may be null. */
    Json json(const std::string &filter, const GoldenFile *golden) const;
    std::string junit() const;
    std::string summary() const;
    /* Operations and features against backends: how many checks passed, failed, were refused and why; and why those that are not
     * present are not. */
    std::string matrix() const;

    int64_t counts[4] = {};

private:
    struct Cell {
        int64_t counts[4] = {}; /* by status */
        std::string why;        /* of the first refusal */
        std::string status() const;
        std::string text() const;
    };

    Cell cell(const conformance::Session &session, const Feature &feature) const;
    Json matrix_json() const;

    std::FILE *failures_;
    const Sessions &sessions_;
    conformance::Flips flips_;
    std::vector<conformance::Outcome> outcomes_;
    std::map<std::pair<std::string, const Feature *>, Cell> cells_;
};

#endif
