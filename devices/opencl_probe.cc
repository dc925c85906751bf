/* SPDX-License-Identifier: Apache-2.0 */
#include "devices/opencl.h"
#include "devices/opencl_context.h"

namespace devices {
namespace {

OpenclContext &context() { return OpenclContext::get(); }

/* Groups of so many work-items, several a compute unit: which is best differs between cards. */
const struct {
    size_t local, groups_a_unit;
} WAYS[] = {{256, 4}, {256, 16}, {64, 8}};

class OpenclProbe : public Probe
{
public:
    OpenclProbe() : result_(context().allocate(16, 0)) {}

    int num_read_ways() const override { return 3; }
    int num_gather_ways() const override { return 3; }
    int num_copy_ways() const override { return 3; }

    void read(int way, const void *data, size_t size, void *stream) const override
    {
        const cl_kernel kernel = context().kernel("read_pieces");
        context().put(kernel, 0, data);
        put(kernel, 2, size / 16);
        context().put(kernel, 3, result_);
        enqueue(way, kernel, stream);
    }

    void copy(int way, void *to, const void *from, size_t size, void *stream) const override
    {
        const cl_kernel kernel = context().kernel("copy_pieces");
        context().put(kernel, 0, to);
        context().put(kernel, 2, from);
        put(kernel, 4, size / 16);
        enqueue(way, kernel, stream);
    }

    void gather(int way, const void *data, size_t row_bytes, const uint32_t *rows, int64_t num_rows,
                void *stream) const override
    {
        const cl_kernel kernel = context().kernel("gather_rows");
        context().put(kernel, 0, data);
        put(kernel, 2, row_bytes / 16);
        context().put(kernel, 3, rows);
        put(kernel, 5, cl_ulong(num_rows));
        context().put(kernel, 6, result_);
        enqueue(way, kernel, stream);
    }

private:
    static void put(cl_kernel kernel, cl_uint index, cl_ulong value)
    {
        check(context().cl.clSetKernelArg(kernel, index, sizeof(value), &value), "clSetKernelArg");
    }
    static void enqueue(int way, cl_kernel kernel, void *stream)
    {
        context().enqueue(cl_command_queue(stream), kernel, WAYS[way].local,
                          WAYS[way].groups_a_unit * context().info<cl_uint>(CL_DEVICE_MAX_COMPUTE_UNITS));
    }

    void *result_;
};

} // namespace

const Probe *opencl_probe()
{
    static const OpenclProbe probe;
    return &probe;
}

} // namespace devices
