/* SPDX-License-Identifier: Apache-2.0
 * Runs the hattn command as a user does, and keeps what it says.
 */
#ifndef HATTN_TESTS_RUN_HATTN_H
#define HATTN_TESTS_RUN_HATTN_H

#include <jansson.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

using Words = std::vector<std::string>;

struct Ran {
    int exit_code; /* -1: killed by a signal */
    std::string out, err;
};

/* tools/hattn with these words; stdin is empty. */
Ran run_hattn(const Words &words);
/* The same with a stdout of the caller's, or none where it is -1; `out` stays empty. */
Ran run_hattn_onto(int standard_output, const Words &words);

/* A trace, and the shortest way through a decode of it. */
const std::string TRACE = "examples/layer3.safetensors";
Words decode(const std::string &trace, const Words &more);

/* For failures. */
std::string command_line(const Words &words);
/* Exit code 2, one line on stderr that has the text; of expect_refusal, nothing on stdout. */
void expect_refused(const Ran &ran, const std::string &text);
void expect_refusal(const Words &words, const std::string &text);

std::string read_file(const std::string &path);
void write_file(const std::string &path, const std::string &bytes);

/* An empty directory that goes with all files in it. */
class Directory
{
public:
    Directory();
    ~Directory();
    Directory(const Directory &) = delete;
    Directory &operator=(const Directory &) = delete;

    const std::string &path() const { return path_; }
    std::string at(const std::string &name) const { return path_ + "/" + name; }
    std::set<std::string> names() const;

private:
    std::string path_;
};

using JsonOwner = std::unique_ptr<json_t, decltype(&json_decref)>;
/* Why the backend has no device, as hattn info says it; "" if there is one. */
std::string why_no_device(const std::string &backend);
/* NULL and a failed expectation if the text is no JSON. */
JsonOwner parse_json(const std::string &text);

#endif
