/* The fifteen options: there and back, what cannot be set, and what makes no sense. */
#include "sockets.h"

typedef struct { int64_t seconds, microseconds; } timeval;
typedef struct { int on, seconds; } linger;

static int get(int fd, int name) {
    int value = -1;
    uint32_t len = sizeof value;
    WASI(sock_getsockopt(fd, 0, name, &value, &len), 0);
    CHECK(len == sizeof value);
    return value;
}

static int set(int fd, int name, int value) { return sock_setsockopt(fd, 0, name, &value, sizeof value); }

static void flags(int fd) {
    int names[] = {REUSEADDR, DONTROUTE, BROADCAST, KEEPALIVE, OOBINLINE};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        for (int turn = 0; turn < 2; turn++) {
            CHECK(get(fd, names[i]) == 0);
            WASI(set(fd, names[i], 1), 0);
            CHECK(get(fd, names[i]) == 1);
            WASI(set(fd, names[i], 0), 0);
        }
    }
}

static void sizes(int fd) {
    int names[] = {SNDBUF, RCVBUF};
    for (int i = 0; i < 2; i++) {
        WASI(set(fd, names[i], 20000), 0);
        /* Linux doubles it, for its own needs (socket(7)). */
        CHECK(get(fd, names[i]) == 40000);
    }
    CHECK(get(fd, RCVLOWAT) == 1);
    WASI(set(fd, RCVLOWAT, 5), 0);
    CHECK(get(fd, RCVLOWAT) == 5);
}

static void times(int fd) {
    int names[] = {RCVTIMEO, SNDTIMEO};
    for (int i = 0; i < 2; i++) {
        timeval time = {9, 9};
        uint32_t len = sizeof time;
        WASI(sock_getsockopt(fd, 0, names[i], &time, &len), 0);
        CHECK(len == 16 && time.seconds == 0 && time.microseconds == 0);
        time = (timeval){3, 500000};
        WASI(sock_setsockopt(fd, 0, names[i], &time, sizeof time), 0);
        time = (timeval){0, 0};
        WASI(sock_getsockopt(fd, 0, names[i], &time, &len), 0);
        CHECK(len == 16 && time.seconds == 3 && time.microseconds == 500000);
        time = (timeval){0, 1000000};
        WASI(sock_setsockopt(fd, 0, names[i], &time, sizeof time), __WASI_ERRNO_DOM);
        WASI(sock_setsockopt(fd, 0, names[i], &time, 8), __WASI_ERRNO_INVAL);
    }
    linger value = {0, 0};
    uint32_t len = sizeof value;
    value = (linger){1, 7};
    WASI(sock_setsockopt(fd, 0, LINGER, &value, sizeof value), 0);
    value = (linger){0, 0};
    WASI(sock_getsockopt(fd, 0, LINGER, &value, &len), 0);
    CHECK(len == 8 && value.on == 1 && value.seconds == 7);
    value.on = 0;
    WASI(sock_setsockopt(fd, 0, LINGER, &value, sizeof value), 0);
}

/* A time to receive or to send in is kept. */
static void time_outs(void) {
    int client, server;
    connected(INET4, &client, &server);
    timeval time = {0, 50000};
    WASI(sock_setsockopt(server, 0, RCVTIMEO, &time, sizeof time), 0);
    char text[8];
    iovec part = {text, sizeof text};
    uint32_t n;
    uint16_t out;
    uint64_t start = now();
    WASI(sock_recv(server, &part, 1, 0, &n, &out), __WASI_ERRNO_AGAIN);
    CHECK(now() - start >= 49000000);
    static char much[1 << 20];
    iovec large = {much, sizeof much};
    WASI(sock_setsockopt(client, 0, SNDTIMEO, &time, sizeof time), 0);
    int answer;
    for (int i = 0; i < 100 && !(answer = sock_send(client, &large, 1, 0, &n)); i++) {}
    CHECK(answer == __WASI_ERRNO_AGAIN);
}

int main(void) {
    for (int type = DGRAM; type <= STREAM; type++) {
        for (int family = INET4; family <= UNIX; family++) {
            int fd = open_socket(family, type);
            flags(fd);
            CHECK(get(fd, TYPE) == type);
            CHECK(get(fd, ERROR) == 0);
            CHECK(get(fd, ACCEPTCONN) == 0);
            if (family != UNIX) sizes(fd);
            times(fd);
            WASI(set(fd, TYPE, STREAM), __WASI_ERRNO_NOPROTOOPT);
            WASI(set(fd, ERROR, 1), __WASI_ERRNO_NOPROTOOPT);
            WASI(set(fd, ACCEPTCONN, 1), __WASI_ERRNO_NOPROTOOPT);
            WASI(__wasi_fd_close(fd), 0);
        }
    }
    time_outs();

    int fd = bound(INET4, STREAM);
    WASI(sock_listen(fd, 1), 0);
    CHECK(get(fd, ACCEPTCONN) == 1);

    /* A device by its name, with or without a NUL, and none again. */
    char device[16] = "x";
    uint32_t len = sizeof device;
    int udp = open_socket(INET4, DGRAM);
    WASI(sock_getsockopt(udp, 0, BINDTODEVICE, device, &len), 0);
    CHECK(len == 0);
    WASI(sock_setsockopt(udp, 0, BINDTODEVICE, "nosuch", 6), __WASI_ERRNO_NODEV);
    WASI(sock_setsockopt(udp, 0, BINDTODEVICE, "lo", 2), 0);
    len = sizeof device;
    WASI(sock_getsockopt(udp, 0, BINDTODEVICE, device, &len), 0);
    CHECK(len == 3 && !strcmp(device, "lo"));

    /* Less room than the value has, more, and none. */
    int value = -1;
    len = 2;
    WASI(sock_getsockopt(fd, 0, ACCEPTCONN, &value, &len), 0);
    CHECK(len == 2 && value == (int)0xffff0001);
    char many[64];
    memset(many, 'x', sizeof many);
    len = sizeof many;
    WASI(sock_getsockopt(fd, 0, TYPE, many, &len), 0);
    CHECK(len == 4 && many[0] == STREAM && many[4] == 'x');
    len = 0;
    WASI(sock_getsockopt(fd, 0, TYPE, many, &len), 0);
    CHECK(len == 0);
    WASI(sock_setsockopt(fd, 0, REUSEADDR, &value, 3), __WASI_ERRNO_INVAL);

    /* Levels and names that there are not. */
    len = 4;
    WASI(sock_getsockopt(fd, 1, TYPE, &value, &len), __WASI_ERRNO_INVAL);
    WASI(sock_getsockopt(fd, -1, TYPE, &value, &len), __WASI_ERRNO_INVAL);
    WASI(sock_getsockopt(fd, 0, 15, &value, &len), __WASI_ERRNO_INVAL);
    WASI(sock_getsockopt(fd, 0, -1, &value, &len), __WASI_ERRNO_INVAL);
    WASI(sock_setsockopt(fd, 6, 1, &value, 4), __WASI_ERRNO_INVAL);
    WASI(sock_setsockopt(fd, 0, 15, &value, 4), __WASI_ERRNO_INVAL);
    return ok();
}
