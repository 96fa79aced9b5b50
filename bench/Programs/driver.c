// The first process of the guest of bench/programs, and the same program natively: runs programs one after the other, and reports by lines that
// bench/Compare reads and timestamps (the same lines as of bench/workloads/main.c):
//
//   @bench first
//   @bench start NAME
//   @bench end NAME units=1 ns=NANOSECONDS cpu=NANOSECONDS sum=HEX       sum: FNV-1a of what it wrote to standard output
//   @bench fail NAME REASON
//   @bench done
//
// As a program:  driver NAME,NAME…      In a guest the kernel's command line has bench.only=NAME,NAME…
// /bench/list has a line for each: NAME, a tab, and a command for sh, which starts in an empty folder. Its first run is what is measured: nothing is warm.
#define _GNU_SOURCE
#include "../workloads/options.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define OUTPUT "/tmp/output"
#define ERRORS "/tmp/errors"
#define FOLDER "/tmp/work"

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

// Of all children that have ended.
static uint64_t processor_time(void)
{
    struct rusage u;
    getrusage(RUSAGE_CHILDREN, &u);
    return ((uint64_t)u.ru_utime.tv_sec + (uint64_t)u.ru_stime.tv_sec) * 1000000000 + ((uint64_t)u.ru_utime.tv_usec + (uint64_t)u.ru_stime.tv_usec) * 1000;
}

static void say(const char *text)
{
    fputs(text, stdout);
    fflush(stdout);
    tcdrain(1);
}

// 0 bytes count as wrong: a program that says nothing proves nothing.
static uint64_t sum_of_output(size_t *length)
{
    uint64_t sum = 0xcbf29ce484222325;
    FILE *file = fopen(OUTPUT, "r");
    *length = 0;
    if (!file) return 0;
    for (int c; (c = getc(file)) != EOF; ++*length) sum = (sum ^ (unsigned char)c) * 0x100000001b3;
    fclose(file);
    return sum;
}

static void last_complaint(char *line, size_t size)
{
    snprintf(line, size, "nothing on standard error");
    FILE *file = fopen(ERRORS, "r");
    if (!file) return;
    char text[400];
    while (fgets(text, sizeof text, file)) {
        text[strcspn(text, "\n")] = 0;
        if (*text) snprintf(line, size, "%s", text);
    }
    fclose(file);
}

static void run_command(const char *command)
{
    int output = open(OUTPUT, O_WRONLY | O_CREAT | O_TRUNC, 0600), errors = open(ERRORS, O_WRONLY | O_CREAT | O_TRUNC, 0600), input = open("/dev/null", O_RDONLY);
    if (input < 0 || output < 0 || errors < 0 || chdir(FOLDER) != 0) _exit(126);
    dup2(input, 0);
    dup2(output, 1);
    dup2(errors, 2);
    char *environment[] = { "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOME=" FOLDER, "LC_ALL=C", "TMPDIR=/tmp", "DOTNET_gcServer=0", "DOTNET_CLI_TELEMETRY_OPTOUT=1", NULL };
    execle("/bin/sh", "sh", "-e", "-c", command, NULL, environment);
    _exit(127);
}

static void measure(const char *name, const char *command)
{
    char text[700], complaint[400];
    if (system("rm -rf " FOLDER " && mkdir " FOLDER) != 0) {
        snprintf(text, sizeof text, "@bench fail %s no folder for it\n", name);
        say(text);
        return;
    }
    snprintf(text, sizeof text, "@bench start %s\n", name);
    say(text);
    uint64_t start = now(), processor = processor_time();
    pid_t child = fork();
    if (child == 0) run_command(command);
    int status = 0;
    while (child > 0 && waitpid(child, &status, 0) != child && errno == EINTR) continue;
    uint64_t took = now() - start;
    processor = processor_time() - processor;
    size_t length;
    uint64_t sum = sum_of_output(&length);
    if (child < 0 || status != 0 || length == 0) {
        last_complaint(complaint, sizeof complaint);
        snprintf(text, sizeof text, "@bench fail %s wait status %#x, %zu bytes of output: %s\n", name, (unsigned)status, length, complaint);
    } else {
        snprintf(text, sizeof text, "@bench end %s units=1 ns=%lu cpu=%lu sum=%016lx\n", name, took, processor, sum);
    }
    say(text);
}

static void run(const char *names)
{
    FILE *list = fopen("/bench/list", "re");
    static char line[4096];
    while (list && fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = 0;
        char *tab = strchr(line, '\t');
        if (!tab || *line == '#') continue;
        *tab = 0;
        if (chosen(names, line)) measure(line, tab + 1 + strspn(tab + 1, "\t"));
    }
    say("@bench done\n");
}

static void guest(void)
{
    say("@bench first\n");
    klogctl(8, NULL, 1); // only emergencies: nothing of the kernel's between our lines
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sys", "/sys", "sysfs", 0, NULL);
    mount("tmp", "/tmp", "tmpfs", 0, NULL);
    setenv("PATH", "/usr/bin:/bin", 1);
    static char line[4096];
    FILE *file = fopen("/proc/cmdline", "r");
    if (file) {
        if (!fgets(line, sizeof line, file)) line[0] = 0;
        fclose(file);
    }
    run(kernel_option(line, "bench.only="));
    // The host looks at the monitor's memory now, while the machine still is as the programs left it.
    char *linger = kernel_option(line, "bench.linger-ms=");
    if (linger) usleep((unsigned)atoi(linger) * 1000);
    reboot(RB_POWER_OFF);
}

int main(int argc, char **argv)
{
    if (getpid() == 1 && argc < 2) guest();
    else run(argc > 1 ? argv[1] : NULL);
    return 0;
}
