/* Sockets of the file system: `/run` is preopened as /, `/shut` is there and not preopened; there is a link that leads to it. */
#include "sockets.h"
#include <sys/stat.h>
#include <unistd.h>

static storage place;
static address at = {&place, sizeof place};

static address *path(const char *text) {
    memset(&place, 0, sizeof place);
    place.family = UNIX;
    CHECK(strlen(text) <= sizeof place.data);
    memcpy(place.data, text, strlen(text));
    return &at;
}

int main(void) {
    int listener = open_socket(UNIX, STREAM), client, server, any;
    uint32_t n, port = 9;
    char text[16];
    iovec in = {text, sizeof text}, out = {"data", 4};
    uint16_t flags;

    /* A socket by its path, absolute or not. */
    WASI(sock_bind(listener, path("/server"), 0), 0);
    struct stat stat_;
    CHECK(stat("/server", &stat_) == 0);
    WASI(sock_listen(listener, 4), 0);
    client = open_socket(UNIX, STREAM);
    WASI(sock_connect(client, path("server"), 0), 0);
    WASI(accept_v1(listener, &server), 0);
    say(client, "hello");
    CHECK(hear(server, text, sizeof text, 0) == 5);
    WASI(local_v2(listener, &at, &port), 0);
    CHECK(place.family == UNIX && port == 0);
    WASI(peer_v2(server, &at, &port), 0);
    CHECK(place.family == UNIX && place.data[0] == 0);
    /* There is no number for it in the first version. */
    WASI(local_v1(listener, &at, &n, &port), __WASI_ERRNO_AFNOSUPPORT);

    any = open_socket(UNIX, STREAM);
    WASI(sock_bind(any, path("/server"), 0), __WASI_ERRNO_ADDRINUSE);
    WASI(sock_bind(any, path("/nosuch/server"), 0), __WASI_ERRNO_NOENT);
    WASI(sock_connect(any, path("/nosuch"), 0), __WASI_ERRNO_NOENT);
    WASI(sock_connect(any, path("/file"), 0), __WASI_ERRNO_CONNREFUSED);

    /* No further than the directories that the guest has. */
    WASI(sock_connect(any, path("/../shut/server"), 0), __WASI_ERRNO_NOTCAPABLE);
    WASI(sock_connect(any, path("/link/server"), 0), __WASI_ERRNO_NOTCAPABLE);
    WASI(sock_bind(any, path("/link/new"), 0), __WASI_ERRNO_NOTCAPABLE);
    WASI(sock_bind(any, path("../shut/new"), 0), __WASI_ERRNO_NOTCAPABLE);
    /* Nor by names that are none of the file system. */
    CHECK(sock_bind(any, path(""), 0) != 0);
    place.data[1] = 'x';
    CHECK(sock_bind(any, &at, 0) != 0);
    CHECK(sock_connect(any, &at, 0) != 0);

    /* The longest path: 108 bytes, with no NUL behind it; what follows is none of it. */
    memset(place.data, 'a', sizeof place.data);
    WASI(sock_bind(any, &at, 0), 0);
    char longest[110] = "/";
    memset(longest + 1, 'a', 108);
    CHECK(stat(longest, &stat_) == 0);
    address four = {&place, 4};
    WASI(sock_connect(any, &four, 80), __WASI_ERRNO_INVAL);

    /* Datagrams. */
    int one = open_socket(UNIX, DGRAM), two = open_socket(UNIX, DGRAM);
    WASI(sock_bind(one, path("/one"), 0), 0);
    WASI(sock_bind(two, path("/two"), 0), 0);
    WASI(sock_send_to(one, &out, 1, path("/two"), 0, 0, &n), 0);
    WASI(recv_from_v2(two, &in, 1, &at, 0, &port, &n, &flags), 0);
    CHECK(n == 4 && place.family == UNIX);
    WASI(sock_send_to(one, &out, 1, path("/../shut/server"), 0, 0, &n), __WASI_ERRNO_NOTCAPABLE);

    /* The name goes, the socket stays. */
    CHECK(unlink("/server") == 0);
    WASI(sock_connect(any, path("/server"), 0), __WASI_ERRNO_NOENT);
    say(server, "still");
    CHECK(hear(client, text, sizeof text, 0) == 5);
    return ok();
}
