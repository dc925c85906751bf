/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/args.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>

bool parse_number(const std::string &word, int64_t *value)
{
    if (word.empty() || word.find_first_not_of("+-0123456789") != std::string::npos)
        return false;
    char *end = nullptr;
    errno = 0;
    long long parsed = std::strtoll(word.c_str(), &end, 10);
    if (errno || *end || end == word.c_str())
        return false;
    *value = parsed;
    return true;
}

bool parse_real(const std::string &word, double *value)
{
    if (word.empty() || word.find_first_not_of("+-.eE0123456789") != std::string::npos)
        return false;
    char *end = nullptr;
    double parsed = std::strtod(word.c_str(), &end);
    if (*end || end == word.c_str() || !std::isfinite(parsed))
        return false;
    *value = parsed;
    return true;
}

namespace {

std::string short_real(double value)
{
    char text[32];
    std::snprintf(text, sizeof(text), "%g", value);
    return text;
}

std::string with_default(const std::string &help, const std::string &value)
{
    return value.empty() ? help : help + " (default " + value + ")";
}

} // namespace

void Args::add(std::string name, std::string placeholder, std::string help, bool required,
               std::function<void(const std::string &)> set)
{
    bool takes_value = !placeholder.empty();
    options_.push_back({std::move(name), std::move(placeholder), std::move(help), required, takes_value, false, false,
                        std::move(set)});
}

void Args::text(std::string name, std::string placeholder, std::string help, std::string *value, Need need)
{
    add(name, placeholder, with_default(help, *value), need == REQUIRED, [name, value](const std::string &word) {
        if (word.empty())
            throw UsageError("--" + name + " must not be empty");
        *value = word;
    });
}

void Args::choice(std::string name, std::vector<std::string> values, std::string help, std::string *value, Need need)
{
    std::string list;
    for (const std::string &one : values)
        list += (list.empty() ? "" : "|") + one;
    add(name, list, with_default(help, *value), need == REQUIRED, [=](const std::string &word) {
        for (const std::string &one : values)
            if (one == word) {
                *value = word;
                return;
            }
        throw UsageError("--" + name + " is one of " + list + ", not '" + word + "'");
    });
}

void Args::number(std::string name, std::string placeholder, std::string help, int64_t *value, int64_t low,
                  int64_t high, Need need)
{
    std::string shown = need == REQUIRED ? help : with_default(help, std::to_string(*value));
    add(name, placeholder, shown, need == REQUIRED, [=](const std::string &word) {
        int64_t parsed = 0;
        if (!parse_number(word, &parsed) || parsed < low || parsed > high)
            throw UsageError("--" + name + " is a whole number from " + std::to_string(low) + " to " +
                             std::to_string(high) + ", not '" + word + "'");
        *value = parsed;
    });
}

void Args::real(std::string name, std::string placeholder, std::string help, double *value, double low, double high,
                Need need)
{
    std::string shown = need == REQUIRED ? help : with_default(help, short_real(*value));
    add(name, placeholder, shown, need == REQUIRED, [=](const std::string &word) {
        double parsed = 0;
        if (!parse_real(word, &parsed) || !(parsed >= low && parsed <= high))
            throw UsageError("--" + name + " is a number from " + short_real(low) + " to " + short_real(high) +
                             ", not '" + word + "'");
        *value = parsed;
    });
}

void Args::flag(std::string name, std::string help, bool *value)
{
    add(std::move(name), "", std::move(help), false, [value](const std::string &) { *value = true; });
}

void Args::maybe(std::string name, std::string placeholder, std::string help, std::string *value, std::string fallback)
{
    add(std::move(name), std::move(placeholder), with_default(help, fallback), false,
        [value, fallback](const std::string &word) { *value = word.empty() ? fallback : word; });
    options_.back().value_optional = true;
}

Args::Option &Args::find(const std::string &name)
{
    for (Option &option : options_)
        if (option.name == name)
            return option;
    throw UsageError("unknown option '--" + name + "'; see hattn " + command_ + " --help");
}

bool Args::parse()
{
    for (const std::string &word : words_)
        if (word == "--help" || word == "-h") {
            std::fputs(help().c_str(), stdout);
            return false;
        }
    for (size_t i = 0; i < words_.size(); i++) {
        const std::string &word = words_[i];
        if (word.size() < 3 || word.compare(0, 2, "--") != 0)
            throw UsageError("unexpected '" + word + "'; see hattn " + command_ + " --help");
        size_t equals = word.find('=');
        bool attached = equals != std::string::npos;
        Option &option = find(attached ? word.substr(2, equals - 2) : word.substr(2));
        if (option.given)
            throw UsageError("--" + option.name + " is given twice");
        option.given = true;
        std::string value;
        if (attached) {
            if (!option.takes_value)
                throw UsageError("--" + option.name + " takes no value");
            value = word.substr(equals + 1);
        } else if (option.takes_value) {
            bool next = i + 1 < words_.size() && words_[i + 1].compare(0, 2, "--") != 0;
            if (next)
                value = words_[++i];
            else if (!option.value_optional)
                throw UsageError("--" + option.name + " needs a value: " + option.placeholder);
        }
        option.set(value);
    }
    for (const Option &option : options_)
        if (option.required && !option.given)
            throw UsageError("--" + option.name + " " + option.placeholder + " is needed; see hattn " + command_ +
                             " --help");
    return true;
}

bool Args::given(const std::string &name) const
{
    for (const Option &option : options_)
        if (option.name == name)
            return option.given;
    return false;
}

std::string Args::help() const
{
    const size_t width = 110;
    std::string usage = "usage: hattn " + command_, text;
    size_t column = usage.size(), widest = 0;
    std::vector<std::string> lefts;
    for (const Option &option : options_) {
        std::string left = "--" + option.name;
        if (option.takes_value)
            left += option.value_optional ? " [" + option.placeholder + "]" : " " + option.placeholder;
        std::string shown = option.required ? left : "[" + left + "]";
        if (column + 1 + shown.size() > width) {
            usage += "\n           ";
            column = 11;
        }
        usage += " " + shown;
        column += 1 + shown.size();
        widest = std::max(widest, left.size());
        lefts.push_back(left);
    }
    widest = std::min<size_t>(widest, 34);
    for (size_t i = 0; i < options_.size(); i++) {
        std::string line = "  " + lefts[i];
        line += lefts[i].size() <= widest ? std::string(widest - lefts[i].size() + 2, ' ')
                                          : "\n" + std::string(widest + 4, ' ');
        text += line + options_[i].help + "\n";
    }
    return usage + "\n\n" + about_ + "\n" + (text.empty() ? "" : "\n" + text);
}
