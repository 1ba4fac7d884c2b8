/* Datagrams over IPv4 and IPv6. */
#include "sockets.h"

static void datagrams(int family) {
    int one = bound(family, DGRAM), two = bound(family, DGRAM);
    uint32_t port_one = port_of(one), port_two = port_of(two), n, port;
    char text[64] = "";
    iovec out[2] = {{"to ", 3}, {"two", 3}}, in = {text, sizeof text};
    uint8_t octets[16];
    storage storage_;
    address short_place = {octets, 16}, place = {&storage_, 128};
    uint16_t flags = -1;
    __wasi_fdstat_t stat;
    WASI(__wasi_fd_fdstat_get(one, &stat), 0);
    CHECK(stat.fs_filetype == __WASI_FILETYPE_SOCKET_DGRAM);

    WASI(sock_send_to(one, out, 2, loopback(family), port_two, 0, &n), 0);
    CHECK(n == 6);
    WASI(recv_from_v2(two, &in, 1, &place, PEEK, &port, &n, &flags), 0);
    CHECK(n == 6 && flags == 0 && port == port_one && storage_.family == family && !memcmp(text, "to two", 6));
    CHECK(!memcmp(storage_.data, loopback(family)->buf, loopback(family)->len));
    /* Back to the address as it came. */
    WASI(send_to_named(two, out, 1, &place, port, 0, &n), 0);
    WASI(recv_from_named(one, &in, 1, &place, 0, &port, &n, &flags), 0);
    CHECK(n == 3 && port == port_two);
    /* The first version has no place for the port. */
    WASI(recv_from_v1(two, &in, 1, &short_place, 0, &n, &flags), 0);
    CHECK(n == 6 && flags == 0 && !memcmp(octets, loopback(family)->buf, loopback(family)->len));

    /* What does not fit is lost, and said to be. */
    in.len = 2;
    for (int turn = 0; turn < 3; turn++) {
        WASI(sock_send_to(one, out, 2, loopback(family), port_two, 0, &n), 0);
        flags = 0;
        if (turn == 0) WASI(sock_recv(two, &in, 1, 0, &n, &flags), 0);
        if (turn == 1) WASI(recv_from_v1(two, &in, 1, &short_place, 0, &n, &flags), 0);
        if (turn == 2) WASI(recv_from_v2(two, &in, 1, &place, 0, &port, &n, &flags), 0);
        CHECK(n == 2 && flags == CUT);
    }
    /* An empty one is one, and so is an empty place for it. */
    WASI(sock_send_to(one, out, 0, loopback(family), port_two, 0, &n), 0);
    CHECK(n == 0);
    WASI(sock_recv(two, &in, 1, 0, &n, &flags), 0);
    CHECK(n == 0 && flags == 0);
    WASI(sock_send_to(one, out, 1, loopback(family), port_two, 0, &n), 0);
    WASI(sock_recv(two, &in, 0, 0, &n, &flags), 0);
    CHECK(n == 0 && flags == CUT);

    /* None is there. */
    nonblocking(two);
    in.len = sizeof text;
    WASI(recv_from_v2(two, &in, 1, &place, 0, &port, &n, &flags), __WASI_ERRNO_AGAIN);
    WASI(recv_from_v1(two, &in, 1, &short_place, 0, &n, &flags), __WASI_ERRNO_AGAIN);

    /* Without an address there has to be a peer. */
    WASI(sock_send(one, out, 1, 0, &n), __WASI_ERRNO_DESTADDRREQ);
    WASI(sock_connect(one, loopback(family), port_two), 0);
    WASI(peer_v2(one, &place, &port), 0);
    CHECK(port == port_two);
    say(one, "peer");
    WASI(recv_from_v2(two, &in, 1, &place, 0, &port, &n, &flags), 0);
    CHECK(n == 4 && port == port_one);
    /* Others are not heard any more. */
    int other = bound(family, DGRAM);
    WASI(sock_send_to(other, out, 1, loopback(family), port_one, 0, &n), 0);
    nonblocking(one);
    WASI(sock_recv(one, &in, 1, 0, &n, &flags), __WASI_ERRNO_AGAIN);
    /* A peer that is gone: its host says so. */
    WASI(__wasi_fd_close(two), 0);
    say(one, "nobody");
    __wasi_subscription_t wait = readable(1, one);
    __wasi_event_t event;
    WASI(poll_oneoff(&wait, &event, 1, &n), 0);
    WASI(sock_recv(one, &in, 1, 0, &n, &flags), __WASI_ERRNO_CONNREFUSED);

    /* The largest, and one beyond that. */
    static char large[65536];
    iovec whole = {large, family == INET4 ? 65507 : 65527};
    two = bound(family, DGRAM);
    WASI(sock_send_to(other, &whole, 1, loopback(family), port_of(two), 0, &n), 0);
    CHECK(n == whole.len);
    whole.len++;
    WASI(sock_send_to(other, &whole, 1, loopback(family), port_of(two), 0, &n), __WASI_ERRNO_MSGSIZE);
    /* Datagrams have no connections. */
    WASI(sock_listen(two, 1), __WASI_ERRNO_NOTSUP);
    int accepted;
    WASI(accept_v1(two, &accepted), __WASI_ERRNO_NOTSUP);
    WASI(accept_v2(two, 0, &accepted), __WASI_ERRNO_NOTSUP);
}

int main(void) {
    datagrams(INET4);
    datagrams(INET6);
    return ok();
}
