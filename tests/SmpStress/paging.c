// Page tables that change under other processors: after the call that changed them returns, nobody uses the old translation.
#include "stress.h"
#include <setjmp.h>
#include <signal.h>

// ---- remapping: one thread puts another page at an address again and again; the others read there.

enum { WINDOW = 16 }; // pages
static unsigned char *window;
static atomic_ulong generation; // each word in the window is at least this
static pthread_once_t window_once = PTHREAD_ONCE_INIT;

static void make_window(void)
{
    window = mmap(NULL, WINDOW * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (window == MAP_FAILED) fail("remapping: no memory: %m");
}

static void run_remapping(int thread, int threads, atomic_ulong *rounds)
{
    (void)threads;
    pthread_once(&window_once, make_window);
    unsigned long seed = thread;
    while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
        if (thread == 0) {
            unsigned long next = atomic_load(&generation) + 1;
            unsigned char *fresh = mmap(NULL, WINDOW * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (fresh == MAP_FAILED) fail("remapping: no memory: %m");
            for (int n = 0; n < WINDOW; n++) *(volatile unsigned long *)(fresh + n * PAGE) = next;
            if (mremap(fresh, WINDOW * PAGE, WINDOW * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, window) != window) fail("remapping: mremap: %m");
            atomic_store(&generation, next);
        } else {
            for (int n = 0; n < 64; n++) {
                seed = seed * 6364136223846793005 + 1;
                unsigned long least = atomic_load(&generation), seen = *(volatile unsigned long *)(window + (seed >> 32) % WINDOW * PAGE);
                // While it is being replaced the window may be unmapped for a moment; then the kernel gives an empty page only if it were mapped anew.
                if (seen < least) fail("remapping: generation %lu was read after %lu was in place", seen, least);
            }
        }
        atomic_fetch_add_explicit(rounds, 1, memory_order_relaxed);
    }
}

const struct work remapping = { "remapping", run_remapping, NULL };

// ---- protection: a page becomes read-only while others write to it; once the call has returned, what they write must fault.

static volatile unsigned long *guarded_page;
static atomic_ulong phase; // even: writable, odd: read-only
static pthread_once_t page_once = PTHREAD_ONCE_INIT;
static __thread sigjmp_buf escape;

static void on_fault(int signal, siginfo_t *information, void *context)
{
    (void)context;
    if ((void *)information->si_addr < (void *)guarded_page || (void *)information->si_addr >= (void *)(guarded_page + PAGE / sizeof(long)))
        fail("protection: signal %d at %p", signal, information->si_addr);
    siglongjmp(escape, 1);
}

static void make_page(void)
{
    guarded_page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (guarded_page == MAP_FAILED) fail("protection: no memory: %m");
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };
    sigaction(SIGSEGV, &action, NULL);
}

static void run_protection(int thread, int threads, atomic_ulong *rounds)
{
    pthread_once(&page_once, make_page);
    unsigned long n = 0;
    while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
        if (thread == 0) {
            if (mprotect((void *)guarded_page, PAGE, PROT_READ)) fail("protection: mprotect: %m");
            unsigned long before[64];
            for (int k = 1; k < threads; k++) before[k] = guarded_page[k];
            atomic_fetch_add(&phase, 1);
            for (int k = 0; k < 200; k++) cpu_relax();
            for (int k = 1; k < threads; k++) {
                if (guarded_page[k] != before[k]) fail("protection: thread %d wrote %lu over %lu in a page that was read-only", k, guarded_page[k], before[k]);
            }
            atomic_fetch_add(&phase, 1);
            if (mprotect((void *)guarded_page, PAGE, PROT_READ | PROT_WRITE)) fail("protection: mprotect: %m");
            for (int k = 0; k < 200; k++) cpu_relax();
        } else if (sigsetjmp(escape, 0) == 0) {
            for (int k = 0; k < 100; k++) guarded_page[thread] = ++n;
        }
        atomic_fetch_add_explicit(rounds, 1, memory_order_relaxed);
    }
}

const struct work protection = { "protection", run_protection, NULL };
