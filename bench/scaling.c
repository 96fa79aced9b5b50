// How much more N threads do than one on the same machine: `scaling THREADS ROUNDS`. One thread and all threads take turns; each line has the medians, once
// by the clock and once by the time that the threads really had a processor, which a busy host (and, where the machine reports stolen time, a busy host of a
// guest) does not disturb.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64, TURN_MS = 1000 };

static atomic_int go; // 0 wait, 1 run, 2 stop
static struct { _Alignas(128) unsigned long units; double seconds; } done[MOST];

static unsigned long integer(int thread)
{
    uint64_t x = thread + 1, sum = 0;
    for (int n = 0; n < 20000; n++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        if (x & 1) sum += x % 97;
        else sum ^= x;
    }
    return sum;
}

static unsigned long sorting(int thread)
{
    static uint32_t arrays[MOST][2048];
    uint32_t *a = arrays[thread], x = thread + 1;
    for (int n = 0; n < 2048; n++) a[n] = x = x * 1664525 + 1013904223;
    for (int gap = 1024; gap; gap /= 2) {
        for (int n = gap; n < 2048; n++) {
            uint32_t v = a[n];
            int k = n;
            for (; k >= gap && a[k - gap] > v; k -= gap) a[k] = a[k - gap];
            a[k] = v;
        }
    }
    return a[0];
}

static unsigned long floating(int thread)
{
    double x = thread + 0.5, y = 0;
    for (int n = 1; n < 20000; n++) y += x / n, x = x * 1.0000001 + 0.25;
    return (unsigned long)y;
}

static unsigned long system_calls(int thread)
{
    (void)thread;
    unsigned long sum = 0;
    for (int n = 0; n < 200; n++) sum += syscall(SYS_getppid);
    return sum;
}

// Anonymous memory that comes and goes: page faults, and the invalidation of other processors' translations.
static unsigned long page_faults(int thread)
{
    (void)thread;
    char *p = mmap(NULL, 16 << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int n = 0; n < 16; n++) p[n << 12] = 1;
    munmap(p, 16 << 12);
    return 0;
}

static const struct { const char *name; unsigned long (*unit)(int); } kinds[] = {
    { "integer", integer }, { "sorting", sorting }, { "floating", floating }, { "system calls", system_calls }, { "page faults", page_faults },
};

static unsigned long (*unit)(int);
static volatile unsigned long sink;

static double clock_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

// What the machine says that it was kept from running on this processor, in seconds.
static double stolen(int processor)
{
    char line[256], name[16];
    unsigned long steal = 0;
    FILE *file = fopen("/proc/stat", "r");
    snprintf(name, sizeof name, "cpu%d ", processor);
    while (file && fgets(line, sizeof line, file)) {
        if (!strncmp(line, name, strlen(name))) sscanf(line, "%*s %*u %*u %*u %*u %*u %*u %*u %lu", &steal);
    }
    if (file) fclose(file);
    return (double)steal / sysconf(_SC_CLK_TCK);
}

static void *run(void *argument)
{
    int thread = (int)(intptr_t)argument;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(thread, &set);
    sched_setaffinity(0, sizeof set, &set);
    while (atomic_load(&go) == 0) sched_yield();
    unsigned long units = 0;
    double start = clock_of(CLOCK_THREAD_CPUTIME_ID) - stolen(thread);
    while (atomic_load_explicit(&go, memory_order_relaxed) == 1) sink += unit(thread), units++;
    done[thread].units = units;
    done[thread].seconds = clock_of(CLOCK_THREAD_CPUTIME_ID) - stolen(thread) - start;
    return NULL;
}

struct rates { double wall, processor; };

static struct rates rate(int threads)
{
    pthread_t ids[MOST];
    atomic_store(&go, 0);
    for (int n = 0; n < threads; n++) pthread_create(&ids[n], NULL, run, (void *)(intptr_t)n);
    double start = clock_of(CLOCK_MONOTONIC);
    atomic_store(&go, 1);
    usleep(TURN_MS * 1000);
    atomic_store(&go, 2);
    unsigned long total = 0;
    double processor = 0;
    for (int n = 0; n < threads; n++) {
        pthread_join(ids[n], NULL);
        total += done[n].units;
        processor += done[n].units / done[n].seconds;
    }
    return (struct rates){ total / (clock_of(CLOCK_MONOTONIC) - start), processor };
}

static int compare(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

int main(int count, char **arguments)
{
    int threads = count > 1 ? atoi(arguments[1]) : 2, rounds = count > 2 ? atoi(arguments[2]) : 5;
    if (threads < 1 || threads > MOST || rounds < 1 || rounds > 99) return 2;
    for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        double one[99], all[99], wall[99], processor[99];
        unit = kinds[k].unit;
        rate(threads); // warm
        for (int n = 0; n < rounds; n++) {
            struct rates a = rate(1), b = rate(threads);
            one[n] = a.wall;
            all[n] = b.wall;
            wall[n] = b.wall / a.wall;
            processor[n] = b.processor / a.processor;
        }
        qsort(one, rounds, sizeof *one, compare);
        qsort(all, rounds, sizeof *all, compare);
        qsort(wall, rounds, sizeof *wall, compare);
        qsort(processor, rounds, sizeof *processor, compare);
        printf("SCALING %-14s 1 thread %10.0f/s  %d threads %10.0f/s  ratio %.2f, by processor time %.2f\n", kinds[k].name, one[rounds / 2], threads, all[rounds / 2],
            wall[rounds / 2], processor[rounds / 2]);
    }
    return 0;
}
