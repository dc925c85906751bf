/* SPDX-License-Identifier: Apache-2.0
 * What a command tells: JSON through jansson, aligned tables, and a progress line for those who watch a terminal.
 */
#ifndef HATTN_TOOLS_REPORT_H
#define HATTN_TOOLS_REPORT_H

#include <jansson.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "tools/output.h"

struct JsonRelease {
    void operator()(json_t *json) const { json_decref(json); }
};
using Json = std::unique_ptr<json_t, JsonRelease>;

/* Adds a member and takes the value over. Throws std::bad_alloc where jansson returned NULL: a failed json_pack, a NaN. */
void json_put(json_t *object, const char *name, json_t *value);
/* A number, or null where it is not finite (JSON has no NaN). */
json_t *json_number(double value);

/* Text from outside; what is not UTF-8 in it is replaced. */
json_t *json_text(const std::string &text);

/* Throws UsageError if it cannot. */
void write_json(const json_t *json, const Output &output);

/* printf to a string. */
__attribute__((format(printf, 1, 2))) std::string format(const char *pattern, ...);

/* Columns as wide as their widest cell; those that begin with '<' are left aligned (the mark is dropped), others right.
 * Cells are made printable. */
class Table
{
public:
    explicit Table(const std::vector<std::string> &headers);
    void row(std::vector<std::string> cells);
    std::string str() const;

private:
    std::vector<bool> left_;
    std::vector<std::vector<std::string>> rows_;
};

/* "\rwhat 12/40 name" on stderr, only if stderr is a terminal; the destructor wipes it. */
class Progress
{
public:
    Progress(std::string what, int total);
    ~Progress();
    Progress(const Progress &) = delete;
    Progress &operator=(const Progress &) = delete;
    void step(const std::string &name);

private:
    std::string what_;
    int total_, done_ = 0;
    bool terminal_;
};

#endif
