/* SPDX-License-Identifier: Apache-2.0
 * The library's handles as C++ owners that throw UsageError with the library's own text, and buffers for them.
 */
#ifndef HATTN_TOOLS_DEVICE_H
#define HATTN_TOOLS_DEVICE_H

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api/hattn.h"

/* A struct with a struct_size, zeroed but for it. */
template <typename Struct>
Struct sized()
{
    Struct value = {};
    value.struct_size = sizeof(value);
    return value;
}

/* Throws UsageError "what: status: text" unless status is HATTN_OK. */
void check(hattn_status status, const hattn_error &error, const std::string &what);

std::vector<hattn_backend_info> query_backends();
/* NAME, or for "all" every backend with a device that works on the host's memory: those that decode and bench know how to
 * feed. Throws UsageError where that is none, saying why. */
std::vector<std::string> choose_backends(const std::string &name);
/* "all" and the known names: for Args::choice. */
std::vector<std::string> backend_choices();

/* Memory that the backends can use, aligned to 256 bytes, zeroed. All backends there are work on the host's. */
class Buffer
{
public:
    Buffer() = default;
    explicit Buffer(uint64_t size);
    Buffer(const void *data, uint64_t size);

    /* Empty buffers give null: "not there" to the library. */
    hattn_buffer at(uint64_t byte_offset = 0) const { return {data_.get(), data_ ? byte_offset : 0}; }
    template <typename Element>
    Element *as() const
    {
        return static_cast<Element *>(data_.get());
    }
    uint64_t size() const { return size_; }

private:
    struct Release {
        void operator()(void *data) const;
    };
    std::unique_ptr<void, Release> data_;
    uint64_t size_ = 0;
};

class Device
{
public:
    /* isa is for the cpu backend alone, empty: the best; threads 0: all. */
    Device(const std::string &backend, const std::string &isa, int32_t threads, int32_t index = 0);

    hattn_device *get() const { return device_.get(); }
    const hattn_device_info &info() const { return info_; }

private:
    struct Close {
        void operator()(hattn_device *device) const { hattn_device_close(device); }
    };
    std::unique_ptr<hattn_device, Close> device_;
    hattn_device_info info_ = sized<hattn_device_info>();
};

/* A plan with a workspace that is ready. */
class Plan
{
public:
    Plan(const Device &device, const hattn_problem &problem, int32_t threads);

    const hattn_plan *get() const { return plan_.get(); }
    const hattn_exec *exec() const { return &exec_; }

private:
    struct Destroy {
        void operator()(hattn_plan *plan) const { hattn_plan_destroy(plan); }
    };
    std::unique_ptr<hattn_plan, Destroy> plan_;
    Buffer workspace_;
    hattn_exec exec_ = sized<hattn_exec>();
};

#endif
