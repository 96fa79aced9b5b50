// What an operating system does for its programs.
#define _GNU_SOURCE
#include "bench.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int done, const char *what)
{
    if (!done) fail("%s: %s", what, strerror(errno));
}

uint64_t getppid_unit(void)
{
    static long parent;
    if (parent == 0) parent = getppid();
    for (int i = 0; i < 100; i++) must(syscall(SYS_getppid) == parent, "getppid");
    return 1;
}

static int zero;

void read_prepare(void)
{
    zero = open("/dev/zero", O_RDONLY);
    must(zero >= 0, "/dev/zero");
}

// A system call that copies.
uint64_t read_unit(void)
{
    static char buffer[4096];
    for (int i = 0; i < 20; i++) must(read(zero, buffer, sizeof buffer) == sizeof buffer, "read");
    return 1;
}

// 64 pages are touched the first time; mapping and unmapping them is a small part.
uint64_t fault_unit(void)
{
    enum { PAGES = 64 };
    char *p = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(p != MAP_FAILED, "mmap");
    madvise(p, PAGES * 4096, MADV_NOHUGEPAGE);
    uint64_t sum = 0;
    for (int i = 0; i < PAGES; i++) {
        sum += (uint8_t)p[i * 4096 + i];
        p[i * 4096] = 1;
    }
    for (int i = 0; i < PAGES; i++) sum += (uint8_t)p[i * 4096];
    must(munmap(p, PAGES * 4096) == 0, "munmap");
    return sum;
}

uint64_t mmap_unit(void)
{
    for (int i = 0; i < 10; i++) {
        void *p = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(p != MAP_FAILED, "mmap");
        must(munmap(p, 16 * 4096) == 0, "munmap");
    }
    return 1;
}

static uint64_t wait_for(pid_t child)
{
    int status;
    must(child > 0, "fork");
    must(waitpid(child, &status, 0) == child, "waitpid");
    if (!WIFEXITED(status)) fail("the child ended by signal %d", WTERMSIG(status));
    return (uint64_t)WEXITSTATUS(status);
}

uint64_t fork_unit(void)
{
    pid_t child = fork();
    if (child == 0) _exit(42);
    return wait_for(child);
}

uint64_t exec_unit(void)
{
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/busybox", "busybox", "true", NULL);
        _exit(127);
    }
    return wait_for(child);
}

// One byte goes to another process and comes back: two context switches.
static int there[2], back[2];

void pipe_prepare(void)
{
    must(pipe(there) == 0 && pipe(back) == 0, "pipe");
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        char byte;
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1) continue;
        _exit(0);
    }
    close(there[0]); // the child sees the end of the pipe when we are gone
}

uint64_t pipe_unit(void)
{
    char byte = 'b';
    must(write(there[1], &byte, 1) == 1, "write");
    must(read(back[0], &byte, 1) == 1, "read");
    return (uint64_t)byte;
}

static volatile sig_atomic_t handled;

static void handler(int number)
{
    (void)number;
    handled++;
}

void signal_prepare(void)
{
    struct sigaction action = { .sa_handler = handler };
    must(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
}

uint64_t signal_unit(void)
{
    handled = 0;
    for (int i = 0; i < 10; i++) must(kill(getpid(), SIGUSR1) == 0, "kill");
    return (uint64_t)handled;
}

uint64_t file_unit(void)
{
    static char block[4096];
    int file = open("/tmp/bench", O_RDWR | O_CREAT | O_TRUNC, 0600);
    must(file >= 0, "open");
    for (int i = 0; i < 4; i++) must(write(file, block, sizeof block) == sizeof block, "write");
    must(lseek(file, 0, SEEK_SET) == 0, "lseek");
    for (int i = 0; i < 4; i++) must(read(file, block, sizeof block) == sizeof block, "read");
    close(file);
    must(unlink("/tmp/bench") == 0, "unlink");
    return 1;
}

// Page-table entries come, change their rights, move and go: each page is written to again after each change.
uint64_t churn_unit(void)
{
    enum { PAGES = 64, BYTES = PAGES * 4096 };
    char *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *other = mmap(NULL, BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(p != MAP_FAILED && other != MAP_FAILED, "mmap");
    madvise(p, BYTES, MADV_NOHUGEPAGE);
    uint64_t sum = 0;
    for (int i = 0; i < PAGES; i++) p[i * 4096] = (char)i;
    must(mprotect(p, BYTES, PROT_READ) == 0, "mprotect");
    for (int i = 0; i < PAGES; i++) sum += (uint8_t)p[i * 4096];
    must(mprotect(p, BYTES, PROT_READ | PROT_WRITE) == 0, "mprotect");
    for (int i = 0; i < PAGES; i++) p[i * 4096]++;
    must(mremap(p, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, other) == other, "mremap");
    for (int i = 0; i < PAGES; i++) sum += (uint8_t)other[i * 4096]++;
    must(madvise(other, BYTES, MADV_DONTNEED) == 0, "madvise");
    for (int i = 0; i < PAGES; i++) sum += (uint8_t)other[i * 4096];
    must(munmap(other, BYTES) == 0, "munmap");
    return sum;
}
