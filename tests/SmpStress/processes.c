// Sleeping and waking, processes, signals.
#include "stress.h"
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>

// ---- handoffs: a token goes round through a mutex and condition variables (futexes); a lost wake-up stops it.

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int holder;
static unsigned long handed, taken[64];

static void run_handoffs(int thread, int threads, atomic_ulong *rounds)
{
    pthread_mutex_lock(&mutex);
    while (true) {
        while (holder != thread && !atomic_load(&stopping)) pthread_cond_wait(&changed, &mutex);
        if (atomic_load(&stopping)) break;
        holder = (thread + 1) % threads;
        handed++;
        taken[thread]++;
        pthread_cond_broadcast(&changed);
        atomic_fetch_add(rounds, 1);
        if (taken[thread] % 64 == 0) {
            // Somewhere else from now on.
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET((thread + taken[thread] / 64) % threads, &set);
            sched_setaffinity(0, sizeof set, &set);
        }
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

static void check_handoffs(int threads)
{
    unsigned long sum = 0;
    for (int n = 0; n < threads; n++) sum += taken[n];
    if (sum != handed) fail("handoffs: %lu of %lu", sum, handed);
}

const struct work handoffs = { "handoffs", run_handoffs, check_handoffs };

// ---- forks: children that compute, children that execute another program, pipes between them.

static void run_forks(int thread, int threads, atomic_ulong *rounds)
{
    (void)threads;
    unsigned long n = thread;
    while (!atomic_load(&stopping)) {
        int ends[2], status, code = ++n & 0x7F;
        if (pipe(ends)) fail("forks: pipe: %m");
        pid_t child = fork();
        if (child < 0) fail("forks: fork: %m");
        if (child == 0) {
            // Copied on write: parent and child must not see each other's.
            volatile unsigned char big[8 * PAGE];
            for (int k = 0; k < 8; k++) big[k * PAGE] = code + k;
            unsigned sum = 0;
            for (int k = 0; k < 8; k++) sum += big[k * PAGE];
            if (write(ends[1], &sum, sizeof sum) != sizeof sum) _exit(255);
            if (n % 4) _exit(code);
            char text[16];
            snprintf(text, sizeof text, "%d", code);
            execl("/stress", "stress", "exit", text, NULL);
            _exit(254);
        }
        close(ends[1]);
        unsigned sum = 0, expected = 0;
        for (int k = 0; k < 8; k++) expected += (unsigned char)(code + k);
        if (read(ends[0], &sum, sizeof sum) != sizeof sum) fail("forks: nothing came through the pipe");
        close(ends[0]);
        if (waitpid(child, &status, 0) != child) fail("forks: waitpid: %m");
        if (sum != expected || !WIFEXITED(status) || WEXITSTATUS(status) != code)
            fail("forks: sum %u status %x, expected %u and %d", sum, status, expected, code);
        atomic_fetch_add(rounds, 1);
    }
}

const struct work forks = { "forks", run_forks, NULL };

// ---- signals: each thread sends one to the next and waits for its own.

static pid_t ids[64];
static atomic_int ready;

static void run_signals(int thread, int threads, atomic_ulong *rounds)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    ids[thread] = syscall(SYS_gettid);
    atomic_fetch_add(&ready, 1);
    while (atomic_load(&ready) < threads) sched_yield();
    if (thread == 0 && syscall(SYS_tgkill, getpid(), ids[1 % threads], SIGUSR1)) fail("signals: tgkill: %m");
    while (true) {
        struct timespec most = { .tv_sec = 1 };
        int signal;
        while ((signal = sigtimedwait(&set, NULL, &most)) < 0 && !atomic_load(&stopping)) {
            if (errno != EAGAIN && errno != EINTR) fail("signals: sigtimedwait: %m");
        }
        if (signal < 0) return;
        if (signal != SIGUSR1) fail("signals: %d came", signal);
        atomic_fetch_add(rounds, 1);
        if (atomic_load(&stopping)) return;
        if (syscall(SYS_tgkill, getpid(), ids[(thread + 1) % threads], SIGUSR1)) {
            if (atomic_load(&stopping)) return;
            fail("signals: tgkill: %m");
        }
    }
}

const struct work signals = { "signals", run_signals, NULL };
