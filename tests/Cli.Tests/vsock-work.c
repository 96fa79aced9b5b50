// The guest's side of the tests of virtio sockets: connect CID PORT copies standard input to a port and what comes back to standard output; serve PORT takes
// one connection after the other and sends back what it gets.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

static int fail(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    return 1;
}

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

int main(int argc, char **argv)
{
    setbuf(stdout, NULL);
    struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY };
    int s = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (s < 0)
        return fail("socket");
    if (argc == 4 && !strcmp(argv[1], "connect")) {
        address.svm_cid = strtoul(argv[2], NULL, 10);
        address.svm_port = strtoul(argv[3], NULL, 10);
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
    if (argc != 3 || strcmp(argv[1], "serve"))
        return 2;
    address.svm_port = strtoul(argv[2], NULL, 10);
    if (bind(s, (struct sockaddr *)&address, sizeof address) < 0 || listen(s, 8) < 0)
        return fail("listen");
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
