// Reads and writes a disk in pieces of 4 KiB, each way for so many milliseconds: disks DEVICE MILLISECONDS. Prints megabytes a second by the guest's clock.
// Sequential and random, past the page cache (O_DIRECT) and through it; what is written through it counts with the fsync at the end.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <linux/fs.h>

enum { Piece = 4096 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void drop_caches(void)
{
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
    if (fd >= 0 && write(fd, "3", 1) != 1) perror("drop_caches");
    close(fd);
}

static void run(const char *device, const char *name, int writes, int random, int direct, double limit)
{
    static uint64_t state = 88172645463325252ull;
    void *buffer;
    uint64_t size, done = 0;
    sync();
    drop_caches();
    int fd = open(device, (writes ? O_RDWR : O_RDONLY) | (direct ? O_DIRECT : 0));
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) || posix_memalign(&buffer, Piece, Piece)) {
        perror(device);
        exit(1);
    }
    memset(buffer, 0x5A, Piece);
    double begin = now(), end = begin + limit;
    for (; now() < end && (random || direct || done * Piece < size); done++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        off_t at = (random ? state : done) % (size / Piece) * Piece;
        if ((writes ? pwrite(fd, buffer, Piece, at) : pread(fd, buffer, Piece, at)) != Piece) {
            perror(name);
            exit(1);
        }
    }
    if (writes) fsync(fd);
    printf("disk %s %.2f\n", name, done * Piece / 1e6 / (now() - begin));
    fflush(stdout);
    close(fd);
    free(buffer);
}

int main(int count, char **words)
{
    double limit = count > 2 ? atof(words[2]) / 1000 : 1;
    for (int direct = 1; direct >= 0; direct--)
        for (int random = 0; random < 2; random++)
            for (int writes = 0; writes < 2; writes++) {
                char name[64];
                snprintf(name, sizeof name, "%s-%s-%s", direct ? "direct" : "buffered", random ? "random" : "sequential", writes ? "write" : "read");
                run(words[1], name, writes, random, direct, limit);
            }
    return 0;
}
