/* SPDX-License-Identifier: Apache-2.0
 * Runs the hattn command as a user does, and keeps what it says.
 */
#ifndef HATTN_TESTS_RUN_HATTN_H
#define HATTN_TESTS_RUN_HATTN_H

#include <jansson.h>

#include <memory>
#include <string>
#include <vector>

struct Ran {
    int exit_code; /* -1: killed by a signal */
    std::string out, err;
};

/* tools/hattn with these words; stdin is empty. */
Ran run_hattn(const std::vector<std::string> &words);
/* The same with a stdout of the caller's, or none where it is -1; `out` stays empty. */
Ran run_hattn_onto(int standard_output, const std::vector<std::string> &words);

using JsonOwner = std::unique_ptr<json_t, decltype(&json_decref)>;
/* Why the backend has no device, as hattn info says it; "" if there is one. */
std::string why_no_device(const std::string &backend);
/* NULL and a failed expectation if the text is no JSON. */
JsonOwner parse_json(const std::string &text);

#endif
