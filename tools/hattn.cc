/* SPDX-License-Identifier: Apache-2.0
 * The hattn command: finds the sub-command, turns a refusal into one line on stderr and an exit code.
 */
#include <fcntl.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <new>

#include "api/hattn.h"
#include "tools/args.h"
#include "tools/output.h"
#include "tools/text.h"

namespace {

struct Command {
    const char *name;
    int (*run)(Args &);
    const char *text;
};

const Command COMMANDS[] = {
    {"info", cmd_info, "which backends and devices this build sees, and why one is absent"},
    {"decode", cmd_decode, "decode a trace of real queries and keys: accuracy, time, correctness"},
    {"calibrate", cmd_calibrate, "fit to a trace what floors of probability need"},
    {"verify", cmd_verify, "check every operation of a backend against the reference"},
    {"bench", cmd_bench, "time decode shapes against this machine's own ceilings"},
};

void print_usage(std::FILE *out)
{
    std::fputs("usage: hattn COMMAND [options]\n       hattn COMMAND --help\n       hattn --version\n\n", out);
    for (const Command &command : COMMANDS)
        std::fprintf(out, "  %-9s %s\n", command.name, command.text);
}

/* Every refusal: one line, whatever names are in it. */
int refuse(const std::string &who, const std::string &why)
{
    std::fprintf(stderr, "%s: %s\n", who.c_str(), printable(why).c_str());
    return EXIT_USAGE;
}

int run(const Command &command, int argc, char **argv)
{
    const std::string who = std::string("hattn ") + command.name;
    Args args(command.name, std::vector<std::string>(argv, argv + argc));
    try {
        return command.run(args);
    } catch (const UsageError &error) {
        return refuse(who, error.what());
    } catch (const std::bad_alloc &) {
        return refuse(who, "out of memory");
    } catch (const std::exception &error) {
        return refuse(who, std::string("internal error: ") + error.what());
    }
}

int run_words(int argc, char **argv)
{
    std::string first = argc > 1 ? argv[1] : "";
    if (first == "--help" || first == "-h" || first == "help") {
        print_usage(stdout);
        return EXIT_OK;
    }
    if (first == "--version") {
        int version = hattn_version();
        std::printf("hattn %d.%d.%d\n", version / 10000, version / 100 % 100, version % 100);
        return EXIT_OK;
    }
    for (const Command &command : COMMANDS)
        if (first == command.name)
            return run(command, argc - 2, argv + 2);
    return refuse("hattn", first.empty() ? "a command is needed; see hattn --help"
                                         : "unknown command " + quoted(first) + "; see hattn --help");
}

/* Without them a file that is opened later would be stdout or stderr. Nothing can be written here either. */
void occupy_closed_descriptors()
{
    for (int descriptor = 0; descriptor <= 2; descriptor++)
        if (fcntl(descriptor, F_GETFD) < 0)
            open("/dev/null", descriptor == 0 ? O_WRONLY : O_RDONLY);
}

} // namespace

int main(int argc, char **argv)
{
    occupy_closed_descriptors();
    for (const int signal : {SIGPIPE, SIGXFSZ}) // a reader that has gone, a file too large: told like a full disk
        std::signal(signal, SIG_IGN);
    const int code = run_words(argc, argv);
    std::string why;
    if (code != EXIT_USAGE && !flush_stdout(&why))
        return refuse("hattn", why);
    return code;
}
