/* SPDX-License-Identifier: Apache-2.0
 * Files of golden values: what one backend has made of problems, for another to be held to. docs/golden.md has the format.
 */
#ifndef HATTN_TOOLS_GOLDEN_H
#define HATTN_TOOLS_GOLDEN_H

#include <map>
#include <string>
#include <vector>

#include "conformance/checks.h"
#include "tools/output.h"
#include "tools/report.h"
#include "tools/safetensors.h"

/* Throws UsageError for a file that is damaged, of somebody else, or newer than this build. */
class GoldenFile : public conformance::Golden
{
public:
    explicit GoldenFile(const std::string &path);

    std::string begin(const conformance::Instance &instance) override;
    void put(const std::string &, int32_t, const std::vector<int64_t> &, const std::vector<uint8_t> &) override {}
    bool get(const std::string &key, std::vector<uint8_t> *elements) override;
    void compared(const conformance::Comparison &comparison) override;

    int64_t seed() const { return seed_; }
    const std::vector<std::string> &problems() const { return problems_; }
    int64_t num_compared() const { return compared_; }

    /* For each backend, operation and output: equal, allowed (how many, how near to what is allowed), or wrong. */
    std::string table() const;
    Json json() const;

private:
    struct Stage {
        int64_t problems = 0, elements = 0, different = 0, wrong = 0;
        double share = 0;
        std::string verdict() const;
    };

    const std::string &member(const std::string &name) const;
    void check_digest() const;

    Safetensors file_;
    int64_t seed_ = 0, compared_ = 0;
    std::vector<std::string> problems_;
    std::map<std::vector<std::string>, Stage> stages_; /* by backend, operation, output */
};

class GoldenWriter : public conformance::Golden
{
public:
    std::string begin(const conformance::Instance &instance) override;
    void put(const std::string &key, int32_t dtype, const std::vector<int64_t> &extents,
             const std::vector<uint8_t> &elements) override;
    bool get(const std::string &, std::vector<uint8_t> *) override { return false; }
    void compared(const conformance::Comparison &) override {}

    /* commit: of the sources, as the caller says. */
    void write(const Output &output, const conformance::Session &session, int64_t seed, const std::string &commit);

private:
    SafetensorsWriter writer_;
    std::string problems_;
};

#endif
