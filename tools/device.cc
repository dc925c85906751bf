/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/device.h"
#include "core/sized.h"

#include <algorithm>
#include <thread>

int num_processors() { return std::max(1, int(std::thread::hardware_concurrency())); }

void check(hattn_status status, const hattn_error &error, const std::string &what)
{
    if (status == HATTN_OK)
        return;
    const std::string text = what + ": " + hattn_status_string(status) + (error.text[0] ? ": " : "") + error.text;
    if (status == HATTN_INVALID_ARGUMENT)
        throw UsageError(text);
    if (status == HATTN_UNSUPPORTED)
        throw UnsupportedError(text);
    throw DeviceError(text);
}

std::vector<hattn_backend_info> query_backends()
{
    std::vector<hattn_backend_info> list;
    for (int i = 0; i < hattn_backend_count(); i++) {
        hattn_backend_info info = sized<hattn_backend_info>();
        hattn_error error = {};
        check(hattn_backend_query(i, &info, &error), error, "backend " + std::to_string(i));
        list.push_back(info);
    }
    return list;
}

std::vector<std::string> backend_choices()
{
    std::vector<std::string> names = {"all"};
    for (const hattn_backend_info &info : query_backends())
        names.push_back(info.name);
    return names;
}

std::vector<std::string> choose_backends(const std::string &name)
{
    std::vector<std::string> names;
    for (const hattn_backend_info &info : query_backends()) {
        if (name == info.name && !info.num_devices)
            throw UsageError("backend " + name + " has no device: " + info.text);
        if (info.num_devices && (name == "all" || name == info.name))
            names.push_back(info.name);
    }
    if (names.empty())
        throw UsageError(name == "all" ? "no backend has a device" : "no backend '" + name + "'");
    return names;
}

std::string driver_of(const std::string &backend)
{
    const devices::Memory *memory = devices::memory_of(backend);
    if (!memory)
        return "";
    const devices::Properties properties = memory->properties();
    return properties.driver + ", " + properties.runtime;
}

Device::Device(const std::string &backend, const std::string &isa, int32_t threads, int32_t index)
{
    hattn_device_options options = sized<hattn_device_options>();
    options.index = index;
    options.backend = backend.c_str();
    options.isa = backend == "cpu" && !isa.empty() ? isa.c_str() : nullptr;
    options.max_threads = backend == "cpu" ? threads : 0;
    own_memory_ = devices::memory_of(backend);
    if (own_memory_)
        own_memory_->choose(&options);
    hattn_error error = {};
    hattn_device *device = nullptr;
    check(hattn_device_open(&options, &device, &error), error, "backend " + backend);
    device_.reset(device);
    check(hattn_device_query(device, &info_, &error), error, "backend " + backend);
}

devices::Stopwatch &Device::stopwatch() const
{
    if (!stopwatch_)
        stopwatch_ = devices::stopwatch_of(info_.backend);
    return *stopwatch_;
}

Plan::Plan(const Device &device, const hattn_problem &problem, int32_t threads)
{
    hattn_error error = {};
    hattn_plan *plan = nullptr;
    const std::string backend = device.info().backend;
    check(hattn_plan_create(device.get(), &problem, &plan, &error), error, backend);
    plan_.reset(plan);
    exec_.workspace_size = hattn_plan_workspace_size(plan);
    workspace_ = devices::Buffer(device.memory(), exec_.workspace_size);
    exec_.stream = device.stopwatch().stream();
    exec_.workspace = workspace_.at();
    exec_.num_threads = backend == "cpu" ? threads : 0;
    check(hattn_workspace_init(device.get(), exec_.workspace, exec_.workspace_size, exec_.stream, &error), error,
          backend);
}
