/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/report.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdlib>
#include <new>

#include "tools/text.h"

void json_put(json_t *object, const char *name, json_t *value)
{
    if (json_object_set_new(object, name, value))
        throw std::bad_alloc();
}

json_t *json_number(double value) { return std::isfinite(value) ? json_real(value) : json_null(); }

json_t *json_text(const std::string &text)
{
    const std::string valid = valid_utf8(text);
    return json_stringn(valid.data(), valid.size());
}

void write_json(const json_t *json, const Output &output)
{
    const std::unique_ptr<char, decltype(&std::free)> text(json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(9)),
                                                           &std::free);
    if (!text)
        throw std::bad_alloc();
    output.write(text.get() + std::string("\n"));
}

std::string format(const char *pattern, ...)
{
    char text[512];
    va_list list;
    va_start(list, pattern);
    std::vsnprintf(text, sizeof(text), pattern, list);
    va_end(list);
    return text;
}

Table::Table(const std::vector<std::string> &headers)
{
    std::vector<std::string> names;
    for (const std::string &header : headers) {
        left_.push_back(header[0] == '<');
        names.push_back(header.substr(header[0] == '<'));
    }
    rows_.push_back(names);
}

void Table::row(std::vector<std::string> cells)
{
    cells.resize(left_.size());
    for (std::string &cell : cells)
        cell = printable(cell);
    rows_.push_back(std::move(cells));
}

std::string Table::str() const
{
    std::vector<size_t> widths(left_.size());
    for (const auto &row : rows_)
        for (size_t i = 0; i < row.size(); i++)
            widths[i] = std::max(widths[i], num_characters(row[i]));
    std::string text;
    for (const auto &row : rows_) {
        std::string line;
        for (size_t i = 0; i < row.size(); i++) {
            std::string pad(widths[i] - num_characters(row[i]), ' ');
            line += (i ? "  " : "") + (left_[i] ? row[i] + pad : pad + row[i]);
        }
        line.erase(line.find_last_not_of(' ') + 1);
        text += line + "\n";
    }
    return text;
}

Progress::Progress(std::string what, int total) : what_(std::move(what)), total_(total), terminal_(isatty(2) == 1) {}

Progress::~Progress()
{
    if (terminal_ && done_)
        std::fputs("\r\033[K", stderr);
}

void Progress::step(const std::string &name)
{
    done_++;
    if (terminal_)
        std::fprintf(stderr, "\r\033[K%s %d/%d %s", what_.c_str(), done_, total_, name.c_str());
}
