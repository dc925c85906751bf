/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tools/args.h"

namespace {

/* The descriptor that a path is another name of, or -1. */
int named_descriptor(const std::string &path)
{
    if (path == "-" || path == "/dev/stdout")
        return 1;
    if (path == "/dev/stderr")
        return 2;
    int64_t number = -1;
    for (const std::string start : {"/dev/fd/", "/proc/self/fd/"})
        if (!path.compare(0, start.size(), start) && parse_number(path.substr(start.size()), &number) &&
            number <= INT_MAX)
            return int(number);
    return -1;
}

bool same_file(const struct stat &a, const struct stat &b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

std::string directory_of(const std::string &path)
{
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "./" : path.substr(0, slash + 1);
}

} // namespace

void Output::refuse(const std::string &why) const
{
    throw UsageError("cannot write " + (is_stdout() ? "to stdout" : path_) + ": " + why);
}

void Output::refuse_errno() const { refuse(std::strerror(errno)); }

Output::Output(std::string option, std::string path) : option_(std::move(option)), path_(std::move(path))
{
    if (path_.empty())
        return;
    target_ = path_;
    for (int links = 0; (descriptor_ = named_descriptor(target_)) < 0; links++) {
        char link[PATH_MAX];
        const ssize_t size = readlink(target_.c_str(), link, sizeof(link));
        if (size < 0)
            break;
        if (links == 40)
            refuse(std::strerror(ELOOP));
        const std::string next(link, size_t(size));
        target_ = next[0] == '/' ? next : directory_of(target_) + next;
    }
    if (descriptor_ < 0)
        look_at_target();
    if (descriptor_ < 0)
        return;
    kind_ = DESCRIPTOR;
    const int flags = fcntl(descriptor_, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY || fstat(descriptor_, &status_))
        refuse(std::strerror(EBADF));
    exists_ = true;
}

/* Finds out what there is and whether it could be written. A file that is stdout or stderr already gets no second writer. */
void Output::look_at_target()
{
    directory_ = directory_of(target_);
    exists_ = stat(target_.c_str(), &status_) == 0;
    if (!exists_ && errno != ENOENT)
        refuse_errno();
    if (exists_) {
        if (S_ISDIR(status_.st_mode))
            refuse(std::strerror(EISDIR));
        if (access(target_.c_str(), W_OK))
            refuse_errno();
        if (S_ISFIFO(status_.st_mode) || S_ISCHR(status_.st_mode)) {
            kind_ = SPECIAL_FILE;
            return;
        }
        if (!S_ISREG(status_.st_mode))
            refuse("neither a file nor a pipe");
        for (int standard = 1; standard <= 2; standard++) {
            struct stat open;
            if (!fstat(standard, &open) && same_file(open, status_)) {
                descriptor_ = standard;
                return;
            }
        }
    } else if (stat(directory_.c_str(), &status_)) {
        refuse_errno();
    }
    kind_ = REGULAR_FILE;
    std::string aside;
    const int probe = open_aside(&aside);
    if (probe < 0)
        refuse_errno();
    close(probe);
    unlink(aside.c_str());
}

/* A new file beside the target. */
int Output::open_aside(std::string *name) const
{
    for (int number = 0;; number++) {
        *name = directory_ + ".hattn-" + std::to_string(getpid()) + "-" + std::to_string(number);
        const int descriptor = open(name->c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor >= 0 || errno != EEXIST || number == 1000)
            return descriptor;
    }
}

/* On failure nothing is left of `aside`. */
void Output::write_all(int descriptor, const std::string &bytes, const char *aside) const
{
    for (size_t done = 0; done < bytes.size();) {
        const ssize_t size = ::write(descriptor, bytes.data() + done, bytes.size() - done);
        if (size > 0)
            done += size_t(size);
        else if (size == 0 || errno != EINTR) {
            const int reason = size ? errno : ENOSPC;
            if (aside)
                unlink(aside);
            refuse(std::strerror(reason));
        }
    }
}

void Output::write(const std::string &bytes) const
{
    if (kind_ == DESCRIPTOR) {
        std::string why;
        if (!flush_stdout(&why))
            throw UsageError(why);
        write_all(descriptor_, bytes, nullptr);
        return;
    }
    std::string aside;
    const bool special = kind_ == SPECIAL_FILE;
    const int descriptor = special ? open(target_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY) : open_aside(&aside);
    if (descriptor < 0)
        refuse_errno();
    write_all(descriptor, bytes, special ? nullptr : aside.c_str());
    /* A file that was there keeps its mode, and its owner where we may give it away. */
    bool done = special || !exists_ ||
                ((fchown(descriptor, status_.st_uid, status_.st_gid) == 0 || errno == EPERM) &&
                 fchmod(descriptor, status_.st_mode & 07777) == 0);
    done = close(descriptor) == 0 && done;
    done = done && (special || rename(aside.c_str(), target_.c_str()) == 0);
    if (done)
        return;
    const int reason = errno;
    if (!special)
        unlink(aside.c_str());
    refuse(std::strerror(reason));
}

void Output::check_apart(const std::vector<const Output *> &outputs, const std::vector<Input> &inputs)
{
    for (const Output *one : outputs) {
        if (!one->is_wanted())
            continue;
        for (const Input &input : inputs) {
            struct stat status;
            if (one->exists_ && !stat(input.path.c_str(), &status) && same_file(status, one->status_))
                throw UsageError(one->option_ + " would write over the file of " + input.option + ", " + input.path);
        }
        for (const Output *other : outputs) {
            if (other == one)
                break;
            if (one->is_stdout() && other->is_stdout())
                throw UsageError(other->option_ + " and " + one->option_ + " cannot both write to stdout");
            if (!other->is_wanted() || S_ISCHR(one->status_.st_mode))
                continue;
            const auto name = [](const Output *output) {
                return output->exists_ ? "" : output->target_.substr(output->directory_.size());
            };
            if (one->exists_ == other->exists_ && same_file(one->status_, other->status_) && name(one) == name(other))
                throw UsageError(other->option_ + " and " + one->option_ + " name one file, " + one->path_);
        }
    }
}

bool flush_stdout(std::string *why)
{
    errno = 0;
    if (!std::fflush(stdout) && !std::ferror(stdout))
        return true;
    *why = std::string("cannot write to stdout") + (errno ? std::string(": ") + std::strerror(errno) : "");
    return false;
}
