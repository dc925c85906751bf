/* SPDX-License-Identifier: Apache-2.0
 * AMD's runtime, played: a library under its name that records what is asked of it and fails where it is told to. It has no
 * device: launches do nothing.
 */
#ifndef HATTN_TESTS_FAKE_HIP_H
#define HATTN_TESTS_FAKE_HIP_H

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

struct __attribute__((visibility("default"))) FakeHip {
    struct Launch {
        std::string kernel;
        const void *image; /* that it is from */
        int device;        /* that was current */
        unsigned blocks[3], threads, shared_bytes;
        void *stream, **arguments;
    };

    /* What it does. */
    int num_devices = 2;
    std::string architecture = "gfx942:sramecc+:xnack-";
    std::string fails; /* the function that returns `code`, and remembers it as the last error */
    int code = 719;
    int static_shared = 1000, block_shared = 65536;
    std::function<void(const Launch &)> on_launch;

    /* What it saw. */
    int current = 0, last_error = 0;
    std::map<std::string, int> calls;
    std::vector<Launch> launches;
    struct Zeroed {
        void *address;
        size_t size;
        void *stream;
    };
    std::vector<Zeroed> zeroed;
    std::mutex mutex;

    /* As at the start, but for what was loaded. */
    void reset();
};

__attribute__((visibility("default"))) FakeHip &fake_hip();

#endif
