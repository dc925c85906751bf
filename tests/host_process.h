/* SPDX-License-Identifier: Apache-2.0
 * What the tests of a host process share: a decode step that is always the same, a team's barrier.
 */
#ifndef HATTN_TESTS_HOST_PROCESS_H
#define HATTN_TESTS_HOST_PROCESS_H

#include <pthread.h>

#include "tests/api_job.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
const bool SANITIZED = true;
#else
const bool SANITIZED = false;
#endif

inline hattn_device *open_cpu(int threads)
{
    hattn_device_options options = sized<hattn_device_options>();
    options.backend = "cpu";
    options.max_threads = threads;
    hattn_device *device = nullptr;
    hattn_error error = {};
    EXPECT_EQ(HATTN_OK, hattn_device_open(&options, &device, &error)) << error.text;
    return device;
}

/* One decode step, again and again. */
class Decode
{
public:
    explicit Decode(const char *backend = "cpu") : device(backend), job(device, good_problem())
    {
        const hattn_encode_keys_args keys = job.encode_keys_args();
        EXPECT_EQ(HATTN_OK, hattn_encode_keys(job.plan.get(), &keys, &job.exec, nullptr));
        expected = run(1);
    }

    /* Selections and outputs. */
    std::vector<std::vector<uint8_t>> run(int threads)
    {
        for (const hattn_buffer &buffer : {job.out, job.lse, job.indices, job.counts})
            std::fill(job.bytes(buffer).begin(), job.bytes(buffer).end(), 0xaa);
        const hattn_decode_args args = job.decode_args(true);
        job.exec.num_threads = threads;
        hattn_error error = {};
        EXPECT_EQ(HATTN_OK, hattn_decode(job.plan.get(), &args, &job.exec, &error)) << error.text;
        return results();
    }
    std::vector<std::vector<uint8_t>> results()
    {
        return {job.bytes(job.out), job.bytes(job.lse), job.bytes(job.indices), job.bytes(job.counts)};
    }

    Device device; /* of three threads */
    Job job;
    std::vector<std::vector<uint8_t>> expected;
};

/* For a hattn_team. */
struct Barrier {
    explicit Barrier(int size) { pthread_barrier_init(&barrier, nullptr, unsigned(size)); }
    ~Barrier() { pthread_barrier_destroy(&barrier); }
    static void wait(void *self) { pthread_barrier_wait(&static_cast<Barrier *>(self)->barrier); }
    pthread_barrier_t barrier;
};

#endif
