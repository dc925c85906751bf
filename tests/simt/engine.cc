/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/simt/engine.h"

#include "tests/simt/scheduler.h"

namespace simt {

const Indices *current = nullptr;

void configure(const Config &config) { engine.config = config; }

const Config &config() { return engine.config; }

Totals totals() { return engine.totals; }

std::string run(Size grid, int threads, size_t shared_bytes, const void *kernel, const std::function<void()> &lane)
{
    return engine.run(grid, threads, shared_bytes, kernel, lane);
}

void block_barrier(Place place)
{
    Lane &lane = running();
    Wave &wave = *lane.wave;
    if (wave.at_barrier && !Engine::is_same(wave.barrier, place)) {
        engine.fail("lanes of a wave wait for their block at different places, the first at " +
                        Engine::text(wave.barrier),
                    place);
        engine.abandon(lane);
    }
    const uint64_t bit = uint64_t(1) << lane.number;
    wave.barrier = place;
    wave.at_barrier |= bit;
    wave.ready &= ~bit;
    lane.home->num_at_barrier++;
    lane.looks = 0;
    engine.leave(lane);
}

static const Brought *meet(const char *kind, const void *brought, size_t size, Place place, bool is_of_wave)
{
    Lane &lane = running();
    Wave &wave = *lane.wave;
    Warp &warp = wave.warps[lane.number / kWarp];
    const int number = lane.number % kWarp;
    if (warp.here && (!Engine::is_same(warp.place, place) || strcmp(warp.kind, kind))) {
        engine.fail(std::string("lanes of a warp meet at different places, the first for ") + warp.kind + " at " +
                        Engine::text(warp.place) + ", lane " + std::to_string(number) + " for " + kind,
                    place);
        engine.abandon(lane);
    }
    Brought *all = warp.brought[lane.meetings++ & 1];
    memcpy(all[number].bytes, brought, size);
    warp.kind = kind;
    warp.place = place;
    warp.is_of_wave = is_of_wave;
    warp.here |= 1u << number;
    wave.ready &= ~(uint64_t(1) << lane.number);
    lane.looks = 0;
    if (!lane.home->later.empty())
        engine.store_all(lane.home->later);
    engine.leave(lane);
    return all;
}

const Brought *meet(const char *kind, const void *brought, size_t size, Place place)
{
    return meet(kind, brought, size, place, false);
}

const Brought *meet_in_wave(const char *kind, const void *brought, size_t size, Place place)
{
    return meet(kind, brought, size, place, true);
}

bool any_of_wave(bool yes, Place place)
{
    Wave &wave = *running().wave;
    if (wave.num_lanes == kWarp)
        return yes;
    wave.any_asked |= yes;
    meet_in_wave("any_of_wave", "", 0, place);
    return wave.any; /* until all of the wave are at the next such meeting */
}

void maybe_switch()
{
    if (engine.one_in(16))
        engine.to_conductor(running());
}

void look(Place place)
{
    Lane &lane = running();
    engine.store_all(lane.home->later);
    if (++lane.looks > kMostLooks)
        stop("waits for what nobody writes", place);
    if (engine.one_in(4))
        engine.to_conductor(lane);
}

void store_later(uint32_t *to, uint32_t x)
{
    Lane &lane = running();
    lane.home->later.push_back({to, x});
    engine.store_some(lane.home->later);
    maybe_switch();
}

void fence() { engine.store_all(running().home->later); }

void copy_later(void *to, const void *from, size_t size)
{
    Lane &lane = running();
    lane.copies.push_back({to, from, size, lane.groups});
}

void copy_commit() { running().groups++; }

void copy_wait(int pending)
{
    Lane &lane = running();
    size_t kept = 0;
    for (const Copy &copy : lane.copies) {
        if (copy.group + static_cast<unsigned>(pending) >= lane.groups)
            lane.copies[kept++] = copy;
        else if (copy.from)
            memcpy(copy.to, copy.from, copy.size);
        else
            memset(copy.to, 0, copy.size);
    }
    lane.copies.resize(kept);
}

void stop(const char *what, Place place)
{
    engine.fail(what, place);
    engine.abandon(running());
}

} // namespace simt
