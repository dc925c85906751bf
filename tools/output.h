/* SPDX-License-Identifier: Apache-2.0
 * Where a command's results go: the one way to write a file. "-" is stdout. A file is written aside and renamed, so that
 * it is the old one or the new one, whole, and a run that fails leaves nothing. Pipes and devices are written to directly,
 * once, at the end.
 */
#ifndef HATTN_TOOLS_OUTPUT_H
#define HATTN_TOOLS_OUTPUT_H

#include <sys/stat.h>

#include <string>
#include <vector>

class Output
{
public:
    /* option: "--json", for refusals; path "": not wanted. Throws UsageError where it could not be written: asked before
     * the long work, not after it. */
    Output(std::string option, std::string path);

    bool is_wanted() const { return kind_ != NONE; }
    bool is_stdout() const { return kind_ == DESCRIPTOR && descriptor_ == 1; }

    /* All of it, once. Throws UsageError. */
    void write(const std::string &bytes) const;

    /* Throws UsageError where two of them write to one place, or where one would write over an input of the command. */
    struct Input {
        std::string option, path;
    };
    static void check_apart(const std::vector<const Output *> &outputs, const std::vector<Input> &inputs);

private:
    enum Kind { NONE, DESCRIPTOR, SPECIAL_FILE, REGULAR_FILE };

    [[noreturn]] void refuse(const std::string &why) const;
    [[noreturn]] void refuse_errno() const;
    void look_at_target();
    int open_aside(std::string *name) const;
    void write_all(int descriptor, const std::string &bytes, const char *aside) const;

    std::string option_, path_;
    Kind kind_ = NONE;
    int descriptor_ = -1;
    std::string target_,
        directory_; /* path_ without links at its end, and the directory that it is in, ending in '/' */
    bool exists_ = false;
    struct stat status_ = {}; /* of what exists, or of the directory */
};

/* Flushes stdout. False and a text where not all that was printed has been written. */
bool flush_stdout(std::string *why);

#endif
