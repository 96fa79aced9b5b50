/* What busybox's programs do not do with files: run in a guest, in a shared folder. Says what went wrong, and how. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define CHECK(what) do { if (!(what)) { printf("line %d: %s: %s\n", __LINE__, #what, strerror(errno)); exit(1); } } while (0)

static void mapped(void)
{
    int f = open("mapped", O_RDWR | O_CREAT, 0644);
    CHECK(f >= 0 && ftruncate(f, 3 * 4096 + 10) == 0);
    char *p = mmap(0, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
    CHECK(p != MAP_FAILED);
    for (int n = 0; n < 3 * 4096 + 10; n++) p[n] = (char)(n * 7);
    CHECK(msync(p, 4 * 4096, MS_SYNC) == 0 && munmap(p, 4 * 4096) == 0);
    char b[100];
    CHECK(pread(f, b, 100, 5000) == 100);
    for (int n = 0; n < 100; n++) CHECK(b[n] == (char)((5000 + n) * 7));
    close(f);
}

static void attributes(void)
{
    char b[200];
    int f = open("attributes", O_RDWR | O_CREAT, 0600);
    CHECK(f >= 0 && fsetxattr(f, "user.color", "blue", 4, XATTR_CREATE) == 0);
    CHECK(fsetxattr(f, "user.color", "x", 1, XATTR_CREATE) < 0 && errno == EEXIST);
    CHECK(fgetxattr(f, "user.color", b, 200) == 4 && memcmp(b, "blue", 4) == 0);
    CHECK(fgetxattr(f, "user.color", b, 2) < 0 && errno == ERANGE);
    CHECK(fchown(f, 1234, 567) == 0); /* which is kept in an attribute of its own */
    CHECK(flistxattr(f, b, 200) == 11 && strcmp(b, "user.color") == 0);
    CHECK(fsetxattr(f, "user.bunraku.status", "x", 1, 0) < 0 && errno == EPERM);
    CHECK(fsetxattr(f, "security.capability", "x", 1, 0) < 0);
    CHECK(fremovexattr(f, "user.color") == 0 && fgetxattr(f, "user.color", b, 200) < 0 && errno == ENODATA);
    close(f);
}

static void sparse(void)
{
    int f = open("sparse", O_RDWR | O_CREAT, 0644);
    CHECK(f >= 0 && pwrite(f, "end", 3, 1l << 30) == 3);
    CHECK(lseek(f, 0, SEEK_DATA) == 1l << 30);
    CHECK(lseek(f, 0, SEEK_HOLE) == 0);
    CHECK(fallocate(f, 0, 0, 1 << 20) == 0);
    struct stat s;
    CHECK(fstat(f, &s) == 0 && s.st_size == (1l << 30) + 3 && s.st_blocks * 512 >= 1 << 20);
    CHECK(fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20) == 0);
    CHECK(fstat(f, &s) == 0 && s.st_blocks * 512 < 1 << 20);
    int g = open("copied", O_RDWR | O_CREAT, 0644);
    off_t from = (1l << 30) - 5, to = 1;
    CHECK(g >= 0 && copy_file_range(f, &from, g, &to, 8, 0) == 8);
    char b[9];
    CHECK(pread(g, b, 9, 0) == 9 && memcmp(b, "\0\0\0\0\0\0end", 9) == 0);
    close(f);
    close(g);
}

static void names(void)
{
    CHECK(mkdir("n", 0755) == 0 && symlink("../mapped", "n/link") == 0 && link("mapped", "n/hard") == 0);
    struct stat a, b;
    CHECK(stat("mapped", &a) == 0 && stat("n/link", &b) == 0 && a.st_ino == b.st_ino && a.st_nlink == 2);
    CHECK(renameat2(AT_FDCWD, "n/hard", AT_FDCWD, "n/link", RENAME_NOREPLACE) < 0 && errno == EEXIST);
    CHECK(renameat2(AT_FDCWD, "n/hard", AT_FDCWD, "n/link", RENAME_EXCHANGE) == 0);
    CHECK(lstat("n/hard", &a) == 0 && S_ISLNK(a.st_mode));
    CHECK(rmdir("n") < 0 && errno == ENOTEMPTY);
    /* Removed while it is open. */
    int f = open("gone", O_RDWR | O_CREAT, 0644);
    CHECK(f >= 0 && write(f, "still", 5) == 5 && unlink("gone") == 0 && access("gone", F_OK) < 0);
    char t[5];
    CHECK(pread(f, t, 5, 0) == 5 && memcmp(t, "still", 5) == 0 && fstat(f, &a) == 0 && a.st_nlink == 0);
    close(f);
    /* Locks are the guest's own. */
    int x = open("mapped", O_RDWR), y = open("mapped", O_RDWR);
    CHECK(flock(x, LOCK_EX | LOCK_NB) == 0 && flock(y, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5, .l_len = 10 };
    CHECK(fcntl(x, F_SETLK, &lock) == 0);
    close(x);
    close(y);
    /* What is no name there. */
    CHECK(open("n/../../../../../../etc/passwd", O_RDONLY) >= 0); /* the guest's own: its paths end at its own root */
}

static void others(void)
{
    CHECK(mknod("null", S_IFCHR | 0666, 1 << 8 | 3) == 0 && mkfifo("fifo", 0644) == 0);
    struct stat s;
    CHECK(stat("null", &s) == 0 && S_ISCHR(s.st_mode) && s.st_rdev == (1 << 8 | 3));
    int f = open("null", O_RDWR);
    char b;
    CHECK(f >= 0 && write(f, "x", 1) == 1 && read(f, &b, 1) == 0); /* the guest's device, not the host's file */
    close(f);
    f = open("fifo", O_RDWR);
    CHECK(f >= 0 && write(f, "y", 1) == 1 && read(f, &b, 1) == 1 && b == 'y');
    close(f);
    CHECK(chmod("copied", 04711) == 0 && stat("copied", &s) == 0 && (s.st_mode & 07777) == 04711);
    f = open("copied", O_RDWR);
    CHECK(f >= 0 && setegid(5) == 0 && seteuid(5) == 0 && write(f, "z", 1) == 1 && seteuid(0) == 0 && setegid(0) == 0);
    CHECK(stat("copied", &s) == 0 && (s.st_mode & 07777) == 0711); /* a write of others takes the privilege away */
    close(f);
}

int main(void)
{
    mapped();
    attributes();
    sparse();
    names();
    others();
    puts("whole");
    return 0;
}
