/* What makes no sense, for every function and every argument: an error, and nothing else happens. */
#include "sockets.h"
#include <fcntl.h>
#include <unistd.h>

static char text[64];
static uint8_t octets[16] = {127, 0, 0, 1};
static storage storage_ = {.family = INET4, .data = {127, 0, 0, 1}};
static address any = {octets, 4}, wide = {&storage_, 128};
static iovec part = {text, sizeof text};
static uint32_t n, port, family;
static uint16_t flags;
static int number;

/* Every function on this descriptor, all other arguments being good; each must answer with one of these. */
static void all_on(int fd, int line, int error, int other) {
    uint32_t len = 4;
    int one = 1;
    int answers[] = {
        sock_bind(fd, &any, 0),
        bind_named(fd, &any, 0),
        sock_listen(fd, 1),
        listen_named(fd, 1),
        accept_v1(fd, &number),
        accept_v2(fd, 0, &number),
        accept_named(fd, 0, &number),
        sock_connect(fd, &any, 1),
        connect_named(fd, &wide, 1),
        sock_recv(fd, &part, 1, 0, &n, &flags),
        recv_named(fd, &part, 1, 0, &n, &flags),
        recv_from_v1(fd, &part, 1, &any, 0, &n, &flags),
        recv_from_v2(fd, &part, 1, &wide, 0, &port, &n, &flags),
        recv_from_named(fd, &part, 1, &wide, 0, &port, &n, &flags),
        sock_send(fd, &part, 1, 0, &n),
        send_named(fd, &part, 1, 0, &n),
        sock_send_to(fd, &part, 1, &any, 1, 0, &n),
        send_to_named(fd, &part, 1, &wide, 1, 0, &n),
        sock_shutdown(fd, BOTH),
        sock_getsockopt(fd, 0, TYPE, &one, &len),
        sock_setsockopt(fd, 0, REUSEADDR, &one, 4),
        local_v1(fd, &any, &family, &port),
        local_v2(fd, &wide, &port),
        local_named(fd, &wide, &port),
        peer_v1(fd, &any, &family, &port),
        peer_v2(fd, &wide, &port),
        peer_named(fd, &wide, &port),
    };
    for (unsigned i = 0; i < sizeof answers / sizeof *answers; i++) {
        if (answers[i] != error && answers[i] != other) {
            printf("line %d: function %u answers %d\n", line, i, answers[i]);
            exit(1);
        }
    }
}

static void descriptors(void) {
    int file = open("/file", O_RDWR | O_CREAT, 0644), dir = open("/", O_RDONLY | O_DIRECTORY);
    CHECK(file >= 0 && dir >= 0);
    all_on(9999, __LINE__, __WASI_ERRNO_BADF, __WASI_ERRNO_BADF);
    all_on(-1, __LINE__, __WASI_ERRNO_BADF, __WASI_ERRNO_BADF);
    all_on(INT32_MIN, __LINE__, __WASI_ERRNO_BADF, __WASI_ERRNO_BADF);
    all_on(file, __LINE__, __WASI_ERRNO_NOTSOCK, __WASI_ERRNO_NOTSOCK);
    /* A directory has not even the right to be read from. */
    all_on(dir, __LINE__, __WASI_ERRNO_NOTSOCK, __WASI_ERRNO_NOTCAPABLE);
    all_on(3, __LINE__, __WASI_ERRNO_NOTSOCK, __WASI_ERRNO_NOTCAPABLE);
    /* Closed, twice. */
    int socket = open_socket(INET4, STREAM);
    WASI(__wasi_fd_close(socket), 0);
    WASI(__wasi_fd_close(socket), __WASI_ERRNO_BADF);
    all_on(socket, __LINE__, __WASI_ERRNO_BADF, __WASI_ERRNO_BADF);
    /* The standard streams are what they are. */
    int answer = sock_listen(1, 1);
    CHECK(answer == __WASI_ERRNO_NOTSOCK);

    /* What is for files and directories is not for sockets. */
    socket = open_socket(INET4, STREAM);
    uint64_t offset;
    __wasi_filestat_t stat;
    WASI(__wasi_fd_filestat_get(socket, &stat), 0);
    CHECK(stat.filetype == __WASI_FILETYPE_SOCKET_STREAM);
    CHECK(__wasi_fd_seek(socket, 0, 0, &offset) != 0);
    CHECK(__wasi_fd_filestat_set_size(socket, 0) != 0);
    CHECK(__wasi_path_create_directory(socket, "x") != 0);
    WASI(__wasi_fd_prestat_get(socket, (void *)&stat), __WASI_ERRNO_BADF);
    /* Renumbered, it is the same socket. */
    WASI(__wasi_fd_renumber(socket, dir), 0);
    WASI(sock_bind(dir, &any, 0), 0);
    WASI(sock_bind(socket, &any, 0), __WASI_ERRNO_BADF);
    CHECK(unlink("/file") == 0);
}

static void numbers(void) {
    WASI(sock_open(UNSPEC, STREAM, &number), __WASI_ERRNO_INVAL);
    WASI(sock_open(4, STREAM, &number), __WASI_ERRNO_INVAL);
    WASI(sock_open(-1, STREAM, &number), __WASI_ERRNO_INVAL);
    WASI(sock_open(INET4, ANY, &number), __WASI_ERRNO_INVAL);
    WASI(sock_open(INET4, 3, &number), __WASI_ERRNO_INVAL);
    WASI(sock_open(INET4, -1, &number), __WASI_ERRNO_INVAL);
    int client, server;
    connected(INET4, &client, &server);
    WASI(sock_shutdown(client, 0), __WASI_ERRNO_INVAL);
    WASI(sock_shutdown(client, 4), __WASI_ERRNO_INVAL);
    WASI(sock_send(client, &part, 1, 1, &n), __WASI_ERRNO_INVAL);
    WASI(sock_send_to(client, &part, 1, &any, 1, 1, &n), __WASI_ERRNO_INVAL);
    WASI(sock_recv(client, &part, 1, 4, &n, &flags), __WASI_ERRNO_INVAL);
    WASI(recv_from_v1(client, &part, 1, &any, -1, &n, &flags), __WASI_ERRNO_INVAL);
    WASI(recv_from_v2(client, &part, 1, &wide, 4, &port, &n, &flags), __WASI_ERRNO_INVAL);
    int listener = bound(INET4, STREAM);
    WASI(sock_listen(listener, 1), 0);
    CHECK(accept_v2(listener, 0x100, &number) == __WASI_ERRNO_INVAL);
    WASI(sock_listen(client, 1), __WASI_ERRNO_INVAL);
    WASI(accept_v1(client, &number), __WASI_ERRNO_INVAL);
    WASI(sock_connect(open_socket(INET4, STREAM), &any, 65536), __WASI_ERRNO_INVAL);
    WASI(sock_bind(open_socket(INET4, STREAM), &any, -1), __WASI_ERRNO_INVAL);

    /* Places of other sizes than the three; the second version takes but one. Whoever only hears of a sender may have any. */
    say(server, "x");
    int socket = open_socket(INET4, DGRAM);
    uint32_t sizes[] = {0, 1, 3, 5, 15, 17, 127, 129};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        address odd = {&storage_, sizes[i]};
        WASI(sock_bind(socket, &odd, 0), __WASI_ERRNO_INVAL);
        WASI(sock_connect(socket, &odd, 1), __WASI_ERRNO_INVAL);
        WASI(sock_send_to(socket, &part, 1, &odd, 1, 0, &n), __WASI_ERRNO_INVAL);
        WASI(recv_from_v1(client, &part, 1, &odd, PEEK, &n, &flags), 0);
        WASI(local_v1(socket, &odd, &family, &port), __WASI_ERRNO_INVAL);
        WASI(peer_v1(client, &odd, &family, &port), __WASI_ERRNO_INVAL);
        WASI(local_v2(socket, &odd, &port), __WASI_ERRNO_INVAL);
        WASI(peer_v2(client, &odd, &port), __WASI_ERRNO_INVAL);
        WASI(recv_from_v2(client, &part, 1, &odd, 0, &port, &n, &flags), __WASI_ERRNO_INVAL);
    }
    WASI(local_v2(socket, &any, &port), __WASI_ERRNO_INVAL);
    WASI(recv_from_v2(client, &part, 1, &any, 0, &port, &n, &flags), __WASI_ERRNO_INVAL);
    /* A family that there is not. */
    for (int it = 4; it < 0x10000; it *= 3) {
        storage_.family = it;
        WASI(sock_bind(socket, &wide, 0), __WASI_ERRNO_AFNOSUPPORT);
    }
    storage_.family = INET4;
}

/* Every pointer of every function, past the memory and across its end. The descriptors are good ones, so that only the
 * pointer can be what is wrong; nothing may be waited for, or be gone afterwards. */
static void pointers(void) {
    int client, server, listener = bound(INET4, STREAM), socket = bound(INET4, DGRAM);
    connected(INET4, &client, &server);
    WASI(sock_listen(listener, 8), 0);
    WASI(sock_connect(open_socket(INET4, STREAM), &loopback4, port_of(listener)), 0);
    say(server, "kept");
    uintptr_t end = __builtin_wasm_memory_size(0) << 16;
    uintptr_t places[] = {end, end - 1, 0xfffffff0, 0xffffffff};
    int fault = __WASI_ERRNO_FAULT, one = 1;
    for (int i = 0; i < 4; i++) {
        void *bad = (void *)places[i];
        address to_bad = {bad, 4}, storage_at_bad = {bad, 128};
        iovec bad_part = {bad, 2}, long_part = {text, 0xffffffff};
        uint32_t len = 4, long_len = 0xffffffff;
        int answers[] = {
            sock_open(INET4, STREAM, bad),
            sock_bind(socket, bad, 0), sock_bind(socket, &to_bad, 0), sock_bind(socket, &storage_at_bad, 0),
            sock_connect(socket, bad, 1), sock_connect(socket, &to_bad, 1), sock_connect(socket, &storage_at_bad, 1),
            accept_v1(listener, bad), accept_v2(listener, 0, bad), accept_named(listener, 0, bad),
            sock_recv(client, bad, 1, 0, &n, &flags), sock_recv(client, &bad_part, 1, 0, &n, &flags),
            sock_recv(client, &long_part, 1, 0, &n, &flags),
            sock_recv(client, &part, 1, 0, bad, &flags), sock_recv(client, &part, 1, 0, &n, bad),
            recv_from_v1(client, bad, 1, &any, 0, &n, &flags), recv_from_v1(client, &bad_part, 1, &any, 0, &n, &flags),
            recv_from_v1(client, &part, 1, bad, 0, &n, &flags), recv_from_v1(client, &part, 1, &to_bad, 0, &n, &flags),
            recv_from_v1(client, &part, 1, &any, 0, bad, &flags), recv_from_v1(client, &part, 1, &any, 0, &n, bad),
            recv_from_v2(client, bad, 1, &wide, 0, &port, &n, &flags),
            recv_from_v2(client, &bad_part, 1, &wide, 0, &port, &n, &flags),
            recv_from_v2(client, &part, 1, bad, 0, &port, &n, &flags),
            recv_from_v2(client, &part, 1, &storage_at_bad, 0, &port, &n, &flags),
            recv_from_v2(client, &part, 1, &wide, 0, bad, &n, &flags),
            recv_from_v2(client, &part, 1, &wide, 0, &port, bad, &flags),
            recv_from_v2(client, &part, 1, &wide, 0, &port, &n, bad),
            __wasi_fd_read(client, (void *)&part, 1, bad), __wasi_fd_write(client, (void *)&part, 1, bad),
            sock_send(client, bad, 1, 0, &n), sock_send(client, &bad_part, 1, 0, &n), sock_send(client, &part, 1, 0, bad),
            sock_send_to(socket, bad, 1, &any, 1, 0, &n), sock_send_to(socket, &bad_part, 1, &any, 1, 0, &n),
            sock_send_to(socket, &part, 1, bad, 1, 0, &n), sock_send_to(socket, &part, 1, &to_bad, 1, 0, &n),
            sock_send_to(socket, &part, 1, &any, 1, 0, bad),
            sock_getsockopt(client, 0, TYPE, bad, &len), sock_getsockopt(client, 0, TYPE, &one, bad),
            sock_getsockopt(client, 0, TYPE, &one, &long_len),
            sock_setsockopt(client, 0, REUSEADDR, bad, 4), sock_setsockopt(client, 0, REUSEADDR, &one, 0xffffffff),
            local_v1(client, bad, &family, &port), local_v1(client, &to_bad, &family, &port),
            local_v1(client, &any, bad, &port), local_v1(client, &any, &family, bad),
            local_v2(client, bad, &port), local_v2(client, &storage_at_bad, &port), local_v2(client, &wide, bad),
            peer_v1(client, bad, &family, &port), peer_v1(client, &to_bad, &family, &port),
            peer_v1(client, &any, bad, &port), peer_v1(client, &any, &family, bad),
            peer_v2(client, bad, &port), peer_v2(client, &storage_at_bad, &port), peer_v2(client, &wide, bad),
        };
        for (unsigned at = 0; at < sizeof answers / sizeof *answers; at++) {
            if (answers[at] != fault) {
                printf("pointer %d, call %u: %d\n", i, at, answers[at]);
                exit(1);
            }
        }
    }
    /* Nothing was taken and nothing was sent. */
    nonblocking(client);
    CHECK(hear(client, text, sizeof text, 0) == 4 && !memcmp(text, "kept", 4));
    nonblocking(server);
    WASI(sock_recv(server, &part, 1, 0, &n, &flags), __WASI_ERRNO_AGAIN);
    nonblocking(listener);
    WASI(accept_v1(listener, &number), 0);

    /* Lists: too long for the memory, of nothing, overlapping. */
    WASI(sock_recv(client, &part, -1, 0, &n, &flags), __WASI_ERRNO_FAULT);
    WASI(sock_send(client, &part, 0, 0, &n), 0);
    CHECK(n == 0);
    iovec overlapping[2] = {{text, 2}, {text + 1, 2}};
    say(server, "abcd");
    WASI(sock_recv(client, overlapping, 2, 0, &n, &flags), 0);
    CHECK(n == 4 && !memcmp(text, "acd", 3));
}

/* A guest that only opens: the error of the kernel's limit, and all is well when some are closed. */
static void limits(void) {
    static int all[2000];
    int count = 0, answer;
    while ((answer = sock_open(INET4, DGRAM, &all[count])) == 0 && count < 1999) count++;
    CHECK(answer == __WASI_ERRNO_MFILE && count > 500);
    WASI(sock_open(INET4, STREAM, &number), __WASI_ERRNO_MFILE);
    WASI(__wasi_fd_close(all[7]), 0);
    WASI(sock_open(INET4, STREAM, &number), 0);
    CHECK(number == all[7]);
    for (int i = 0; i < count; i++) WASI(__wasi_fd_close(all[i]), 0);
}

/* The list that names are looked up for: wherever it leads, no further than the memory. */
static void lists(void) {
    static uint8_t data[2][26];
    static sockaddr addresses[2] = {{.data = data[0]}, {.data = data[1]}};
    static addrinfo records[2];
    addrinfo hints = {.family = INET4, .socktype = STREAM}, *list = records, *nowhere = NULL;
    uintptr_t end = __builtin_wasm_memory_size(0) << 16;
    uint32_t found = 9;
#define LOOK_UP(list, max) sock_getaddrinfo("127.0.0.1", 9, "80", 2, &hints, list, max, &found)
    records[0] = (addrinfo){.addr = &addresses[0], .next = &records[1]};
    records[1] = (addrinfo){.addr = &addresses[1]};
    WASI(LOOK_UP(&list, 2), 0);
    CHECK(found == 1 && data[0][1] == 80 && data[0][2] == 127 && addresses[1].family == 0);
    hints.socktype = ANY;
    WASI(LOOK_UP(&list, 2), 0);
    CHECK(found == 2 && records[0].socktype == STREAM && records[1].socktype == DGRAM);
    /* In a circle, to itself, to nothing, and with fewer records than are promised. */
    records[0].next = &records[0];
    WASI(LOOK_UP(&list, 1000), 0);
    CHECK(found == 2);
    records[0].next = NULL;
    WASI(LOOK_UP(&list, -1), 0);
    CHECK(found == 1);
    WASI(LOOK_UP(&nowhere, 2), 0);
    CHECK(found == 0);
    WASI(LOOK_UP(&list, 0), 82);

    uintptr_t places[] = {end, end - 1, 0xfffffff0, 0xffffffff};
    for (int i = 0; i < 4; i++) {
        void *bad = (void *)places[i];
        addrinfo *bad_list = bad;
        sockaddr bad_data = {.data = bad};
        WASI(sock_getaddrinfo(bad, 9, "80", 2, &hints, &list, 2, &found), __WASI_ERRNO_FAULT);
        WASI(sock_getaddrinfo("127.0.0.1", 0xffffffff, "80", 2, &hints, &list, 2, &found), __WASI_ERRNO_FAULT);
        WASI(sock_getaddrinfo("127.0.0.1", 9, bad, 2, &hints, &list, 2, &found), __WASI_ERRNO_FAULT);
        WASI(sock_getaddrinfo("127.0.0.1", 9, "80", 0xffffffff, &hints, &list, 2, &found), __WASI_ERRNO_FAULT);
        WASI(sock_getaddrinfo("127.0.0.1", 9, "80", 2, bad, &list, 2, &found), __WASI_ERRNO_FAULT);
        WASI(sock_getaddrinfo("127.0.0.1", 9, "80", 2, &hints, bad, 2, &found), __WASI_ERRNO_FAULT);
        WASI(sock_getaddrinfo("127.0.0.1", 9, "80", 2, &hints, &list, 2, bad), __WASI_ERRNO_FAULT);
        WASI(LOOK_UP(&bad_list, 2), __WASI_ERRNO_FAULT);
        records[0].addr = bad;
        WASI(LOOK_UP(&list, 2), __WASI_ERRNO_FAULT);
        records[0].addr = &bad_data;
        WASI(LOOK_UP(&list, 2), __WASI_ERRNO_FAULT);
        records[0].addr = &addresses[0];
        records[0].next = bad;
        WASI(LOOK_UP(&list, 2), __WASI_ERRNO_FAULT);
        records[0].next = NULL;
        hints.flags = 2;
        records[0].canonname = bad;
        records[0].canonname_len = 10;
        WASI(LOOK_UP(&list, 2), __WASI_ERRNO_FAULT);
        hints.flags = 0;
    }
    /* Hints that make no sense, in WasmEdge's numbers; names that are none. */
    hints.flags = 0x80;
    WASI(LOOK_UP(&list, 2), 79);
    hints = (addrinfo){.family = UNIX};
    WASI(LOOK_UP(&list, 2), 81);
    hints = (addrinfo){.family = INET6};
    WASI(LOOK_UP(&list, 2), 77);
    hints = (addrinfo){.socktype = 3};
    WASI(LOOK_UP(&list, 2), 86);
    hints = (addrinfo){.socktype = STREAM, .protocol = 2};
    WASI(LOOK_UP(&list, 2), 86);
    hints = (addrinfo){0};
    static char longest[70000];
    memset(longest, 'a', sizeof longest);
    WASI(sock_getaddrinfo(longest, sizeof longest, "80", 2, &hints, &list, 2, &found), 84);
    WASI(sock_getaddrinfo("a\0b", 3, "80", 2, &hints, &list, 2, &found), 84);
    WASI(sock_getaddrinfo("\xff", 1, "80", 2, &hints, &list, 2, &found), 84);
    WASI(sock_getaddrinfo("a", 1, longest, sizeof longest, &hints, &list, 2, &found), 85);
    WASI(sock_getaddrinfo("\0\0", 2, "\0", 1, &hints, &list, 2, &found), 84);
}

int main(void) {
    lists();
    descriptors();
    numbers();
    pointers();
    limits();
    return ok();
}
