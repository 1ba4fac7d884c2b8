/* epoll_oneoff tells of a change once; otherwise it is poll_oneoff. */
#include "sockets.h"

static __wasi_subscription_t waits[600];
static __wasi_event_t events[600];

static uint32_t happened(uint32_t n) {
    uint32_t count = -1;
    WASI(epoll_oneoff(waits, events, n, &count), 0);
    return count;
}

int main(void) {
    int client, server, other, third;
    char text[16];
    connected(INET4, &client, &server);
    waits[0] = readable(1, server);
    waits[1] = after(2, 20000000);
    CHECK(happened(2) == 1 && events[0].userdata == 2);

    /* Once for what has come, and once for what comes then, though nothing was read. */
    say(client, "abc");
    CHECK(happened(2) == 1 && events[0].userdata == 1 && events[0].type == __WASI_EVENTTYPE_FD_READ);
    CHECK(happened(2) == 1 && events[0].userdata == 2);
    say(client, "def");
    CHECK(happened(2) == 1 && events[0].userdata == 1);
    CHECK(happened(2) == 1 && events[0].userdata == 2);
    CHECK(hear(server, text, 16, 0) == 6);

    /* The userdata is that of the call. */
    waits[0] = readable(7, server);
    say(client, "x");
    CHECK(happened(2) == 1 && events[0].userdata == 7);
    CHECK(hear(server, text, 16, 0) == 1);

    /* To read and to write from one and the same. */
    waits[0] = readable(1, server);
    waits[1] = writable(2, server);
    waits[2] = after(3, 20000000);
    CHECK(happened(3) == 1 && events[0].userdata == 2);
    CHECK(happened(3) == 1 && events[0].userdata == 3);

    /* One that was left out and comes back tells how things are. */
    say(client, "y");
    waits[0] = after(3, 1000000);
    CHECK(happened(1) == 1);
    waits[0] = readable(1, server);
    waits[1] = after(3, 20000000);
    CHECK(happened(2) == 1 && events[0].userdata == 1);
    CHECK(hear(server, text, 16, 0) == 1);

    /* The end wakes those who read, and those who write when it is the end of both. */
    WASI(sock_shutdown(client, SEND), 0);
    CHECK(happened(2) == 1 && events[0].fd_readwrite.flags == __WASI_EVENTRWFLAGS_FD_READWRITE_HANGUP);
    WASI(__wasi_fd_close(client), 0);

    /* Closed while it is watched; another one gets its number. */
    WASI(__wasi_fd_close(server), 0);
    CHECK(happened(1) == 1 && events[0].error == __WASI_ERRNO_BADF);
    connected(INET4, &client, &other);
    CHECK(client == server || other == server);
    third = client == server ? other : client;
    waits[0] = readable(1, server);
    waits[1] = after(3, 20000000);
    CHECK(happened(2) == 1 && events[0].userdata == 3);
    say(third, "z");
    CHECK(happened(2) == 1 && events[0].userdata == 1);
    /* Renumbered while it is watched. */
    int moved = open_socket(INET4, STREAM);
    WASI(__wasi_fd_renumber(server, moved), 0);
    CHECK(happened(1) == 1 && events[0].error == __WASI_ERRNO_BADF);
    waits[0] = readable(1, moved);
    say(third, "z");
    CHECK(happened(2) == 1 && events[0].userdata == 1);

    /* A file is always ready; an error is told at once; no subscription is none. */
    waits[0] = readable(1, 3);
    waits[1] = readable(2, 9999);
    uint32_t n = happened(2);
    CHECK(n == 2 && events[0].userdata + events[1].userdata == 3);
    for (int i = 0; i < 2; i++) CHECK(events[i].error == (events[i].userdata == 1 ? 0 : __WASI_ERRNO_BADF));
    WASI(epoll_oneoff(waits, events, 0, &n), __WASI_ERRNO_INVAL);
    WASI(epoll_oneoff((void *)0xfffffff0, events, 1, &n), __WASI_ERRNO_FAULT);
    WASI(epoll_oneoff(waits, (void *)0xfffffff0, 1, &n), __WASI_ERRNO_FAULT);

    /* Many. */
    int clients[250], servers[250];
    for (int i = 0; i < 250; i++) {
        connected(INET4, &clients[i], &servers[i]);
        waits[i] = readable(i, servers[i]);
    }
    waits[250] = after(999, 20000000);
    CHECK(happened(251) == 1 && events[0].userdata == 999);
    for (int i = 0; i < 250; i++) say(clients[i], "x");
    CHECK(happened(251) == 250);
    CHECK(happened(251) == 1 && events[0].userdata == 999);
    return ok();
}
