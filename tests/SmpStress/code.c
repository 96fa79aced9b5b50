// Code that one processor writes and another executes: Intel SDM vol. 3A, "Handling Self- and Cross-Modifying Code".
#include "stress.h"
#include <sys/syscall.h>

enum { SLOT = 16, SLOTS = PAGE / SLOT, MOST_THREADS = 64 };

struct pair {
    unsigned char *writable, *executable; // the same memory, by one mapping or by two
    bool two_mappings;
    _Alignas(64) atomic_ulong written; // functions that are in place, since the beginning
    _Alignas(64) atomic_ulong executed;
};
static struct pair pairs[MOST_THREADS];

static void make_pair(struct pair *p, bool two_mappings)
{
    if (!two_mappings) {
        p->writable = p->executable = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    } else {
        int file = syscall(SYS_memfd_create, "code", 0);
        if (file < 0 || ftruncate(file, PAGE)) fail("crossmodifying: memfd: %m");
        p->writable = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        p->executable = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
        close(file);
    }
    if (p->writable == MAP_FAILED || p->executable == MAP_FAILED) fail("crossmodifying: mmap: %m");
    p->two_mappings = two_mappings;
}

// mov eax, value; ret
static void write_function(unsigned char *at, uint32_t value)
{
    at[0] = 0xB8;
    *(volatile uint32_t *)(at + 1) = value;
    at[5] = 0xC3;
}

static void serialize(void)
{
    unsigned a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

// Threads 2n and 2n+1 work together: the first writes the functions of a page one after the other and then over and over, the second follows at its heels, so
// that the page turns from data into code while it is being written. Now and then both begin again with a new page.
static void run_crossmodifying(int thread, int threads, atomic_ulong *rounds)
{
    struct pair *p = &pairs[thread / 2];
    bool writer = thread % 2 == 0;
    if (writer && thread + 1 == threads) return; // nobody to work with
    for (unsigned long n = 0;; n++) {
        unsigned long function = n % SLOTS, page = n / (4 * SLOTS);
        bool first = n % (4 * SLOTS) == 0;
        if (writer) {
            // At most a few functions ahead, and never one that is being executed.
            if (n >= 8 && !await(&p->executed, first ? n : n - 8)) return;
            if (first) {
                if (n) {
                    munmap(p->writable, PAGE);
                    if (p->two_mappings) munmap(p->executable, PAGE);
                }
                make_pair(p, page & 1);
            }
            write_function(p->writable + function * SLOT, n);
            atomic_store_explicit(&p->written, n + 1, memory_order_release);
        } else {
            if (!await(&p->written, n + 1)) return;
            serialize();
            uint32_t (*call)(void) = (uint32_t(*)(void))(p->executable + function * SLOT);
            uint32_t seen = call();
            if (seen != (uint32_t)n) fail("crossmodifying: function %lu returned %u", n, seen);
            atomic_store_explicit(&p->executed, n + 1, memory_order_release);
        }
        if (n % SLOTS == 0) atomic_fetch_add(rounds, 1);
    }
}

const struct work crossmodifying = { "crossmodifying", run_crossmodifying, NULL };
