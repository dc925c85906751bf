/* SPDX-License-Identifier: Apache-2.0
 * Text that came from outside (names in files, paths, drivers), made fit for where it goes.
 */
#ifndef HATTN_TOOLS_TEXT_H
#define HATTN_TOOLS_TEXT_H

#include <cstddef>
#include <cstdint>
#include <string>

/* The text with U+FFFD for each byte that is not part of UTF-8: what JSON and XML can hold. */
std::string valid_utf8(const std::string &text);

/* One line for a terminal: '?' for each control character, each mark that turns the direction of writing and each byte that
 * is not part of UTF-8; what is longer than `limit` characters ends in "...". */
std::string printable(const std::string &text, size_t limit = SIZE_MAX);

/* A name inside of a sentence: 'name', printable and short. */
std::string quoted(const std::string &name);

/* Of UTF-8. */
size_t num_characters(const std::string &text);
#endif
