// The only program of a guest that measures time: init of a Linux guest, told by the kernel's command line what to do.
//   latency SECONDS   how late a thread wakes up that sleeps until absolute times 1 ms apart, in microseconds
//   busy-latency S    the same while a program computes
//   clocks SECONDS    readings of all the machine's clocks, one line a second
//   steal SECONDS     computes without a pause, and prints what /proc/stat says before and after
//   idle SECONDS      sleeps
// Lines for the script begin with "@ ".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BUCKETS = 5000 }; // µs; the last one has all that is later

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void sleep_until(int64_t when)
{
    struct timespec t = { when / 1000000000, when % 1000000000 };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0) == EINTR) { }
}

static void latency(int64_t seconds)
{
    static uint32_t histogram[BUCKETS];
    struct sched_param priority = { .sched_priority = 80 };
    if (sched_setscheduler(0, SCHED_FIFO, &priority)) printf("no SCHED_FIFO: %s\n", strerror(errno));
    mlockall(MCL_CURRENT | MCL_FUTURE);
    int64_t next = now() + 10000000, end = next + seconds * 1000000000, missed = 0, worst = 0;
    uint64_t count = 0;
    for (; next < end; next += 1000000) {
        sleep_until(next);
        int64_t late = now() - next;
        if (late > worst) worst = late;
        int64_t us = late / 1000;
        histogram[us < 0 ? 0 : us < BUCKETS ? us : BUCKETS - 1]++;
        count++;
        // What has passed meanwhile is not slept for: those times were missed.
        for (; now() > next + 1000000 && next + 1000000 < end; next += 1000000) missed++;
    }
    for (int n = 0; n < BUCKETS; n++)
        if (histogram[n]) printf("@ %d %u\n", n, histogram[n]);
    printf("@ total %lu missed %ld worst %ld\n", count, missed, worst);
}

static uint64_t tsc(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static volatile uint64_t *hpet;

static uint32_t pit(void)
{
    outb(0x00, 0x43); // latch counter 0
    uint32_t low = inb(0x40);
    return low | (uint32_t)inb(0x40) << 8;
}

static int rtc_second(void)
{
    outb(0x00, 0x70);
    return inb(0x71);
}

// A reading and the TSC at that moment, the narrowest of several tries.
#define READ(at, value, expression) \
    do { \
        uint64_t width_ = ~0ull; \
        for (int n_ = 0; n_ < 20; n_++) { \
            uint64_t a_ = tsc(); \
            uint64_t v_ = (expression); \
            uint64_t b_ = tsc(); \
            if (b_ - a_ < width_) width_ = b_ - a_, at = a_ + width_ / 2, value = v_; \
        } \
    } while (0)

static void clocks(int64_t seconds)
{
    if (iopl(3)) printf("no iopl: %s\n", strerror(errno));
    int mem = open("/dev/mem", O_RDONLY);
    void *page = mem < 0 ? MAP_FAILED : mmap(0, 4096, PROT_READ, MAP_SHARED, mem, 0xFED00000);
    if (page == MAP_FAILED) printf("no HPET: %s\n", strerror(errno));
    else hpet = page;
    // The 8254 as a free-running counter of 65536, which nobody else uses by now.
    outb(0x34, 0x43);
    outb(0, 0x40);
    outb(0, 0x40);
    int64_t start = now();
    for (int64_t n = 0; n <= seconds; n++) {
        sleep_until(start + n * 1000000000);
        uint64_t at[5] = {0}, value[5] = {0};
        READ(at[0], value[0], now());
        READ(at[1], value[1], inl(0x608));
        if (hpet) READ(at[2], value[2], hpet[0xF0 / 8]);
        READ(at[3], value[3], pit());
        if (n % 10 == 0) { // waiting for it takes most of a second
            int second = rtc_second();
            uint64_t before = tsc();
            while (rtc_second() == second) before = tsc();
            at[4] = (before + tsc()) / 2; // the clock's second began
        }
        printf("@ %lu %lu %lu %lu %lu %lu %lu %lu %lu\n", at[0], value[0], at[1], value[1], at[2], value[2], at[3], value[3], at[4]);
        fflush(stdout);
    }
}

static void stat_line(const char *mark)
{
    char text[256] = "";
    FILE *f = fopen("/proc/stat", "r");
    if (!f || !fgets(text, sizeof text, f)) strcpy(text, "cpu\n");
    if (f) fclose(f);
    printf("@ %s %ld %s", mark, now(), text);
    fflush(stdout);
}

static void steal(int64_t seconds)
{
    volatile uint64_t x = 1;
    for (int64_t end = now() + 1000000000; now() < end;) x = x * 6364136223846793005ull + 1;
    stat_line("begin");
    for (int64_t end = now() + seconds * 1000000000; now() < end;)
        for (int n = 0; n < 10000; n++) x = x * 6364136223846793005ull + 1;
    stat_line("end");
}

int main(int argc, char **argv)
{
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, 0);
    mount("dev", "/dev", "devtmpfs", 0, 0);
    const char *mode = argc > 1 ? argv[1] : "";
    int64_t seconds = argc > 2 ? atol(argv[2]) : 10;
    printf("\n@ start %s %ld\n", mode, (long)seconds);
    fflush(stdout);
    if (!strcmp(mode, "busy-latency")) {
        if (!fork()) for (;;) __asm__ volatile("");
        sleep_until(now() + 1000000000); // it computes for a while first
        latency(seconds);
    }
    if (!strcmp(mode, "latency")) latency(seconds);
    else if (!strcmp(mode, "clocks")) clocks(seconds);
    else if (!strcmp(mode, "steal")) steal(seconds);
    else if (!strcmp(mode, "idle")) sleep_until(now() + seconds * 1000000000);
    printf("@ done\n");
    fflush(stdout);
    reboot(RB_POWER_OFF);
    return 0;
}
