/* TCP over IPv4 and IPv6: both versions of each function, by both names. */
#include "sockets.h"
#include <fcntl.h>
#include <unistd.h>

static void connections(int family) {
    int listener = open_socket(family, STREAM), client, first, second, third, any;
    WASI(sock_bind(listener, loopback(family), 0), 0);
    WASI(sock_listen(listener, -1), 0);
    uint32_t port = port_of(listener);
    CHECK(port > 0);

    /* A port that is taken, and one that a socket has already. */
    any = open_socket(family, STREAM);
    WASI(sock_bind(any, loopback(family), port), __WASI_ERRNO_ADDRINUSE);
    WASI(sock_bind(listener, loopback(family), 0), __WASI_ERRNO_INVAL);
    WASI(__wasi_fd_close(any), 0);

    /* Three clients, accepted in three ways. */
    client = open_socket(family, STREAM);
    WASI(sock_connect(client, loopback(family), port), 0);
    WASI(sock_connect(client, loopback(family), port), __WASI_ERRNO_ISCONN);
    WASI(accept_v1(listener, &first), 0);
    WASI(open_named(family, STREAM, &any), 0);
    WASI(connect_named(any, loopback(family), port), 0);
    WASI(accept_v2(listener, __WASI_FDFLAGS_NONBLOCK, &second), 0);
    CHECK(first != second && first >= 3 && second >= 3);
    WASI(__wasi_fd_close(any), 0);
    WASI(open_named(family, STREAM, &any), 0);
    WASI(sock_connect(any, loopback(family), port), 0);
    WASI(accept_named(listener, 0, &third), 0);

    /* Only the one that was asked for does not block; the listener still does. */
    __wasi_fdstat_t stat;
    WASI(__wasi_fd_fdstat_get(second, &stat), 0);
    CHECK(stat.fs_flags == __WASI_FDFLAGS_NONBLOCK && stat.fs_filetype == __WASI_FILETYPE_SOCKET_STREAM);
    int blocking[] = {listener, first, third, client};
    for (int i = 0; i < 4; i++) {
        WASI(__wasi_fd_fdstat_get(blocking[i], &stat), 0);
        CHECK(stat.fs_flags == 0 && stat.fs_filetype == __WASI_FILETYPE_SOCKET_STREAM);
    }
    CHECK(fcntl(client, F_GETFL) == O_RDWR);
    nonblocking(listener);
    WASI(accept_v1(listener, &any), __WASI_ERRNO_AGAIN);

    /* Who is who. */
    storage place;
    address room = {&place, sizeof place};
    uint8_t octets[16];
    address short_room = {octets, 16};
    uint32_t number, local, remote;
    WASI(local_v1(client, &short_room, &number, &local), 0);
    CHECK(number == (family == INET4 ? 4 : 6) && !memcmp(octets, loopback(family)->buf, loopback(family)->len));
    WASI(peer_v1(first, &short_room, &number, &remote), 0);
    CHECK(number == (family == INET4 ? 4 : 6) && remote == local);
    WASI(peer_v2(client, &room, &remote), 0);
    CHECK(place.family == family && remote == port && !memcmp(place.data, loopback(family)->buf, loopback(family)->len));
    WASI(local_v2(first, &room, &remote), 0);
    CHECK(remote == port);
    WASI(local_named(client, &room, &remote), 0);
    CHECK(remote == local);
    WASI(peer_named(first, &room, &remote), 0);
    CHECK(remote == local && place.family == family);
    WASI(peer_v2(listener, &room, &remote), __WASI_ERRNO_NOTCONN);
    /* Eight zeroes follow the octets of an IPv4 address in a place of 16 bytes; one of 4 is too small for IPv6. */
    address four = {octets, 4};
    WASI(local_v1(client, &four, &number, &local), family == INET4 ? 0 : __WASI_ERRNO_NOMEM);
}

static void data(int family) {
    int client, server;
    connected(family, &client, &server);
    char text[64] = "";

    /* Scattered and gathered. */
    iovec out[3] = {{"one ", 4}, {"", 0}, {"two", 3}}, in[2] = {{text, 2}, {text + 2, 62}};
    uint32_t n;
    uint16_t flags = -1;
    WASI(sock_send(client, out, 3, 0, &n), 0);
    CHECK(n == 7);
    WASI(sock_recv(server, in, 2, PEEK, &n, &flags), 0);
    CHECK(n == 7 && flags == 0 && !memcmp(text, "one two", 7));
    memset(text, 0, sizeof text);
    WASI(recv_named(server, in, 2, 0, &n, &flags), 0);
    CHECK(n == 7 && !memcmp(text, "one two", 7));
    WASI(send_named(server, out, 1, 0, &n), 0);
    CHECK(n == 4);
    CHECK(hear(client, text, 64, 0) == 4);

    /* All that was asked for, although it comes in parts. */
    say(client, "abc");
    say(client, "def");
    CHECK(hear(server, text, 6, WAITALL) == 6 && !memcmp(text, "abcdef", 6));

    /* A stream's sender is its peer. */
    say(client, "x");
    uint8_t octets[16];
    address place = {octets, 16};
    in[0] = (iovec){text, 1};
    WASI(recv_from_v1(server, in, 1, &place, PEEK, &n, &flags), 0);
    CHECK(n == 1 && !memcmp(octets, loopback(family)->buf, loopback(family)->len));
    storage storage_;
    address room = {&storage_, 128};
    uint32_t port;
    WASI(recv_from_v2(server, in, 1, &room, 0, &port, &n, &flags), 0);
    CHECK(n == 1 && port == port_of(client) && storage_.family == family);

    /* The file functions work as well. */
    CHECK(write(client, "file", 4) == 4 && read(server, text, sizeof text) == 4 && !memcmp(text, "file", 4));
    FAILS(lseek(client, 0, SEEK_SET), ESPIPE);

    /* Nothing to read, then the end. */
    nonblocking(server);
    in[0] = (iovec){text, 64};
    WASI(sock_recv(server, in, 1, 0, &n, &flags), __WASI_ERRNO_AGAIN);
    say(client, "last");
    WASI(sock_shutdown(client, SEND), 0);
    WASI(sock_send(client, out, 1, 0, &n), __WASI_ERRNO_PIPE);
    __wasi_subscription_t wait = readable(1, server);
    __wasi_event_t event;
    WASI(poll_oneoff(&wait, &event, 1, &n), 0);
    CHECK(n == 1 && event.error == 0 && event.fd_readwrite.flags == __WASI_EVENTRWFLAGS_FD_READWRITE_HANGUP);
    CHECK(hear(server, text, 64, 0) == 4);
    CHECK(hear(server, text, 64, 0) == 0 && hear(server, text, 64, 0) == 0);
    /* Half closed: the other half still works. */
    say(server, "answer");
    CHECK(hear(client, text, 64, 0) == 6);
    WASI(sock_shutdown(server, BOTH), 0);
    CHECK(hear(client, text, 64, 0) == 0);
    WASI(__wasi_fd_close(client), 0);
    WASI(__wasi_fd_close(server), 0);

    /* Closed with something unread, a connection is reset; that is no signal, and said once. */
    connected(family, &client, &server);
    say(client, "unread");
    hear(server, text, 1, PEEK);
    WASI(__wasi_fd_close(server), 0);
    wait = readable(1, client);
    WASI(poll_oneoff(&wait, &event, 1, &n), 0);
    WASI(sock_recv(client, in, 1, 0, &n, &flags), __WASI_ERRNO_CONNRESET);
    CHECK(hear(client, text, 64, 0) == 0);
    WASI(sock_send(client, out, 1, 0, &n), __WASI_ERRNO_PIPE);
    WASI(__wasi_fd_close(client), 0);
}

static int error_of(int fd) {
    int error = -1;
    uint32_t len = sizeof error;
    WASI(sock_getsockopt(fd, 0, ERROR, &error, &len), 0);
    CHECK(len == 4);
    return error;
}

static void refused(int family) {
    int listener = bound(family, STREAM);
    uint32_t port = port_of(listener), n;
    int fd = open_socket(family, STREAM);
    /* Bound, but nobody listens. */
    WASI(sock_connect(fd, loopback(family), port), __WASI_ERRNO_CONNREFUSED);
    WASI(__wasi_fd_close(fd), 0);

    fd = open_socket(family, STREAM);
    nonblocking(fd);
    int answer = sock_connect(fd, loopback(family), port);
    CHECK(answer == __WASI_ERRNO_INPROGRESS || answer == __WASI_ERRNO_CONNREFUSED);
    if (answer == __WASI_ERRNO_INPROGRESS) {
        __wasi_subscription_t wait = writable(1, fd);
        __wasi_event_t event;
        WASI(poll_oneoff(&wait, &event, 1, &n), 0);
        CHECK(n == 1 && event.userdata == 1);
        CHECK(error_of(fd) == __WASI_ERRNO_CONNREFUSED);
    }
    /* Said once. */
    CHECK(error_of(fd) == 0);
    WASI(__wasi_fd_close(fd), 0);

    /* The same where somebody does. */
    WASI(listen_named(listener, 1), 0);
    fd = open_socket(family, STREAM);
    nonblocking(fd);
    answer = sock_connect(fd, loopback(family), port);
    CHECK(answer == 0 || answer == __WASI_ERRNO_INPROGRESS);
    __wasi_subscription_t waits[2] = {writable(2, fd), readable(3, fd)};
    __wasi_event_t events[2];
    WASI(poll_oneoff(waits, events, 2, &n), 0);
    CHECK(n == 1 && events[0].userdata == 2 && events[0].error == 0 && error_of(fd) == 0);
    int server;
    WASI(accept_v1(listener, &server), 0);
    say(server, "x");
    WASI(poll_oneoff(waits, events, 2, &n), 0);
    CHECK(n == 2);
    WASI(__wasi_fd_close(server), 0);
    WASI(__wasi_fd_close(fd), 0);
    WASI(__wasi_fd_close(listener), 0);
}

/* Where no way leads: the container's network has nothing but itself. */
static void unreachable(void) {
    uint8_t octets[4] = {192, 0, 2, 1}, octets6_[16] = {0x20, 0x01, 0x0d, 0xb8};
    address far = {octets, 4}, far6 = {octets6_, 16};
    int fd = open_socket(INET4, STREAM);
    WASI(sock_connect(fd, &far, 80), __WASI_ERRNO_NETUNREACH);
    WASI(sock_bind(fd, &far, 0), __WASI_ERRNO_ADDRNOTAVAIL);
    fd = open_socket(INET6, STREAM);
    WASI(sock_connect(fd, &far6, 80), __WASI_ERRNO_NETUNREACH);
    /* The wrong family. */
    fd = open_socket(INET4, STREAM);
    WASI(sock_connect(fd, &loopback6, 80), __WASI_ERRNO_AFNOSUPPORT);
}

int main(void) {
    for (int family = INET4; family <= INET6; family++) {
        connections(family);
        data(family);
        refused(family);
    }
    unreachable();
    return ok();
}
