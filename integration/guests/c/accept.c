/* expect: run with LISTEN_FDS=1 and a listening stream socket as descriptor 3; a client sends a line, gets it back
 * in capitals and then the end of the stream, and closes.
 * Without LISTEN_FDS it only prints `ok`. Files can be opened in either case. */
#include "check.h"
#include <ctype.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wasi/api.h>

__attribute__((import_module("wasi_snapshot_preview1"), import_name("sock_accept"))) int sock_accept(int, int, int *);

int main(void) {
    struct stat it;
    CHECK(stat("/", &it) == 0 && S_ISDIR(it.st_mode));
    if (!getenv("LISTEN_FDS")) return ok();

    __wasi_fdstat_t stat_;
    WASI(__wasi_fd_fdstat_get(3, &stat_), 0);
    CHECK(stat_.fs_filetype == __WASI_FILETYPE_SOCKET_STREAM);
    __wasi_fdstat_t dir;
    WASI(__wasi_fd_fdstat_get(4, &dir), 0);
    CHECK(dir.fs_filetype == __WASI_FILETYPE_DIRECTORY);

    struct pollfd wait = {.fd = 3, .events = POLLIN};
    CHECK(poll(&wait, 1, 60000) == 1 && wait.revents == POLLIN);
    int fd = -1;
    WASI(sock_accept(3, __WASI_FDFLAGS_NONBLOCK, &fd), 0);
    CHECK(fd == 5);
    WASI(__wasi_fd_fdstat_get(fd, &stat_), 0);
    CHECK(stat_.fs_filetype == __WASI_FILETYPE_SOCKET_STREAM && stat_.fs_flags == __WASI_FDFLAGS_NONBLOCK);
    CHECK(fcntl(fd, F_SETFL, 0) == 0);

    char line[64], again[64];
    ssize_t length = recv(fd, line, sizeof line, MSG_PEEK);
    CHECK(length > 0 && recv(fd, again, length, MSG_WAITALL) == length && !memcmp(line, again, length));
    for (int i = 0; i < length; i++) line[i] = toupper(line[i]);
    CHECK(send(fd, line, length, 0) == length && shutdown(fd, SHUT_WR) == 0);
    CHECK(recv(fd, again, sizeof again, 0) == 0);
    FAILS(send(fd, line, length, 0), EPIPE);
    wait.fd = fd;
    CHECK(poll(&wait, 1, 60000) == 1 && wait.revents & POLLHUP);
    CHECK(close(fd) == 0);
    FAILS(lseek(3, 0, SEEK_SET), ESPIPE);
    return ok();
}
