/* The socket functions as WasmEdge's guests import them, in both versions, and what these tests do with them. */
#pragma once
#include "../check.h"
#include <stdint.h>
#include <wasi/api.h>

#define IMPORT(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))

enum { UNSPEC, INET4, INET6, UNIX };
enum { ANY, DGRAM, STREAM };
enum { RECV = 1, SEND, BOTH };
enum { PEEK = 1, WAITALL = 2 };
enum { CUT = 1 };
enum {
    REUSEADDR, TYPE, ERROR, DONTROUTE, BROADCAST, SNDBUF, RCVBUF, KEEPALIVE, OOBINLINE, LINGER, RCVLOWAT, RCVTIMEO,
    SNDTIMEO, ACCEPTCONN, BINDTODEVICE
};

/* Where an address is. 4 and 16 bytes are octets; 128 bytes are a family, then octets or a path. */
typedef struct { void *buf; uint32_t len; } address;
typedef struct { uint16_t family; uint8_t data[126]; } storage;
typedef struct { void *buf; uint32_t len; } iovec;

typedef struct { uint8_t family; uint32_t data_len; uint8_t *data; } sockaddr;
typedef struct addrinfo_ {
    uint16_t flags;
    uint8_t family, socktype, protocol;
    uint32_t addrlen;
    sockaddr *addr;
    char *canonname;
    uint32_t canonname_len;
    struct addrinfo_ *next;
} addrinfo;
_Static_assert(sizeof(addrinfo) == 28 && sizeof(sockaddr) == 12 && sizeof(storage) == 128, "layouts");

int sock_open(int family, int type, int *fd) IMPORT(sock_open);
int sock_bind(int fd, const address *, int port) IMPORT(sock_bind);
int sock_listen(int fd, int backlog) IMPORT(sock_listen);
int sock_connect(int fd, const address *, int port) IMPORT(sock_connect);
int sock_recv(int fd, const iovec *, int n, int flags, uint32_t *got, uint16_t *out) IMPORT(sock_recv);
int sock_send(int fd, const iovec *, int n, int flags, uint32_t *sent) IMPORT(sock_send);
int sock_send_to(int fd, const iovec *, int n, const address *, int port, int flags, uint32_t *sent) IMPORT(sock_send_to);
int sock_shutdown(int fd, int how) IMPORT(sock_shutdown);
int sock_getsockopt(int fd, int level, int name, void *value, uint32_t *len) IMPORT(sock_getsockopt);
int sock_setsockopt(int fd, int level, int name, const void *value, uint32_t len) IMPORT(sock_setsockopt);
int sock_getaddrinfo(const char *node, uint32_t node_len, const char *service, uint32_t service_len, const addrinfo *hints,
                     addrinfo **list, uint32_t max, uint32_t *found) IMPORT(sock_getaddrinfo);
int poll_oneoff(const __wasi_subscription_t *, __wasi_event_t *, uint32_t n, uint32_t *happened) IMPORT(poll_oneoff);
int epoll_oneoff(const __wasi_subscription_t *, __wasi_event_t *, uint32_t n, uint32_t *happened) IMPORT(epoll_oneoff);

/* One name, two types: the type decides. */
int accept_v1(int fd, int *accepted) IMPORT(sock_accept);
int accept_v2(int fd, int flags, int *accepted) IMPORT(sock_accept);
int recv_from_v1(int fd, const iovec *, int n, address *, int flags, uint32_t *got, uint16_t *out) IMPORT(sock_recv_from);
int recv_from_v2(int fd, const iovec *, int n, address *, int flags, uint32_t *port, uint32_t *got, uint16_t *out)
    IMPORT(sock_recv_from);
int local_v1(int fd, address *, uint32_t *family, uint32_t *port) IMPORT(sock_getlocaladdr);
int local_v2(int fd, address *, uint32_t *port) IMPORT(sock_getlocaladdr);
int peer_v1(int fd, address *, uint32_t *family, uint32_t *port) IMPORT(sock_getpeeraddr);
int peer_v2(int fd, address *, uint32_t *port) IMPORT(sock_getpeeraddr);

/* The second version by its own names. */
int open_named(int family, int type, int *fd) IMPORT(sock_open_v2);
int bind_named(int fd, const address *, int port) IMPORT(sock_bind_v2);
int listen_named(int fd, int backlog) IMPORT(sock_listen_v2);
int accept_named(int fd, int flags, int *accepted) IMPORT(sock_accept_v2);
int connect_named(int fd, const address *, int port) IMPORT(sock_connect_v2);
int recv_named(int fd, const iovec *, int n, int flags, uint32_t *got, uint16_t *out) IMPORT(sock_recv_v2);
int recv_from_named(int fd, const iovec *, int n, address *, int flags, uint32_t *port, uint32_t *got, uint16_t *out)
    IMPORT(sock_recv_from_v2);
int send_named(int fd, const iovec *, int n, int flags, uint32_t *sent) IMPORT(sock_send_v2);
int send_to_named(int fd, const iovec *, int n, const address *, int port, int flags, uint32_t *sent)
    IMPORT(sock_send_to_v2);
int local_named(int fd, address *, uint32_t *port) IMPORT(sock_getlocaladdr_v2);
int peer_named(int fd, address *, uint32_t *port) IMPORT(sock_getpeeraddr_v2);

/* Addresses that a test needs. `octets_of` is the part of a loopback address that says which. */
static uint8_t octets4[4] = {127, 0, 0, 1}, octets6[16] = {[15] = 1};
static const address loopback4 = {octets4, 4}, loopback6 = {octets6, 16};

static inline const address *loopback(int family) { return family == INET4 ? &loopback4 : &loopback6; }

static inline int open_socket(int family, int type) {
    int fd = -1;
    WASI(sock_open(family, type, &fd), 0);
    CHECK(fd >= 3);
    return fd;
}

static inline uint32_t port_of(int fd) {
    uint8_t octets[16];
    address place = {octets, 16};
    uint32_t family = 0, port = 0;
    WASI(local_v1(fd, &place, &family, &port), 0);
    return port;
}

/* A socket that is bound to a port of the kernel's choice. */
static inline int bound(int family, int type) {
    int fd = open_socket(family, type);
    WASI(sock_bind(fd, loopback(family), 0), 0);
    return fd;
}

/* Both ends of a connection. */
static inline void connected(int family, int *client, int *server) {
    int listener = bound(family, STREAM);
    WASI(sock_listen(listener, 8), 0);
    *client = open_socket(family, STREAM);
    WASI(sock_connect(*client, loopback(family), port_of(listener)), 0);
    WASI(accept_v1(listener, server), 0);
    WASI(__wasi_fd_close(listener), 0);
}

static inline void nonblocking(int fd) { WASI(__wasi_fd_fdstat_set_flags(fd, __WASI_FDFLAGS_NONBLOCK), 0); }

static inline void say(int fd, const char *text) {
    iovec part = {(void *)text, strlen(text)};
    uint32_t sent = 0;
    WASI(sock_send(fd, &part, 1, 0, &sent), 0);
    CHECK(sent == part.len);
}

/* Receives once, at most `room` bytes; says how many. */
static inline uint32_t hear(int fd, char *text, uint32_t room, int flags) {
    iovec part = {text, room};
    uint32_t got = -1;
    uint16_t out = -1;
    WASI(sock_recv(fd, &part, 1, flags, &got, &out), 0);
    CHECK(out == 0);
    return got;
}

static inline __wasi_subscription_t waits_for(uint64_t userdata, int tag, int fd) {
    __wasi_subscription_t it = {.userdata = userdata, .u.tag = tag};
    it.u.u.fd_read.file_descriptor = fd;
    return it;
}

static inline __wasi_subscription_t readable(uint64_t userdata, int fd) {
    return waits_for(userdata, __WASI_EVENTTYPE_FD_READ, fd);
}

static inline __wasi_subscription_t writable(uint64_t userdata, int fd) {
    return waits_for(userdata, __WASI_EVENTTYPE_FD_WRITE, fd);
}

static inline __wasi_subscription_t after(uint64_t userdata, uint64_t nanoseconds) {
    __wasi_subscription_t it = {.userdata = userdata, .u.tag = __WASI_EVENTTYPE_CLOCK};
    it.u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
    it.u.u.clock.timeout = nanoseconds;
    return it;
}

static inline uint64_t now(void) {
    __wasi_timestamp_t time;
    WASI(__wasi_clock_time_get(__WASI_CLOCKID_MONOTONIC, 1, &time), 0);
    return time;
}
