// Runs workloads, as the first process of a guest or as an ordinary program, and reports by lines that bench/compare reads and timestamps:
//
//   @bench first                                         the first user process runs (guests only)
//   @bench start NAME                                    the measured repetitions begin when this line is out
//   @bench end NAME units=N ns=NANOSECONDS cpu=NANOSECONDS sum=HEX       by this machine's own clock, and of the processor for this program
//   @bench skip NAME REASON                              the processor lacks a feature
//   @bench fail NAME REASON
//   @bench done
//
// As a program:  workloads --list  |  workloads [MILLISECONDS [NAME,NAME…]]
// In a guest the kernel's command line has bench.ms=MILLISECONDS and bench.only=NAME,NAME…
#define _GNU_SOURCE
#include "bench.h"
#include "options.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

// Operations are what the reader wants the price of: an iteration, a hop, a byte, a call, a system call.
static const struct workload workloads[] = {
    { "arithmetic", "integer", "iteration", 100000, arithmetic_unit, NULL, NULL },
    { "branchy", "integer", "number", 1999, branchy_unit, NULL, NULL },
    { "sieve", "integer", "number", 100000, sieve_unit, NULL, NULL },
    { "sort", "integer", "element", 8192, sort_unit, sort_prepare, NULL },
    { "chase-l1", "integer", "hop", 8192, chase_l1_unit, chase_l1_prepare, NULL },
    { "chase-memory", "integer", "hop", 8192, chase_memory_unit, chase_memory_prepare, NULL },
    { "memcpy", "integer", "word", 8 * 4096, memcpy_unit, memory_prepare, NULL },
    { "memset", "integer", "word", 8 * 4096, memset_unit, memory_prepare, NULL },
    { "strlen", "integer", "byte", 4 * 32768 - 384, strlen_unit, memory_prepare, NULL },
    { "rep-movs", "integer", "KiB", 32 * 32, rep_movs_unit, memory_prepare, NULL },
    { "rep-stos", "integer", "KiB", 32 * 32, rep_stos_unit, memory_prepare, NULL },
    { "sha256", "integer", "byte", 16384, sha256_unit, sha256_prepare, NULL },
    { "lz", "integer", "byte", 16384, lz_unit, lz_prepare, NULL },
    { "hash-table", "integer", "key", 8000, hash_table_unit, hash_table_prepare, NULL },
    { "fib", "integer", "call", 21891, fib_unit, NULL, NULL },
    { "ackermann", "integer", "call", 7625, ackermann_unit, NULL, NULL },
    { "indirect", "integer", "call", 8192, indirect_unit, calls_prepare, NULL },
    { "switch", "integer", "case", 8192, switch_unit, calls_prepare, NULL },
    { "bytecode", "integer", "program", 1, bytecode_unit, NULL, NULL },
    { "matrix", "float", "product", 48 * 48 * 48, matrix_unit, matrix_prepare, NULL },
    { "divide", "float", "number", 2000, divide_unit, NULL, NULL },
    { "nbody", "float", "step", 500, nbody_unit, NULL, NULL },
    { "x87", "float", "iteration", 4000, x87_unit, NULL, NULL },
    { "sse", "simd", "element", 8 * 4096, sse_unit, vectors_prepare, NULL },
    { "avx2-matrix", "simd", "product", 48 * 48 * 48, avx2_matrix_unit, matrix_prepare, "avx2" },
    { "avx2-integer", "simd", "byte", 32 * 4096, avx2_integer_unit, vectors_prepare, "avx2" },
    { "getppid", "os", "call", 100, getppid_unit, NULL, NULL },
    { "read-4k", "os", "call", 20, read_unit, read_prepare, NULL },
    { "page-fault", "os", "page", 64, fault_unit, NULL, NULL },
    { "mmap", "os", "mapping", 10, mmap_unit, NULL, NULL },
    { "fork", "os", "process", 1, fork_unit, NULL, NULL },
    { "exec", "os", "process", 1, exec_unit, NULL, NULL },
    { "pipe", "os", "round trip", 1, pipe_unit, pipe_prepare, NULL },
    { "signal", "os", "signal", 10, signal_unit, signal_prepare, NULL },
    { "file", "os", "file", 1, file_unit, NULL, NULL },
    { "churn", "paging", "page", 64, churn_unit, NULL, NULL },
#define FOOTPRINT_ROW(name, bytes) \
    { "code-" #name, "footprint", "instruction", (bytes) / FOOTPRINT_GROUP * FOOTPRINT_INSTRUCTIONS, footprint_##name##_unit, \
      footprint_##name##_prepare, NULL },
    FOOTPRINTS(FOOTPRINT_ROW)
};

static const char *running;

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("@bench fail %s ", running);
    vprintf(format, arguments);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

void *allocate(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p == MAP_FAILED) fail("no memory");
    return p;
}

static uint64_t now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t repeat(const struct workload *w, uint64_t units, uint64_t sum)
{
    for (uint64_t i = 0; i < units; i++) {
        uint64_t s = w->unit();
        if (s != sum) fail("checksum %016lx after %016lx", s, sum);
    }
    return sum;
}

// AVX2 and FMA, and an operating system that saves the registers. Asked of Linux and not of CPUID, which on some hosts keeps all code of its page from
// running directly: in a program of this size that is half of it.
static int has_avx2(void)
{
    static char line[8192];
    FILE *f = fopen("/proc/cpuinfo", "r");
    int found = 0;
    while (f && !found && fgets(line, sizeof line, f)) found = !strncmp(line, "flags", 5) && strstr(line, " avx2") && strstr(line, " fma ");
    if (f) fclose(f);
    return found;
}

// Each workload has a process of its own, so that it begins with the same memory and may crash alone.
static void measure(const struct workload *w, uint64_t wanted)
{
    running = w->name;
    if (w->needs && !has_avx2()) {
        printf("@bench skip %s no %s\n", w->name, w->needs);
        fflush(stdout);
        return;
    }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (w->prepare) w->prepare();
        uint64_t sum = w->unit(), units = 1, took;
        for (;; units *= 2) { // warms up too
            uint64_t start = now(CLOCK_MONOTONIC);
            repeat(w, units, sum);
            took = now(CLOCK_MONOTONIC) - start;
            if (took >= wanted / 8) break;
        }
        units = (uint64_t)((double)units * (double)wanted / (double)took) + 1;
        printf("@bench start %s\n", w->name);
        fflush(stdout);
        tcdrain(1);
        uint64_t start = now(CLOCK_MONOTONIC), processor = now(CLOCK_PROCESS_CPUTIME_ID);
        repeat(w, units, sum);
        took = now(CLOCK_MONOTONIC) - start;
        processor = now(CLOCK_PROCESS_CPUTIME_ID) - processor;
        printf("@bench end %s units=%lu ns=%lu cpu=%lu sum=%016lx\n", w->name, units, took, processor, sum);
        fflush(stdout);
        tcdrain(1);
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) fail("no process for it");
    if (WIFSIGNALED(status)) printf("@bench fail %s ended by signal %d\n", w->name, WTERMSIG(status));
    fflush(stdout);
}

static void run(const char *milliseconds, const char *names)
{
    double wanted = (milliseconds ? atof(milliseconds) : 300) * 1e6;
    for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++) {
        if (chosen(names, workloads[i].name)) measure(&workloads[i], wanted < 1e6 ? 1000000 : (uint64_t)wanted);
    }
    printf("@bench done\n");
    fflush(stdout);
    tcdrain(1);
}

static void guest(void)
{
    static const char first[] = "@bench first\n";
    if (write(1, first, sizeof first - 1) < 0) return;
    klogctl(8, NULL, 1); // only emergencies: nothing of the kernel's between our lines
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("tmp", "/tmp", "tmpfs", 0, NULL);
    static char line[4096];
    FILE *file = fopen("/proc/cmdline", "r");
    if (file) {
        if (!fgets(line, sizeof line, file)) line[0] = 0;
        fclose(file);
    }
    if (!strstr(line, "bench.boot")) {
        run(kernel_option(line, "bench.ms="), kernel_option(line, "bench.only="));
        // The host looks at the monitor's memory now, while the machine still is as the benchmark left it.
        char *linger = kernel_option(line, "bench.linger-ms=");
        if (linger) usleep((unsigned)atoi(linger) * 1000);
    }
    reboot(RB_POWER_OFF);
}

int main(int argc, char **argv)
{
    if (getpid() == 1) {
        guest();
        return 0;
    }
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++) {
            const struct workload *w = &workloads[i];
            printf("%s\t%s\t%lu\t%s\n", w->name, w->group, w->operations, w->operation);
        }
        return 0;
    }
    run(argc > 1 ? argv[1] : NULL, argc > 2 ? argv[2] : NULL);
    return 0;
}
