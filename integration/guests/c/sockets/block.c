/* block WHAT: says `waiting` and waits in that function for what never comes; `bind PORT` binds and says how it went. */
#include "sockets.h"

int main(int argc, char **argv) {
    const char *what = argv[1];
    int client, server, listener = bound(INET4, STREAM), datagrams = bound(INET4, DGRAM);
    uint32_t n;
    uint16_t flags;
    static char text[1 << 16];
    iovec part = {text, sizeof text};
    storage storage_;
    address place = {&storage_, sizeof storage_};
    if (!strcmp(what, "bind") && argc > 2) {
        printf("%d\n", sock_bind(open_socket(INET4, STREAM), &loopback4, atoi(argv[2])));
        return 0;
    }
    WASI(sock_listen(listener, 0), 0);
    connected(INET4, &client, &server);
    __wasi_subscription_t waits[] = {readable(1, server), readable(2, listener)};
    __wasi_event_t events[2];
    puts("waiting");
    fflush(stdout);
    if (!strcmp(what, "accept")) accept_v1(listener, &client);
    if (!strcmp(what, "recv")) sock_recv(server, &part, 1, 0, &n, &flags);
    /* With a limit, the kernel does not go on by itself after a stop (signal(7)). */
    if (!strcmp(what, "limited")) {
        int64_t limit[2] = {1000, 0};
        WASI(sock_setsockopt(server, 0, RCVTIMEO, limit, sizeof limit), 0);
        WASI(sock_setsockopt(listener, 0, RCVTIMEO, limit, sizeof limit), 0);
        sock_recv(server, &part, 1, 0, &n, &flags);
    }
    if (!strcmp(what, "waitall")) {
        say(client, "x");
        sock_recv(server, &part, 1, WAITALL, &n, &flags);
    }
    if (!strcmp(what, "recv_from")) recv_from_v2(datagrams, &part, 1, &place, 0, &n, &n, &flags);
    if (!strcmp(what, "send"))
        while (sock_send(client, &part, 1, 0, &n) == 0) {}
    /* A queue that is full: the kernel asks again and again. */
    if (!strcmp(what, "connect"))
        while (sock_connect(open_socket(INET4, STREAM), &loopback4, port_of(listener)) == 0) {}
    if (!strcmp(what, "limited connect")) {
        int64_t limit[2] = {1000, 0};
        int fd, answer;
        do {
            fd = open_socket(INET4, STREAM);
            WASI(sock_setsockopt(fd, 0, SNDTIMEO, limit, sizeof limit), 0);
        } while ((answer = sock_connect(fd, &loopback4, port_of(listener))) == 0);
        printf("answer %d\n", answer);
    }
    if (!strcmp(what, "poll")) poll_oneoff(waits, events, 2, &n);
    if (!strcmp(what, "epoll")) epoll_oneoff(waits, events, 2, &n);
    if (!strcmp(what, "busy"))
        for (;;) {
            nonblocking(listener);
            accept_v1(listener, &client);
        }
    puts("not waiting");
    return 1;
}
