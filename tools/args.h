/* SPDX-License-Identifier: Apache-2.0
 * Options of the hattn command, declared once: parsing, ranges, --help and refusals come from the declaration.
 *
 *     int cmd_thing(Args &args)
 *     {
 *         std::string file, mode = "fast";
 *         int64_t count = 4;
 *         bool loud = false;
 *         args.about("Does the thing to FILE.");
 *         args.text("file", "FILE", "what to read", &file, Args::REQUIRED);
 *         args.choice("mode", {"fast", "exact"}, "how to do it", &mode);
 *         args.number("count", "N", "how often", &count, 1, 100);
 *         args.flag("loud", "say so", &loud);
 *         if (!args.parse())
 *             return 0; // --help was asked for and printed
 *         ...
 *     }
 */
#ifndef HATTN_TOOLS_ARGS_H
#define HATTN_TOOLS_ARGS_H

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

/* Exit codes of every command. */
enum {
    EXIT_OK = 0,
    EXIT_WRONG = 1 /* a verification failed */,
    EXIT_USAGE = 2 /* bad arguments or unreadable input */
};

/* What the user asked cannot be done. main() prints "hattn COMMAND: <what>" as one line on stderr and exits EXIT_USAGE. */
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Args
{
public:
    enum Need { OPTIONAL, REQUIRED };

    /* words: what follows the command's name on the command line. */
    Args(std::string command, std::vector<std::string> words) : command_(std::move(command)), words_(std::move(words))
    {
    }

    const std::string &command() const { return command_; }

    /* One or a few sentences on top of --help. */
    void about(std::string text) { about_ = std::move(text); }

    /* Declarations: name without dashes; *value holds the default, shown by --help unless it is empty. Options are given
     * as "--name value" or "--name=value", each at most once. */
    void text(std::string name, std::string placeholder, std::string help, std::string *value, Need need = OPTIONAL);
    void choice(std::string name, std::vector<std::string> values, std::string help, std::string *value,
                Need need = OPTIONAL);
    void number(std::string name, std::string placeholder, std::string help, int64_t *value, int64_t low, int64_t high,
                Need need = OPTIONAL);
    void real(std::string name, std::string placeholder, std::string help, double *value, double low, double high,
              Need need = OPTIONAL);
    void flag(std::string name, std::string help, bool *value);
    /* "--name [VALUE]": *value is VALUE, or fallback where the next word is another option or nothing. */
    void maybe(std::string name, std::string placeholder, std::string help, std::string *value, std::string fallback);

    /* False: --help was there and has been printed on stdout. Throws UsageError. */
    bool parse();
    /* After parse: whether the command line had it. */
    bool given(const std::string &name) const;
    std::string help() const;

private:
    struct Option {
        std::string name, placeholder, help;
        bool required, takes_value, value_optional, given;
        std::function<void(const std::string &)> set;
    };

    void add(std::string name, std::string placeholder, std::string help, bool required,
             std::function<void(const std::string &)> set);
    Option &find(const std::string &name);

    std::string command_, about_;
    std::vector<std::string> words_;
    std::vector<Option> options_;
};

/* The whole of `word` as a number, or false. */
bool parse_number(const std::string &word, int64_t *value);
bool parse_real(const std::string &word, double *value);

/* Every command; hattn.cc has the table. */
int cmd_info(Args &args);
int cmd_decode(Args &args);
int cmd_calibrate(Args &args);
int cmd_verify(Args &args);
int cmd_bench(Args &args);

#endif
