/* SPDX-License-Identifier: Apache-2.0 */
#include "devices/hip.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#include "devices/random_word.h"

namespace devices {
namespace {

/* X(name, parameters), of functions that return an error code. As AMD's header declares them: handles are pointers,
 * enumerations ints. */
#define HIP_FUNCTIONS(X)                                                                              \
    X(hipMalloc, (void **address, size_t size))                                                       \
    X(hipFree, (void *address))                                                                       \
    X(hipHostMalloc, (void **address, size_t size, unsigned flags))                                   \
    X(hipHostFree, (void *address))                                                                   \
    X(hipMemcpy, (void *to, const void *from, size_t size, int kind))                                 \
    X(hipMemGetInfo, (size_t * available, size_t * total))                                            \
    X(hipDeviceSynchronize, (void))                                                                   \
    X(hipDriverGetVersion, (int *version))                                                            \
    X(hipRuntimeGetVersion, (int *version))                                                           \
    X(hipGetDeviceCount, (int *count))                                                                \
    X(hipGetDevice, (int *device))                                                                    \
    X(hipSetDevice, (int device))                                                                     \
    X(hipDeviceGetAttribute, (int *value, int attribute, int device))                                 \
    X(hipGetLastError, (void))                                                                        \
    X(hipStreamCreateWithFlags, (void **stream, unsigned flags))                                      \
    X(hipStreamDestroy, (void *stream))                                                               \
    X(hipStreamSynchronize, (void *stream))                                                           \
    X(hipLaunchHostFunc, (void *stream, void (*function)(void *), void *data))                        \
    X(hipStreamBeginCapture, (void *stream, int mode))                                                \
    X(hipStreamEndCapture, (void *stream, void **graph))                                              \
    X(hipGraphInstantiate, (void **executable, void *graph, void **node, char *log, size_t log_size)) \
    X(hipGraphLaunch, (void *executable, void *stream))                                               \
    X(hipGraphDestroy, (void *graph))                                                                 \
    X(hipGraphExecDestroy, (void *executable))                                                        \
    X(hipEventCreate, (void **event))                                                                 \
    X(hipEventDestroy, (void *event))                                                                 \
    X(hipEventRecord, (void *event, void *stream))                                                    \
    X(hipEventElapsedTime, (float *ms, void *start, void *stop))

enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2, L2_CACHE_SIZE = 19, NON_BLOCKING = 1, GLOBAL_CAPTURE = 0 };

class Runtime
{
public:
#define FUNCTION(name, parameters) int(*name) parameters = nullptr;
    HIP_FUNCTIONS(FUNCTION)
#undef FUNCTION
    const char *(*hipGetErrorString)(int error) = nullptr;

    static const Runtime &get()
    {
        static const Runtime runtime;
        return runtime;
    }

private:
    Runtime()
    {
        void *library = nullptr;
        for (const char *name : {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"})
            if (!library)
                library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
        if (!library)
            throw std::runtime_error(dlerror());
#define FUNCTION(name, parameters) find(library, #name, &name);
        HIP_FUNCTIONS(FUNCTION)
#undef FUNCTION
        find(library, "hipGetErrorString", &hipGetErrorString);
    }

    template <class Pointer>
    static void find(void *library, const char *name, Pointer *function)
    {
        void *address = dlsym(library, name);
        if (!address)
            throw std::runtime_error(dlerror());
        memcpy(function, &address, sizeof(address));
    }
};

const Runtime &hip() { return Runtime::get(); }

void check(int error)
{
    if (error) {
        hip().hipGetLastError(); /* thrown, so nobody else is told of it */
        throw std::runtime_error(hip().hipGetErrorString(error));
    }
}

/* Of what AMD numbers as 60342134: 6.3.42134. */
std::string version_text(int version)
{
    return std::to_string(version / 10000000) + "." + std::to_string(version / 100000 % 100) + "." +
           std::to_string(version % 100000);
}

/* Memory of the device. No kernels here: what it is filled with is made on the host. */
class HipMemory : public Memory
{
public:
    void *allocate(size_t size) const override
    {
        void *address;
        check(hip().hipMalloc(&address, size ? size : 1));
        return address;
    }

    void release(void *address) const override { hip().hipFree(address); }

    void write(void *to_device, const void *from_host, size_t size) const override
    {
        check(hip().hipMemcpy(to_device, from_host, size, HOST_TO_DEVICE));
    }

    void read(void *to_host, const void *from_device, size_t size) const override
    {
        check(hip().hipMemcpy(to_host, from_device, size, DEVICE_TO_HOST));
    }

    void fill(void *data, size_t size, uint64_t keep, uint64_t set, uint64_t seed) const override
    {
        constexpr size_t kWords = 1 << 20;
        std::vector<uint64_t> words(kWords);
        for (size_t done = 0; done < size; done += kWords * 8) {
            for (size_t i = 0; i < kWords; i++)
                words[i] = (random_word(seed, done / 8 + i) & keep) | set;
            write(static_cast<char *>(data) + done, words.data(), std::min(size - done, kWords * 8));
        }
    }

    void synchronize() const override { check(hip().hipDeviceSynchronize()); }

    Properties properties() const override
    {
        int device, cache, driver, runtime;
        size_t available, total;
        check(hip().hipGetDevice(&device));
        check(hip().hipDeviceGetAttribute(&cache, L2_CACHE_SIZE, device));
        check(hip().hipMemGetInfo(&available, &total));
        check(hip().hipDriverGetVersion(&driver));
        check(hip().hipRuntimeGetVersion(&runtime));
        return {total, available, size_t(cache), version_text(driver), version_text(runtime)};
    }
};

class PinnedMemory : public HipMemory
{
public:
    void *allocate(size_t size) const override
    {
        void *address;
        check(hip().hipHostMalloc(&address, size ? size : 1, 0));
        return address;
    }

    void release(void *address) const override { hip().hipHostFree(address); }
};

class HipGraph : public Graph
{
public:
    explicit HipGraph(void *executable) : executable_(executable) {}
    ~HipGraph() override { hip().hipGraphExecDestroy(executable_); }
    void replay(void *stream) const override { check(hip().hipGraphLaunch(executable_, stream)); }

private:
    void *executable_;
};

void wait_until_open(void *open)
{
    const auto *is_open = static_cast<const std::atomic<bool> *>(open);
    for (int i = 0; i < 10000 && !*is_open; i++)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

class HipStreams : public Streams
{
public:
    void *make() const override
    {
        void *stream;
        check(hip().hipStreamCreateWithFlags(&stream, NON_BLOCKING));
        return stream;
    }

    void release(void *stream) const override { hip().hipStreamDestroy(stream); }

    void wait(void *stream) const override { check(hip().hipStreamSynchronize(stream)); }

    void hold(void *stream, const std::atomic<bool> *open) const override
    {
        check(hip().hipLaunchHostFunc(stream, wait_until_open, const_cast<std::atomic<bool> *>(open)));
    }

    void begin_capture(void *stream) const override { check(hip().hipStreamBeginCapture(stream, GLOBAL_CAPTURE)); }

    std::unique_ptr<Graph> end_capture(void *stream) const override
    {
        void *graph, *executable;
        check(hip().hipStreamEndCapture(stream, &graph));
        const int error = hip().hipGraphInstantiate(&executable, graph, nullptr, nullptr, 0);
        hip().hipGraphDestroy(graph);
        check(error);
        return std::make_unique<HipGraph>(executable);
    }

    int num_devices() const override
    {
        int count;
        check(hip().hipGetDeviceCount(&count));
        return count;
    }

    int current_device() const override
    {
        int device;
        check(hip().hipGetDevice(&device));
        return device;
    }

    void set_current_device(int index) const override { check(hip().hipSetDevice(index)); }

    void leave_error() const override { static_cast<void>(hip().hipSetDevice(999)); }

    bool take_error() const override { return hip().hipGetLastError() != 0; }
};

/* The calls are made again for each replay: how a graph's events are timed differs between versions of the runtime. */
class HipRecording : public Recording
{
public:
    HipRecording(void *stream, const std::function<void()> &calls) : stream_(stream), calls_(calls)
    {
        check(hip().hipEventCreate(&start_));
        check(hip().hipEventCreate(&stop_));
    }

    ~HipRecording() override
    {
        hip().hipEventDestroy(start_);
        hip().hipEventDestroy(stop_);
    }

    double replay() override
    {
        float ms;
        check(hip().hipEventRecord(start_, stream_));
        calls_();
        check(hip().hipEventRecord(stop_, stream_));
        check(hip().hipStreamSynchronize(stream_));
        check(hip().hipEventElapsedTime(&ms, start_, stop_));
        return double(ms) * 1e3;
    }

private:
    void *stream_, *start_, *stop_;
    std::function<void()> calls_;
};

class HipStopwatch : public Stopwatch
{
public:
    /* Ordered with the default stream, which copies use. */
    HipStopwatch() { check(hip().hipStreamCreateWithFlags(&stream_, 0)); }
    ~HipStopwatch() override { hip().hipStreamDestroy(stream_); }
    void *stream() const override { return stream_; }

    std::unique_ptr<Recording> record(const std::function<void()> &calls) override
    {
        return std::make_unique<HipRecording>(stream_, calls);
    }

private:
    void *stream_;
};

} // namespace

const Memory *hip_memory()
{
    static const HipMemory memory;
    return &memory;
}

const Memory *hip_pinned_memory()
{
    static const PinnedMemory memory;
    return &memory;
}

const Streams *hip_streams()
{
    static const HipStreams streams;
    return &streams;
}

std::unique_ptr<Stopwatch> hip_stopwatch() { return std::make_unique<HipStopwatch>(); }

} // namespace devices
