// What the parts of the stress share. Each worker counts its rounds and stops when told; a wrong result ends everything with one line.
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

extern atomic_bool stopping;

// Ends the stress: what went wrong, in one line.
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

// One kind of work. A process of its own runs it, with as many threads as there are processors, so that address spaces are switched too.
struct work {
    const char *name;
    // Called once for each thread, 0 to threads - 1, in one shared address space. Returns when `stopping` is set, having advanced *rounds.
    void (*run)(int thread, int threads, atomic_ulong *rounds);
    // Called when all threads have returned, or null.
    void (*check)(int threads);
};

extern const struct work counters, ordering, handoffs, remapping, protection, crossmodifying, forks, signals;

static inline void cpu_relax(void) { __builtin_ia32_pause(); }

// Waits until *word is at least `value`; false when the stress ends first.
static inline bool await(atomic_ulong *word, unsigned long value)
{
    while (atomic_load_explicit(word, memory_order_acquire) < value) {
        if (atomic_load_explicit(&stopping, memory_order_relaxed)) return false;
        cpu_relax();
    }
    return true;
}
