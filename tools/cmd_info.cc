/* SPDX-License-Identifier: Apache-2.0
 * hattn info: what this build knows, what this machine has, and why a backend is absent.
 */
#include <cstdio>

#include "tools/args.h"
#include "tools/device.h"
#include "tools/report.h"

namespace {

Json backend_json(const hattn_backend_info &info, Table *table)
{
    Json json(json_object());
    json_put(json.get(), "name", json_text(info.name));
    json_put(json.get(), "built", json_boolean(info.built));
    json_put(json.get(), "num_devices", json_integer(info.num_devices));
    json_put(json.get(), "text", json_text(info.text));
    json_t *devices = json_array();
    json_put(json.get(), "devices", devices);
    const char *built = info.built ? "yes" : "no";
    if (!info.num_devices)
        table->row({info.name, built, "-", "", "", info.text});
    for (int32_t i = 0; i < info.num_devices; i++) {
        json_t *object = json_object();
        json_array_append_new(devices, object);
        json_put(object, "index", json_integer(i));
        std::unique_ptr<Device> device;
        try {
            device = std::make_unique<Device>(info.name, "", 0, i);
        } catch (const DeviceError &refusal) {
            /* Of a driver that computes wrongly, say: the others are there all the same. */
            json_put(object, "text", json_text(refusal.what()));
            table->row({info.name, built, std::to_string(i), "", "", refusal.what()});
            continue;
        }
        const hattn_device_info &have = device->info();
        json_put(object, "name", json_text(have.name));
        json_put(object, "isa", json_text(have.isa));
        json_put(object, "max_threads", json_integer(have.max_threads));
        table->row({info.name, built, std::to_string(i), have.isa,
                    have.max_threads ? std::to_string(have.max_threads) : "", have.name});
    }
    return json;
}

} // namespace

int cmd_info(Args &args)
{
    std::string json_path;
    args.about("Lists the backends in the order of preference, their devices, and why one has none.");
    args.maybe("json", "OUT", "write JSON to this file instead of the table; -: to stdout", &json_path, "-");
    if (!args.parse())
        return EXIT_OK;
    const Output output("--json", json_path);

    Json json(json_object());
    const int version = hattn_version();
    const std::string text = format("%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    json_put(json.get(), "version", json_text(text));
    json_t *list = json_array();
    json_put(json.get(), "backends", list);
    Table table({"<backend", "<built", "device", "<isa", "threads", "<name, or why there is none"});
    for (const hattn_backend_info &info : query_backends())
        json_array_append_new(list, backend_json(info, &table).release());
    if (output.is_wanted())
        write_json(json.get(), output);
    else
        std::printf("hattn %s\n%s", text.c_str(), table.str().c_str());
    return EXIT_OK;
}
