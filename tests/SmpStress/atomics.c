// Locked operations and the order of plain ones.
#include "stress.h"

// ---- counters: each locked instruction on operands that lie anywhere, also across cache lines and pages, and overlap.

static _Alignas(PAGE) unsigned char area[2 * PAGE];
static atomic_ulong expected_add[4];

#define LOCKED_ADD(type, suffix, at, value) \
    __asm__ volatile("lock add" suffix " %1, %0" : "+m"(*(type *)(at)) : "r"((type)(value)) : "memory", "cc")

// 64-bit counters: aligned, across a cache line, across a page; beside them a 32-bit one inside the upper half of the one across the page.
static unsigned char *const places[] = { area + 64, area + 128 - 3, area + PAGE - 4 };

static void run_counters(int thread, int threads, atomic_ulong *rounds)
{
    (void)threads;
    unsigned long seed = thread + 1, adds[4] = { 0 };
    while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
        for (int n = 0; n < 1000; n++) {
            seed = seed * 6364136223846793005 + 1442695040888963407;
            int place = seed >> 33 & 1; // the one across a page stops all processors: rarely
            unsigned long value = seed >> 60;
            switch (seed >> 40 & 3) {
            case 0:
                LOCKED_ADD(uint64_t, "q", places[place], value);
                break;
            case 1: {
                uint64_t old = value;
                __asm__ volatile("lock xaddq %0, %1" : "+r"(old), "+m"(*(uint64_t *)places[place]) : : "memory", "cc");
                break;
            }
            case 2: {
                uint64_t old = *(volatile uint64_t *)places[place], seen;
                while (true) {
                    __asm__ volatile("lock cmpxchgq %2, %1" : "=a"(seen), "+m"(*(uint64_t *)places[place]) : "r"(old + value), "0"(old) : "memory", "cc");
                    if (seen == old) break;
                    old = seen;
                }
                break;
            }
            default:
                for (unsigned long k = 0; k < value; k++) __asm__ volatile("lock incq %0" : "+m"(*(uint64_t *)places[place]) : : "memory", "cc");
                break;
            }
            adds[place] += value;
        }
        // Both add to the same bytes: the quadword across the page in its upper half, the doubleword there aligned. No carry gets lost between them.
        LOCKED_ADD(uint64_t, "q", places[2], 1ul << 32 | 1);
        LOCKED_ADD(uint32_t, "l", area + PAGE, 1);
        adds[2]++;
        adds[3]++;
        atomic_fetch_add(rounds, 1);
    }
    for (int n = 0; n < 4; n++) atomic_fetch_add(&expected_add[n], adds[n]);
}

static void check_counters(int threads)
{
    (void)threads;
    for (int n = 0; n < 2; n++) {
        uint64_t value;
        memcpy(&value, places[n], 8);
        if (value != expected_add[n]) fail("counters: place %d has %lu, expected %lu", n, value, (unsigned long)expected_add[n]);
    }
    uint32_t low, high;
    memcpy(&low, places[2], 4);
    memcpy(&high, area + PAGE, 4);
    uint32_t adds = expected_add[2], upper = expected_add[2] + expected_add[3];
    if (low != adds || high != upper) fail("counters: across the page %x:%x, expected %x:%x", high, low, upper, adds);
}

const struct work counters = { "counters", run_counters, check_counters };

// ---- ordering: what x86 promises about plain loads and stores, and about MFENCE.

static struct {
    _Alignas(64) volatile unsigned long data;
    _Alignas(64) volatile unsigned long flag;
} message;
static _Alignas(64) volatile unsigned long wants[2];
static _Alignas(64) volatile unsigned long turn, guarded;
static unsigned long entered[2];

// Peterson's lock needs nothing but the order of plain accesses and one fence.
static void run_peterson(int me, atomic_ulong *rounds)
{
    while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
        wants[me] = 1;
        turn = !me;
        __asm__ volatile("mfence" : : : "memory");
        while (wants[!me] && turn == (unsigned long)!me) cpu_relax();
        guarded = guarded + 1;
        entered[me]++;
        wants[me] = 0;
        atomic_fetch_add_explicit(rounds, 1, memory_order_relaxed);
    }
}

static void run_ordering(int thread, int threads, atomic_ulong *rounds)
{
    (void)threads;
    if (thread < 2) {
        run_peterson(thread, rounds);
        return;
    }
    // Message passing: who sees the flag sees the data.
    unsigned long n = 0;
    while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
        if (thread == 2) {
            n++;
            message.data = n;
            __asm__ volatile("" : : : "memory");
            message.flag = n;
        } else {
            unsigned long flag = message.flag;
            __asm__ volatile("" : : : "memory");
            unsigned long data = message.data;
            if (data < flag) fail("ordering: flag %lu was seen before its data %lu", flag, data);
        }
        atomic_fetch_add_explicit(rounds, 1, memory_order_relaxed);
    }
}

static void check_ordering(int threads)
{
    (void)threads;
    if (guarded != entered[0] + entered[1]) fail("ordering: Peterson's lock counted %lu, expected %lu", guarded, entered[0] + entered[1]);
}

const struct work ordering = { "ordering", run_ordering, check_ordering };
