/* poll_oneoff with sockets: any mix, hundreds of them, ends of connections, and time. */
#include "sockets.h"
#include <fcntl.h>
#include <unistd.h>

enum { MANY = 300 };

static __wasi_subscription_t waits[2 * MANY + 2];
static __wasi_event_t events[2 * MANY + 2];

static uint32_t happened(uint32_t n) {
    uint32_t count = -1;
    WASI(poll_oneoff(waits, events, n, &count), 0);
    return count;
}

static const __wasi_event_t *event(uint32_t count, uint64_t userdata) {
    for (uint32_t i = 0; i < count; i++)
        if (events[i].userdata == userdata) return &events[i];
    return NULL;
}

static void mixes(void) {
    int client, server, listener = bound(INET4, STREAM);
    WASI(sock_listen(listener, 8), 0);
    connected(INET4, &client, &server);
    int file = open("/file", O_RDWR | O_CREAT, 0644);
    CHECK(file >= 0 && write(file, "12345", 5) == 5 && lseek(file, 2, SEEK_SET) == 2);

    /* One can be written to; one cannot be read from; the clock is slow. */
    waits[0] = readable(1, server);
    waits[1] = writable(2, server);
    waits[2] = after(3, 60000000000);
    waits[3] = readable(4, listener);
    uint32_t n = happened(4);
    CHECK(n == 1 && events[0].userdata == 2 && events[0].type == __WASI_EVENTTYPE_FD_WRITE && events[0].error == 0);

    /* All of them, as long as it is so. */
    say(client, "abc");
    int pending = open_socket(INET4, STREAM);
    WASI(sock_connect(pending, &loopback4, port_of(listener)), 0);
    waits[4] = readable(5, file);
    waits[5] = writable(6, file);
    waits[6] = after(7, 0);
    for (int turn = 0; turn < 2; turn++) {
        n = happened(7);
        CHECK(n == 6 && event(n, 1) && event(n, 2) && event(n, 4) && event(n, 5) && event(n, 6) && event(n, 7));
        CHECK(event(n, 5)->fd_readwrite.nbytes == 3 && event(n, 4)->fd_readwrite.nbytes >= 1);
    }
    /* Twice the same. */
    waits[1] = readable(2, server);
    n = happened(2);
    CHECK(n == 2 && event(n, 1) && event(n, 2));

    /* One that is none does not keep the others. */
    waits[0] = readable(1, 9999);
    n = happened(2);
    CHECK(n == 2 && event(n, 1)->error == __WASI_ERRNO_BADF && event(n, 2)->error == 0);
    CHECK(unlink("/file") == 0);
}

static void ends(void) {
    int client, server;
    char text[8];
    connected(INET6, &client, &server);
    /* The peer says no more. */
    WASI(sock_shutdown(client, SEND), 0);
    waits[0] = readable(1, server);
    waits[1] = writable(2, server);
    uint32_t n = happened(1);
    CHECK(n == 1 && events[0].error == 0 && events[0].fd_readwrite.flags == __WASI_EVENTRWFLAGS_FD_READWRITE_HANGUP);
    n = happened(2);
    CHECK(n == 2 && event(n, 2)->fd_readwrite.flags == 0);
    CHECK(hear(server, text, 8, 0) == 0);
    /* Both say no more: those who want to write hear of it too. */
    WASI(sock_shutdown(server, SEND), 0);
    n = happened(2);
    CHECK(n == 2 && event(n, 2)->fd_readwrite.flags == __WASI_EVENTRWFLAGS_FD_READWRITE_HANGUP);
    WASI(__wasi_fd_close(server), 0);
    WASI(__wasi_fd_close(client), 0);

    /* Nobody was ever there. */
    int lone = open_socket(INET4, STREAM);
    waits[0] = readable(1, lone);
    waits[1] = writable(2, lone);
    n = happened(2);
    CHECK(n == 2 && event(n, 1)->fd_readwrite.flags && event(n, 2)->fd_readwrite.flags);
    WASI(__wasi_fd_close(lone), 0);
    n = happened(1);
    CHECK(n == 1 && events[0].error == __WASI_ERRNO_BADF);

    /* Nothing more fits; then again. */
    static char much[1 << 16];
    iovec part = {much, sizeof much};
    connected(INET4, &client, &server);
    nonblocking(client);
    while (sock_send(client, &part, 1, 0, &n) == 0) {}
    waits[0] = writable(1, client);
    waits[1] = after(2, 20000000);
    n = happened(2);
    CHECK(n == 1 && events[0].userdata == 2);
    nonblocking(server);
    uint16_t out;
    for (;;) {
        while (sock_recv(server, &part, 1, 0, &n, &out) == 0) {}
        waits[1] = after(2, 1000000);
        n = happened(2);
        if (n == 1 && events[0].userdata == 1) break;
        if (n == 2) break;
    }
}

/* A time is neither short nor much too long, in nanoseconds. */
static void time_passes(void) {
    int client, server;
    connected(INET4, &client, &server);
    waits[0] = readable(1, server);
    uint64_t lengths[] = {0, 1, 300000, 1500000, 20000000};
    for (int i = 0; i < 5; i++) {
        uint64_t least = -1;
        for (int turn = 0; turn < 5; turn++) {
            waits[1] = after(2, lengths[i]);
            uint64_t start = now();
            CHECK(happened(2) == 1 && events[0].userdata == 2);
            uint64_t took = now() - start;
            CHECK(took >= lengths[i]);
            if (took < least) least = took;
        }
        /* The machine may be busy; not five times. A wait in whole milliseconds would show. */
        if (lengths[i] == 300000) CHECK(least < 10000000);
    }
    waits[1] = after(2, 0);
    waits[1].u.u.clock.timeout = now() + 5000000;
    waits[1].u.u.clock.flags = __WASI_SUBCLOCKFLAGS_SUBSCRIPTION_CLOCK_ABSTIME;
    CHECK(happened(2) == 1 && now() >= waits[1].u.u.clock.timeout);
}

static void many(void) {
    static int clients[MANY], servers[MANY];
    int listener = bound(INET4, STREAM);
    WASI(sock_listen(listener, MANY), 0);
    for (int i = 0; i < MANY; i++) {
        clients[i] = open_socket(INET4, STREAM);
        WASI(sock_connect(clients[i], &loopback4, port_of(listener)), 0);
        WASI(accept_v1(listener, &servers[i]), 0);
        waits[2 * i] = readable(2 * i, servers[i]);
        waits[2 * i + 1] = readable(2 * i + 1, clients[i]);
    }
    for (int i = 0; i < MANY; i += 7) {
        say(clients[i], "x");
        uint32_t n = happened(2 * MANY);
        CHECK(n == 1 && events[0].userdata == 2u * i);
        char text[1];
        CHECK(hear(servers[i], text, 1, 0) == 1);
    }
    for (int i = 0; i < MANY; i++) waits[2 * i + 1] = writable(2 * i + 1, clients[i]);
    CHECK(happened(2 * MANY) == MANY);
    for (int i = 0; i < MANY; i++) WASI(__wasi_fd_close(clients[i]), 0);
    uint32_t n = happened(2 * MANY);
    CHECK(n == 2 * MANY);
    for (int i = 0; i < MANY; i++) {
        CHECK(event(n, 2 * i)->fd_readwrite.flags == __WASI_EVENTRWFLAGS_FD_READWRITE_HANGUP);
        CHECK(event(n, 2 * i + 1)->error == __WASI_ERRNO_BADF);
        WASI(__wasi_fd_close(servers[i]), 0);
    }
}

int main(void) {
    mixes();
    ends();
    time_passes();
    many();
    WASI(poll_oneoff(waits, events, 0, (uint32_t *)events), __WASI_ERRNO_INVAL);
    return ok();
}
