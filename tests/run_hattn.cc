/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/run_hattn.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>

extern char **environ;

static std::string base_name() { return testing::TempDir() + "/" + std::to_string(getpid()); }

static std::string take(const std::string &path)
{
    const std::string text = read_file(path);
    std::remove(path.c_str());
    return text;
}

static Ran run(const Words &words, const std::function<void(posix_spawn_file_actions_t *)> &set_stdout)
{
    const std::string err = base_name() + ".err";
    std::string program = "tools/hattn";
    std::vector<char *> argv = {program.data()};
    for (const std::string &word : words)
        argv.push_back(const_cast<char *>(word.c_str()));
    argv.push_back(nullptr);

    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    set_stdout(&files);
    posix_spawn_file_actions_addopen(&files, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    pid_t child = 0;
    const int failed = posix_spawn(&child, program.c_str(), &files, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&files);
    if (failed) {
        ADD_FAILURE() << "cannot run " << program;
        return {-1, "", ""};
    }
    int status = 0;
    waitpid(child, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, "", take(err)};
}

Ran run_hattn(const Words &words)
{
    const std::string out = base_name() + ".out";
    Ran ran = run(words, [&out](posix_spawn_file_actions_t *files) {
        posix_spawn_file_actions_addopen(files, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    });
    ran.out = take(out);
    return ran;
}

Ran run_hattn_onto(int standard_output, const Words &words)
{
    return run(words, [standard_output](posix_spawn_file_actions_t *files) {
        if (standard_output < 0)
            posix_spawn_file_actions_addclose(files, 1);
        else
            posix_spawn_file_actions_adddup2(files, standard_output, 1);
    });
}

JsonOwner parse_json(const std::string &text)
{
    json_error_t error;
    JsonOwner json(json_loads(text.c_str(), JSON_REJECT_DUPLICATES, &error), &json_decref);
    EXPECT_NE(json, nullptr) << error.text << " in\n" << text;
    return json;
}

std::string why_no_device(const std::string &backend)
{
    const JsonOwner json = parse_json(run_hattn({"info", "--json"}).out);
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(json.get(), "backends"), i,
                       one) if (json_string_value(json_object_get(one, "name")) ==
                                backend) return json_string_value(json_object_get(one, "text"));
    return "no backend " + backend;
}

Words decode(const std::string &trace, const Words &more)
{
    Words words = {"decode", "--trace", trace, "--backend", "cpu", "--maps", "weighted64"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

std::string command_line(const Words &words)
{
    std::string text = "hattn";
    for (const std::string &word : words)
        text += " '" + word + "'";
    return text;
}

void expect_refused(const Ran &ran, const std::string &text)
{
    EXPECT_EQ(ran.exit_code, 2);
    EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
    EXPECT_EQ(ran.err.compare(0, 5, "hattn"), 0) << ran.err;
    EXPECT_NE(ran.err.find(text), std::string::npos) << ran.err;
}

void expect_refusal(const Words &words, const std::string &text)
{
    SCOPED_TRACE(command_line(words));
    const Ran ran = run_hattn(words);
    EXPECT_EQ(ran.out, "");
    expect_refused(ran, text);
}

std::string read_file(const std::string &path)
{
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
}

void write_file(const std::string &path, const std::string &bytes) { std::ofstream(path, std::ios::binary) << bytes; }

Directory::Directory() : path_(testing::TempDir() + "/hattn-XXXXXX")
{
    if (!mkdtemp(path_.data()))
        ADD_FAILURE() << "cannot make " << path_;
}

Directory::~Directory()
{
    for (const std::string &name : names())
        unlink(at(name).c_str());
    rmdir(path_.c_str());
}

std::set<std::string> Directory::names() const
{
    std::set<std::string> found;
    DIR *directory = opendir(path_.c_str());
    while (const dirent *entry = readdir(directory))
        if (entry->d_name != std::string(".") && entry->d_name != std::string(".."))
            found.insert(entry->d_name);
    closedir(directory);
    return found;
}
