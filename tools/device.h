/* SPDX-License-Identifier: Apache-2.0
 * The library's handles as C++ owners that throw UsageError with the library's own text.
 */
#ifndef HATTN_TOOLS_DEVICE_H
#define HATTN_TOOLS_DEVICE_H

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api/hattn.h"
#include "core/sized.h"
#include "devices/buffer.h"
#include "devices/timing.h"
#include "tools/args.h"

/* At least 1: the most threads that a command asks for. */
int num_processors();

/* A device that is there, and refuses or fails: nothing that other words of the user could change. */
class DeviceError : public UsageError
{
public:
    using UsageError::UsageError;
};

/* ... whose backend has no code for what was asked. */
class UnsupportedError : public DeviceError
{
public:
    using DeviceError::DeviceError;
};

/* Throws "what: status: text" unless status is HATTN_OK: for HATTN_INVALID_ARGUMENT a UsageError, for HATTN_UNSUPPORTED an
 * UnsupportedError, else a DeviceError. */
void check(hattn_status status, const hattn_error &error, const std::string &what);

std::vector<hattn_backend_info> query_backends();
/* NAME, or for "all" every backend with a device. Throws UsageError where that is none, saying why. */
std::vector<std::string> choose_backends(const std::string &name);
/* "all" and the known names: for Args::choice. */
std::vector<std::string> backend_choices();

/* Versions of the driver and runtime under a backend; "" on the host. */
std::string driver_of(const std::string &backend);

class Device
{
public:
    /* isa is for the cpu backend alone, empty: the best; threads 0: all. */
    Device(const std::string &backend, const std::string &isa, int32_t threads, int32_t index = 0);

    hattn_device *get() const { return device_.get(); }
    const hattn_device_info &info() const { return info_; }
    /* Where its buffers must lie. */
    const devices::Memory &memory() const { return own_memory_ ? *own_memory_ : devices::host_memory(); }
    bool has_own_memory() const { return own_memory_ != nullptr; }
    /* Made when it is first wanted: a device's costs a context. */
    devices::Stopwatch &stopwatch() const;

private:
    struct Close {
        void operator()(hattn_device *device) const { hattn_device_close(device); }
    };
    std::unique_ptr<hattn_device, Close> device_;
    hattn_device_info info_ = sized<hattn_device_info>();
    const devices::Memory *own_memory_ = nullptr;
    mutable std::unique_ptr<devices::Stopwatch> stopwatch_;
};

/* A plan with a workspace that is ready. Runs are enqueued on the device's stopwatch; the device outlives the plan. */
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
    devices::Buffer workspace_;
    hattn_exec exec_ = sized<hattn_exec>();
};

#endif
