/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fake_hip.h"

#include <cstring>
#include <memory>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

struct Module {
    const void *image;
    int device;
};

struct Function {
    std::string name;
    Module module;
};

/* Handles live as long as the process, like the library's. */
std::vector<std::unique_ptr<Module>> modules;
std::vector<std::unique_ptr<Function>> functions;

/* Counts a call; whether it fails. */
int enter(const char *name)
{
    FakeHip &hip = fake_hip();
    hip.calls[name]++;
    if (hip.fails != name)
        return 0;
    hip.last_error = hip.code;
    return hip.code;
}

#define ENTER                                                 \
    const std::lock_guard<std::mutex> lock(fake_hip().mutex); \
    if (const int failure = enter(__func__))                  \
        return failure;

} // namespace

FakeHip &fake_hip()
{
    static FakeHip hip;
    return hip;
}

void FakeHip::reset()
{
    num_devices = 2;
    architecture = "gfx942:sramecc+:xnack-";
    fails.clear();
    code = 719;
    static_shared = 1000;
    block_shared = 65536;
    on_launch = nullptr;
    current = last_error = 0;
    calls.clear();
    launches.clear();
    zeroed.clear();
}

EXPORTED const char *hipGetErrorString(int error)
{
    static const std::string known = "played failure", unknown = "another failure";
    return error == fake_hip().code ? known.c_str() : unknown.c_str();
}

EXPORTED int hipPeekAtLastError() { return fake_hip().last_error; }

EXPORTED int hipGetLastError()
{
    const int error = fake_hip().last_error;
    fake_hip().last_error = 0;
    return error;
}

EXPORTED int hipGetDeviceCount(int *count)
{
    ENTER
    *count = fake_hip().num_devices;
    return 0;
}

EXPORTED int hipGetDevice(int *device)
{
    ENTER
    *device = fake_hip().current;
    return 0;
}

EXPORTED int hipSetDevice(int device)
{
    ENTER
    fake_hip().current = device;
    return 0;
}

/* Of a made-up layout: the name is in front, the architecture's somewhere behind it. */
EXPORTED int hipGetDevicePropertiesR0600(void *properties, int device)
{
    ENTER
    char *text = static_cast<char *>(properties);
    memset(text, 0, 1472);
    snprintf(text, 256, "Played %d", device);
    snprintf(text + 1160, 256, "%s", fake_hip().architecture.c_str());
    return 0;
}

EXPORTED int hipDeviceGetAttribute(int *value, int attribute, int)
{
    ENTER
    const std::map<int, int> values = {{63, 304}, {74, fake_hip().block_shared}, {10002, fake_hip().block_shared}};
    *value = values.at(attribute);
    return 0;
}

EXPORTED int hipMemsetAsync(void *to, int, size_t size, void *stream)
{
    ENTER
    fake_hip().zeroed.push_back({to, size, stream});
    return 0;
}

EXPORTED int hipModuleLoadData(void **module, const void *image)
{
    ENTER
    modules.push_back(std::make_unique<Module>(Module{image, fake_hip().current}));
    *module = modules.back().get();
    return 0;
}

EXPORTED int hipModuleGetFunction(void **function, void *module, const char *name)
{
    ENTER
    functions.push_back(std::make_unique<Function>(Function{name, *static_cast<Module *>(module)}));
    *function = functions.back().get();
    return 0;
}

EXPORTED int hipFuncGetAttribute(int *value, int attribute, void *)
{
    ENTER
    *value = attribute == 1 ? fake_hip().static_shared : -1;
    return 0;
}

EXPORTED int hipModuleLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned,
                                   unsigned, unsigned shared_bytes, void *stream, void **arguments, void **)
{
    ENTER
    FakeHip &hip = fake_hip();
    const Function &from = *static_cast<Function *>(function);
    if (from.module.device != hip.current)
        return hip.last_error = 400;
    hip.launches.push_back(
        {from.name, from.module.image, hip.current, {x, y, z}, threads, shared_bytes, stream, arguments});
    if (hip.on_launch)
        hip.on_launch(hip.launches.back());
    return 0;
}
