// Work for several processors whose result is known: `stress SECONDS [WORK...]`. Prints the rounds of each kind, and PASS or a line that begins with FAIL.
#include "stress.h"
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <time.h>

atomic_bool stopping;

enum { STALL_SECONDS = 60, MOST_THREADS = 64 };

static const struct work *const all[] = { &counters, &ordering, &handoffs, &remapping, &protection, &crossmodifying, &forks, &signals };
enum { WORKS = sizeof all / sizeof *all };

// In memory that all processes share: rounds of each thread of each kind, and who is to stop.
struct board {
    atomic_ulong rounds[WORKS][MOST_THREADS];
    atomic_bool stop;
};
static struct board *board;

void fail(const char *format, ...)
{
    char line[400];
    va_list arguments;
    va_start(arguments, format);
    int n = snprintf(line, sizeof line, "FAIL: ");
    n += vsnprintf(line + n, sizeof line - n - 1, format, arguments);
    line[n++] = '\n';
    if (write(1, line, n) < 0) _exit(2);
    _exit(1);
}

struct thread {
    pthread_t id;
    const struct work *work;
    int number, count;
    atomic_ulong *rounds;
};

static void *run_thread(void *argument)
{
    struct thread *t = argument;
    t->work->run(t->number, t->count, t->rounds);
    return NULL;
}

static void *watch_stop(void *argument)
{
    while (!atomic_load(&board->stop)) usleep(20000);
    atomic_store(&stopping, true);
    return argument;
}

// The process of one kind of work.
static void run_work(int number, int threads)
{
    const struct work *work = all[number];
    struct thread t[MOST_THREADS];
    pthread_t watcher;
    if (pthread_create(&watcher, NULL, watch_stop, NULL)) fail("%s: no thread: %m", work->name);
    for (int n = 0; n < threads; n++) {
        t[n] = (struct thread){ .work = work, .number = n, .count = threads, .rounds = &board->rounds[number][n] };
        if (pthread_create(&t[n].id, NULL, run_thread, &t[n])) fail("%s: no thread: %m", work->name);
    }
    for (int n = 0; n < threads; n++) pthread_join(t[n].id, NULL);
    pthread_join(watcher, NULL);
    if (work->check) work->check(threads);
    exit(0);
}

static unsigned long sum(int number)
{
    unsigned long total = 0;
    for (int n = 0; n < MOST_THREADS; n++) total += board->rounds[number][n];
    return total;
}

int main(int count, char **arguments)
{
    if (count < 2) fail("usage: stress SECONDS [WORK...]");
    if (!strcmp(arguments[1], "exit")) return atoi(arguments[2]); // what the fork storm executes
    long seconds = atol(arguments[1]);
    int processors = sysconf(_SC_NPROCESSORS_ONLN), threads = processors < 2 ? 2 : processors > MOST_THREADS ? MOST_THREADS : processors;
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED) fail("no memory: %m");
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("stress: %d processors, %d threads of each kind, %ld s\n", processors, threads, seconds);

    pid_t children[WORKS];
    for (int n = 0; n < WORKS; n++) {
        bool wanted = count == 2;
        for (int a = 2; a < count; a++) wanted |= !strcmp(arguments[a], all[n]->name);
        children[n] = wanted ? fork() : 0;
        if (wanted && children[n] == 0) run_work(n, threads);
        if (children[n] < 0) fail("fork: %m");
    }

    // A kind that makes no progress has lost a wake-up or waits for ever.
    unsigned long last[WORKS] = { 0 };
    int still[WORKS] = { 0 };
    time_t end = time(NULL) + seconds;
    while (time(NULL) < end) {
        sleep(1);
        for (int n = 0; n < WORKS; n++) {
            if (!children[n]) continue;
            int status;
            if (waitpid(children[n], &status, WNOHANG) == children[n]) fail("%s ended early with status %x", all[n]->name, status);
            unsigned long now = sum(n);
            still[n] = now == last[n] ? still[n] + 1 : 0;
            last[n] = now;
            if (still[n] >= STALL_SECONDS) fail("%s made no progress for %d s", all[n]->name, STALL_SECONDS);
        }
    }
    atomic_store(&board->stop, true);
    for (int n = 0; n < WORKS; n++) {
        if (!children[n]) continue;
        int status = 0;
        time_t latest = time(NULL) + STALL_SECONDS;
        while (waitpid(children[n], &status, WNOHANG) == 0) {
            if (time(NULL) > latest) fail("%s does not end", all[n]->name);
            usleep(10000);
        }
        if (status) fail("%s ended with status %x", all[n]->name, status);
        printf("%-16s %12lu rounds\n", all[n]->name, sum(n));
        if (sum(n) == 0) fail("%s did nothing", all[n]->name);
    }
    puts("PASS");
    return 0;
}
