/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/text.h"

namespace {

/* The character that begins at `at`, and how many bytes it has; `valid` is false for one byte that is not UTF-8. */
struct Character {
    uint32_t code;
    size_t size;
    bool valid;
};

Character character_at(const std::string &text, size_t at)
{
    const auto byte = [&](size_t i) { return i < text.size() ? uint8_t(text[i]) : uint8_t(0); };
    const uint8_t first = byte(at);
    if (first < 0x80)
        return {first, 1, true};
    const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    uint32_t code = first & (0x7f >> size);
    bool valid = first >= 0xc0 && first < 0xf8;
    for (size_t i = 1; i < size; i++) {
        valid = valid && (byte(at + i) & 0xc0) == 0x80;
        code = code << 6 | (byte(at + i) & 0x3f);
    }
    const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    valid = valid && code >= smallest[size] && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
    return {code, valid ? size : 1, valid};
}

bool is_plain(const Character &one)
{
    const uint32_t code = one.code;
    const bool control = code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x2028 || code == 0x2029;
    const bool turns = code == 0x61c || code == 0x200e || code == 0x200f || (code >= 0x202a && code <= 0x202e) ||
                       (code >= 0x2066 && code <= 0x2069);
    return one.valid && !control && !turns;
}

} // namespace

std::string valid_utf8(const std::string &text)
{
    std::string valid;
    for (size_t at = 0; at < text.size();) {
        const Character one = character_at(text, at);
        valid += one.valid ? text.substr(at, one.size) : "\xef\xbf\xbd";
        at += one.size;
    }
    return valid;
}

std::string printable(const std::string &text, size_t limit)
{
    std::string line;
    for (size_t at = 0; at < text.size(); limit--) {
        if (!limit)
            return line + "...";
        const Character one = character_at(text, at);
        line += is_plain(one) ? text.substr(at, one.size) : "?";
        at += one.size;
    }
    return line;
}

std::string quoted(const std::string &name) { return "'" + printable(name, 80) + "'"; }

size_t num_characters(const std::string &text)
{
    size_t count = 0;
    for (size_t at = 0; at < text.size(); count++)
        at += character_at(text, at).size;
    return count;
}
