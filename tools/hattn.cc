/* SPDX-License-Identifier: Apache-2.0
 * The hattn command: finds the sub-command, turns a refusal into one line on stderr and an exit code.
 */
#include <cstdio>
#include <exception>
#include <new>

#include "api/hattn.h"
#include "tools/args.h"

struct Command {
    const char *name;
    int (*run)(Args &);
    const char *text;
};

static const Command COMMANDS[] = {
    {"info", cmd_info, "which backends and devices this build sees, and why one is absent"},
    {"decode", cmd_decode, "decode a trace of real queries and keys: accuracy, time, correctness"},
    {"verify", cmd_verify, "check every operation of a backend against the reference"},
    {"bench", cmd_bench, "time decode shapes against this machine's own ceilings"},
};

static void print_usage(std::FILE *out)
{
    std::fputs("usage: hattn COMMAND [options]\n       hattn COMMAND --help\n       hattn --version\n\n", out);
    for (const Command &command : COMMANDS)
        std::fprintf(out, "  %-8s %s\n", command.name, command.text);
}

static int run(const Command &command, int argc, char **argv)
{
    Args args(command.name, std::vector<std::string>(argv, argv + argc));
    try {
        return command.run(args);
    } catch (const UsageError &error) {
        std::fprintf(stderr, "hattn %s: %s\n", command.name, error.what());
    } catch (const std::bad_alloc &) {
        std::fprintf(stderr, "hattn %s: out of memory\n", command.name);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "hattn %s: internal error: %s\n", command.name, error.what());
    }
    return EXIT_USAGE;
}

int main(int argc, char **argv)
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
    if (first.empty())
        std::fprintf(stderr, "hattn: a command is needed; see hattn --help\n");
    else
        std::fprintf(stderr, "hattn: unknown command '%s'; see hattn --help\n", first.c_str());
    return EXIT_USAGE;
}
