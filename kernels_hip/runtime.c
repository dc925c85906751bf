/* SPDX-License-Identifier: Apache-2.0
 * AMD's runtime, opened when it is first asked for, and this library's kernels on its devices. What clang writes for each file of
 * kernels calls the three functions at the end before anything else runs: they fill a table, and no runtime is needed for it. The
 * build renames them, so that a program with HIP code of its own keeps its own.
 */
#include "kernels_hip/runtime.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels_hip/api.h"

enum { MOST_FILES = 128, MOST_KERNELS = 2048, MOST_DEVICES = 16, PROPERTY_BYTES = 16384, NAME_BYTES = 256 };

typedef struct code_file {
    const void *image; /* a bundle: code objects of all targets */
    void *module[MOST_DEVICES];
} code_file;

typedef struct kernel {
    const void *handle; /* what C++ takes for its address */
    const char *name;
    code_file *file;
    _Atomic(void *) function[MOST_DEVICES];
} kernel;

static code_file files[MOST_FILES];
static kernel kernels[MOST_KERNELS];
static int num_files, num_kernels; /* that there would be, if the tables were long enough */

static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;

/* ---- the runtime ---- */

static struct {
#define FUNCTION(name, result, parameters) result(*name) parameters;
    HATTN_HIP_FUNCTIONS(FUNCTION)
#undef FUNCTION
    int (*properties)(void *properties, int device); /* whichever of its versions is there */
} hip;

static char why_not[256]; /* empty: it is there */

/* A function's address where a pointer to a function is. */
static bool find(void *library, const char *name, void *function)
{
    void *address = dlsym(library, name);
    memcpy(function, &address, sizeof(address));
    return address != NULL;
}

static int by_handle(const void *x, const void *y)
{
    const uintptr_t a = (uintptr_t)((const kernel *)x)->handle, b = (uintptr_t)((const kernel *)y)->handle;
    return (a > b) - (a < b);
}

static void open_runtime(void)
{
    static const char *const names[] = {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"};
    void *library = NULL;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !library; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(why_not, sizeof(why_not), "no runtime: %s", dlerror());
        return;
    }
#define FUNCTION(name, result, parameters)                                                 \
    if (!find(library, #name, &hip.name)) {                                                \
        snprintf(why_not, sizeof(why_not), "the runtime libamdhip64.so has no %s", #name); \
        return;                                                                            \
    }
    HATTN_HIP_FUNCTIONS(FUNCTION)
#undef FUNCTION
    if (!find(library, "hipGetDevicePropertiesR0600", &hip.properties) &&
        !find(library, "hipGetDeviceProperties", &hip.properties)) {
        snprintf(why_not, sizeof(why_not), "the runtime libamdhip64.so has no hipGetDeviceProperties");
        return;
    }
    if (num_files > MOST_FILES || num_kernels > MOST_KERNELS) {
        snprintf(why_not, sizeof(why_not), "%d files and %d kernels are more than there is room for", num_files,
                 num_kernels);
        return;
    }
    qsort(kernels, (size_t)num_kernels, sizeof(kernels[0]), by_handle);
}

static bool is_here(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_runtime);
    return !why_not[0];
}

const char *hattn_hip_error_text(int code)
{
    if (!is_here())
        return why_not;
    if (code == HATTN_HIP_TOO_MANY_DEVICES)
        return "only the first 16 devices are used";
    return hip.hipGetErrorString(code);
}

int hattn_hip_last_error(void) { return is_here() ? hip.hipPeekAtLastError() : 0; }

void hattn_hip_forget_last_error(void)
{
    if (is_here())
        hip.hipGetLastError();
}

int hattn_hip_count_devices(int *count)
{
    *count = 0;
    return is_here() ? hip.hipGetDeviceCount(count) : HATTN_HIP_NO_RUNTIME;
}

int hattn_hip_current_device(int *device) { return is_here() ? hip.hipGetDevice(device) : HATTN_HIP_NO_RUNTIME; }

int hattn_hip_use_device(int device) { return is_here() ? hip.hipSetDevice(device) : HATTN_HIP_NO_RUNTIME; }

int hattn_hip_zero(void *address, uint64_t bytes, void *stream)
{
    return is_here() ? hip.hipMemsetAsync(address, 0, bytes, stream) : HATTN_HIP_NO_RUNTIME;
}

/* ---- devices ---- */

/* The architecture's name, without what follows a colon. The runtime's struct differs from version to version, but for
 * the device's name in front; of the architecture's, all that is sure is how it starts. */
static void find_isa(const char *properties, char *isa, size_t size)
{
    for (int i = NAME_BYTES; i < PROPERTY_BYTES - 32; i++)
        if (!memcmp(properties + i, "gfx", 3)) {
            snprintf(isa, size, "%.*s", (int)strcspn(properties + i, ":"), properties + i);
            return;
        }
    snprintf(isa, size, "unknown");
}

/* Whether a word is in a list with commas. */
static bool is_in(const char *list, const char *word)
{
    const size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += length)
        if (at[length] == ',' || !at[length])
            return true;
    return false;
}

/* Kernels for more were not compiled. */
static int most_shared_of(int block) { return block < HATTN_HIP_MOST_SHARED ? block : HATTN_HIP_MOST_SHARED; }

int hattn_hip_get_properties(int device, hattn_hip_properties *properties)
{
    memset(properties, 0, sizeof(*properties));
    if (!is_here())
        return HATTN_HIP_NO_RUNTIME;
    if (device >= MOST_DEVICES)
        return HATTN_HIP_TOO_MANY_DEVICES;
    char found[PROPERTY_BYTES] = "";
    int code = hip.properties(found, device), count = 0, block = 0, whole = 0;
    code = code ? code : hip.hipDeviceGetAttribute(&count, HATTN_HIP_MULTIPROCESSORS, device);
    code = code ? code : hip.hipDeviceGetAttribute(&block, HATTN_HIP_BLOCK_SHARED, device);
    code = code ? code : hip.hipDeviceGetAttribute(&whole, HATTN_HIP_MULTIPROCESSOR_SHARED, device);
    if (code)
        return code;
    snprintf(properties->name, sizeof(properties->name), "%.*s", (int)sizeof(properties->name) - 1, found);
    find_isa(found, properties->isa, sizeof(properties->isa));
    properties->has_kernels = is_in(HATTN_HIP_TARGETS, properties->isa);
    properties->num_multiprocessors = count;
    properties->block_shared = (size_t)most_shared_of(block);
    properties->multiprocessor_shared = (size_t)(whole > block ? whole : block);
    properties->most_blocks = UINT32_MAX / HATTN_HIP_MOST_THREADS;
    return 0;
}

int hattn_hip_most_shared(int *bytes)
{
    int device = 0;
    int code = hattn_hip_current_device(&device);
    code = code ? code : hip.hipDeviceGetAttribute(bytes, HATTN_HIP_BLOCK_SHARED, device);
    if (!code)
        *bytes = most_shared_of(*bytes);
    return code;
}

/* ---- kernels ---- */

static kernel *kernel_of(const void *handle)
{
    const kernel key = {.handle = handle};
    return bsearch(&key, kernels, (size_t)num_kernels, sizeof(kernels[0]), by_handle);
}

/* On the current device, which `loading` is held for. */
static int load(kernel *it, int device)
{
    if (atomic_load_explicit(&it->function[device], memory_order_relaxed))
        return 0;
    void *function = NULL;
    int code = it->file->module[device] ? 0 : hip.hipModuleLoadData(&it->file->module[device], it->file->image);
    code = code ? code : hip.hipModuleGetFunction(&function, it->file->module[device], it->name);
    if (!code)
        atomic_store_explicit(&it->function[device], function, memory_order_release);
    return code;
}

int hattn_hip_static_shared(const void *handle, size_t *bytes)
{
    *bytes = 0;
    int device = 0, found = 0, code = hattn_hip_current_device(&device);
    if (code)
        return code;
    kernel *it = kernel_of(handle);
    if (!it)
        return HATTN_HIP_NO_SUCH_KERNEL;
    if (device >= MOST_DEVICES)
        return HATTN_HIP_TOO_MANY_DEVICES;
    pthread_mutex_lock(&loading);
    code = load(it, device);
    pthread_mutex_unlock(&loading);
    code = code ? code : hip.hipFuncGetAttribute(&found, HATTN_HIP_STATIC_SHARED, it->function[device]);
    *bytes = (size_t)found;
    return code;
}

int hattn_hip_launch(const void *handle, const uint32_t blocks[3], uint32_t threads, uint32_t shared_bytes,
                     void *stream, void **arguments)
{
    int device = 0;
    const int code = hattn_hip_current_device(&device);
    if (code)
        return code;
    kernel *it = device < MOST_DEVICES ? kernel_of(handle) : NULL;
    void *function = it ? atomic_load_explicit(&it->function[device], memory_order_acquire) : NULL;
    if (!function)
        return HATTN_HIP_NO_SUCH_KERNEL;
    return hip.hipModuleLaunchKernel(function, blocks[0], blocks[1], blocks[2], threads, 1, 1, shared_bytes, stream,
                                     arguments, NULL);
}

/* ---- what clang's code calls: kernels_hip/symbols.txt ---- */

struct fat_binary {
    uint32_t magic, version;
    const void *image, *unused;
};

void *hattn_hip_register_file(const struct fat_binary *binary)
{
    const int index = num_files++;
    if (index >= MOST_FILES)
        return NULL;
    files[index].image = binary->image;
    return &files[index];
}

void hattn_hip_register_kernel(void *file, const void *handle, const char *name, const char *same_name,
                               unsigned most_threads, void *thread, void *block, void *block_dim, void *grid_dim,
                               int *warp_size)
{
    (void)same_name, (void)most_threads, (void)thread, (void)block, (void)block_dim, (void)grid_dim, (void)warp_size;
    const int index = num_kernels++;
    if (index < MOST_KERNELS && file) {
        kernels[index].handle = handle;
        kernels[index].name = name;
        kernels[index].file = file;
    }
}

/* Code stays on its devices: at this time the runtime may be gone. */
void hattn_hip_forget_file(void *file) { (void)file; }

/* Of stubs, which nothing calls. */
int hattn_hip_pop_configuration(void) { return HATTN_HIP_NO_SUCH_KERNEL; }

int hattn_hip_launch_stub(void) { return HATTN_HIP_NO_SUCH_KERNEL; }
