/* expect: standard input is an empty pipe; after a first line `next` one byte is written into it, after a
 * second it is closed.
 * Waiting for a pipe: not ready, ready, still ready while nothing is read, closed. */
#include "check.h"
#include <fcntl.h>
#include <unistd.h>
#include <wasi/api.h>

static __wasi_event_t event;

/* Waits for standard input, or this many milliseconds; says whether for the former. */
static int readable(unsigned long long ms) {
    __wasi_subscription_t list[2] = {{.userdata = 1}, {.userdata = 2}};
    list[0].u.tag = __WASI_EVENTTYPE_FD_READ;
    list[1].u.tag = __WASI_EVENTTYPE_CLOCK;
    list[1].u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
    list[1].u.u.clock.timeout = ms * 1000000;
    __wasi_event_t events[2];
    __wasi_size_t count;
    WASI(__wasi_poll_oneoff(list, events, 2, &count), 0);
    CHECK(count >= 1);
    event = events[0];
    CHECK(!event.error);
    return event.userdata == 1;
}

int main(void) {
    char byte;
    CHECK(fcntl(0, F_SETFL, O_NONBLOCK) == 0 && fcntl(0, F_GETFL) & O_NONBLOCK);
    CHECK(!readable(0));
    FAILS(read(0, &byte, 1), EAGAIN);
    CHECK(puts("next") >= 0 && fflush(stdout) == 0);
    CHECK(readable(60000) && event.fd_readwrite.nbytes == 1);
    CHECK(readable(60000) && event.fd_readwrite.nbytes == 1);
    CHECK(read(0, &byte, 1) == 1);
    CHECK(puts("next") >= 0 && fflush(stdout) == 0);
    CHECK(readable(60000) && event.fd_readwrite.flags == __WASI_EVENTRWFLAGS_FD_READWRITE_HANGUP);
    CHECK(event.fd_readwrite.nbytes == 0 && read(0, &byte, 1) == 0);
    CHECK(fcntl(0, F_SETFL, 0) == 0);
    FAILS(lseek(0, 0, SEEK_CUR), ESPIPE);
    return ok();
}
