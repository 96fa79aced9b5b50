// The guest's side of the tests of virtio sockets: connect CID PORT copies standard input to a port and what comes back to standard output; serve PORT takes
// one connection after the other and sends back what it gets. For many connections at once, each with a header that says what both ends do with it: call CID
// PORT COUNT SEED makes them one after the other, answer PORT takes them. cid prints the guest's own context ID. On a busy host a guest can stand still for
// longer than the two seconds that Linux gives a connection by itself.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

static int fail(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    return 1;
}

static const struct timeval patience = { .tv_sec = 100 };

static int copy(int from, int to)
{
    static char buffer[256 << 10];
    for (;;) {
        ssize_t got = read(from, buffer, sizeof buffer);
        if (got <= 0)
            return (int)got;
        for (ssize_t at = 0; at < got;) {
            ssize_t put = write(to, buffer + at, got - at);
            if (put < 0)
                return -1;
            at += put;
        }
    }
}

// How a connection ends: both send all that the header says, and half-close; who has called reads slowly; who has called, or who answers, goes in the middle.
enum { WHOLE, SLOW, CALLER_GOES, ANSWERER_GOES, KINDS };

struct header {
    unsigned kind, there, back; // bytes from who has called, and to it
};

static int pump(int s, unsigned count)
{
    static char buffer[64 << 10];
    while (count > 0) {
        ssize_t put = write(s, buffer, count < sizeof buffer ? count : sizeof buffer);
        if (put < 0)
            return -1;
        count -= put;
    }
    return shutdown(s, SHUT_WR);
}

static int drain(int s, unsigned count, int pause)
{
    static char buffer[64 << 10];
    unsigned seen = 0;
    for (;;) {
        ssize_t got = read(s, buffer, pause ? 1000 : sizeof buffer);
        if (got < 0)
            return -1;
        if (got == 0)
            return seen == count ? 0 : (errno = ENODATA, -1);
        seen += got;
        if (pause && seen % 7 == 0)
            usleep(pause);
    }
}

// One end of a connection. What the other end is to break may fail.
static int play(int s, struct header h, int called)
{
    unsigned out = called ? h.there : h.back, in = called ? h.back : h.there;
    if (h.kind == (called ? CALLER_GOES : ANSWERER_GOES)) {
        static char some[4096];
        if (read(s, some, sizeof some) < 0 && errno != ECONNRESET)
            return fail("broken read");
        return 0;
    }
    pid_t writer = fork();
    if (writer == 0)
        _exit(pump(s, out) < 0);
    int outcome = drain(s, in, called && h.kind == SLOW ? 500 : 0), status, mayFail = h.kind == CALLER_GOES || h.kind == ANSWERER_GOES;
    if (outcome < 0 && !mayFail)
        fail(called ? "call: read" : "answer: read");
    waitpid(writer, &status, 0);
    if (status != 0 && !mayFail)
        printf("%s: write failed\n", called ? "call" : "answer");
    return mayFail ? 0 : outcome < 0 || status != 0;
}

static int call(struct sockaddr_vm address, unsigned count, unsigned seed)
{
    unsigned bad = 0;
    signal(SIGPIPE, SIG_IGN);
    for (unsigned n = 0; n < count; n++) {
        int s = socket(AF_VSOCK, SOCK_STREAM, 0);
        if (s < 0)
            return fail("socket");
        setsockopt(s, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience, sizeof patience);
        if (connect(s, (struct sockaddr *)&address, sizeof address) < 0)
            return fail("call: connect");
        struct header h = { rand_r(&seed) % KINDS, rand_r(&seed) % (1 << rand_r(&seed) % 20), rand_r(&seed) % (1 << rand_r(&seed) % 20) };
        if (write(s, &h, sizeof h) == sizeof h)
            bad += play(s, h, 1);
        else
            bad += !!fail("call: header");
        close(s);
    }
    printf("called, %u bad\n", bad);
    return bad != 0;
}

static int answer(int s)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    printf("answers\n");
    for (;;) {
        int one = accept(s, NULL, NULL);
        if (one < 0)
            return fail("accept");
        if (fork() == 0) {
            struct header h;
            signal(SIGCHLD, SIG_DFL);
            if (read(one, &h, sizeof h) == sizeof h)
                _exit(play(one, h, 0));
            _exit(!!fail("answer: header"));
        }
        close(one);
    }
}

int main(int argc, char **argv)
{
    setbuf(stdout, NULL);
    struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY };
    int s = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (s < 0)
        return fail("socket");
    if (argc == 2 && !strcmp(argv[1], "cid")) {
        unsigned cid;
        int device = open("/dev/vsock", O_RDONLY);
        if (device < 0 || ioctl(device, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0)
            return fail("cid");
        printf("cid %u\n", cid);
        return 0;
    }
    if (argc == 6 && !strcmp(argv[1], "call")) {
        address.svm_cid = strtoul(argv[2], NULL, 10);
        address.svm_port = strtoul(argv[3], NULL, 10);
        return call(address, strtoul(argv[4], NULL, 10), strtoul(argv[5], NULL, 10));
    }
    if (argc == 4 && !strcmp(argv[1], "connect")) {
        address.svm_cid = strtoul(argv[2], NULL, 10);
        address.svm_port = strtoul(argv[3], NULL, 10);
        setsockopt(s, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience, sizeof patience);
        if (connect(s, (struct sockaddr *)&address, sizeof address) < 0)
            return fail("connect");
        pid_t writer = fork();
        if (writer == 0) {
            int outcome = copy(0, s);
            shutdown(s, SHUT_WR);
            _exit(outcome != 0);
        }
        if (copy(s, 1) < 0)
            return fail("read");
        int status;
        waitpid(writer, &status, 0);
        return status != 0;
    }
    if (argc != 3 || (strcmp(argv[1], "serve") && strcmp(argv[1], "answer")))
        return 2;
    address.svm_port = strtoul(argv[2], NULL, 10);
    if (bind(s, (struct sockaddr *)&address, sizeof address) < 0 || listen(s, 8) < 0)
        return fail("listen");
    if (!strcmp(argv[1], "answer"))
        return answer(s);
    printf("serves\n");
    for (;;) {
        int one = accept(s, NULL, NULL);
        if (one < 0)
            return fail("accept");
        if (copy(one, one) < 0)
            fail("copy");
        close(one);
    }
}
