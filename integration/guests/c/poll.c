/* poll_oneoff: zero, relative, absolute and several timeouts, on both clocks; descriptors and clocks mixed; regular
 * files; bad descriptors; level-triggered. Standard input is expected to be at its end or /dev/null. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>
#include <wasi/api.h>

#define MS 1000000ull

static __wasi_timestamp_t now(__wasi_clockid_t clock) {
    __wasi_timestamp_t time;
    WASI(__wasi_clock_time_get(clock, 1, &time), 0);
    return time;
}

static __wasi_subscription_t timer(unsigned long long id, __wasi_clockid_t clock, unsigned long long time, int abs) {
    __wasi_subscription_t it = {.userdata = id};
    it.u.tag = __WASI_EVENTTYPE_CLOCK;
    it.u.u.clock.id = clock;
    it.u.u.clock.timeout = time;
    it.u.u.clock.flags = abs ? __WASI_SUBCLOCKFLAGS_SUBSCRIPTION_CLOCK_ABSTIME : 0;
    return it;
}

static __wasi_subscription_t file(unsigned long long id, int tag, int fd) {
    __wasi_subscription_t it = {.userdata = id};
    it.u.tag = tag;
    it.u.u.fd_read.file_descriptor = fd;
    return it;
}

static __wasi_size_t count;
static __wasi_event_t events[8];

/* Waits, and says for how many milliseconds. */
static unsigned waited(const __wasi_subscription_t *list, unsigned len) {
    __wasi_timestamp_t start = now(__WASI_CLOCKID_MONOTONIC);
    WASI(__wasi_poll_oneoff(list, events, len, &count), 0);
    return (now(__WASI_CLOCKID_MONOTONIC) - start) / MS;
}

static void one_clock(__wasi_clockid_t clock) {
    __wasi_subscription_t list[3];
    list[0] = timer(7, clock, 0, 0);
    CHECK(waited(list, 1) < 1000 && count == 1 && events[0].userdata == 7);
    CHECK(events[0].type == __WASI_EVENTTYPE_CLOCK && events[0].error == 0);
    list[0] = timer(8, clock, 50 * MS, 0);
    unsigned time = waited(list, 1);
    CHECK(time >= 50 && time < 1050 && count == 1 && events[0].userdata == 8);
    list[0] = timer(9, clock, now(clock) + 50 * MS, 1);
    time = waited(list, 1);
    CHECK(time >= 49 && time < 1050 && count == 1 && events[0].userdata == 9);
    list[0] = timer(10, clock, now(clock) - 50 * MS, 1);
    CHECK(waited(list, 1) < 1000 && count == 1);
    list[0] = timer(11, clock, 1, 1);
    CHECK(waited(list, 1) < 1000 && count == 1);
    /* the first of several, and only that */
    list[0] = timer(12, clock, 3600000 * MS, 0);
    list[1] = timer(13, clock, 30 * MS, 0);
    list[2] = timer(14, clock, ~0ull, 1);
    time = waited(list, 3);
    CHECK(time >= 30 && time < 1030 && count == 1 && events[0].userdata == 13);
    list[0] = timer(15, clock, 0, 0);
    list[1] = timer(16, clock, 1, 1);
    waited(list, 2);
    CHECK(count == 2 && events[0].userdata == 15 && events[1].userdata == 16);
}

int main(void) {
    __wasi_subscription_t list[4];
    one_clock(__WASI_CLOCKID_MONOTONIC);
    one_clock(__WASI_CLOCKID_REALTIME);
    /* both clocks, each measured by itself: an absolute real time is far beyond the monotonic one */
    list[0] = timer(1, __WASI_CLOCKID_REALTIME, now(__WASI_CLOCKID_REALTIME) + 40 * MS, 1);
    list[1] = timer(2, __WASI_CLOCKID_MONOTONIC, now(__WASI_CLOCKID_MONOTONIC) + 3600000 * MS, 1);
    unsigned time = waited(list, 2);
    CHECK(time >= 39 && time < 1040 && count == 1 && events[0].userdata == 1);

    WASI(__wasi_poll_oneoff(list, events, 0, &count), __WASI_ERRNO_INVAL);
    list[0] = timer(3, 99, 0, 0);
    waited(list, 1);
    CHECK(count == 1 && events[0].error == __WASI_ERRNO_INVAL && events[0].userdata == 3);

    int fd = open("/poll", O_RDWR | O_CREAT | O_TRUNC, 0666);
    CHECK(fd >= 3 && write(fd, "12345", 5) == 5 && lseek(fd, 1, SEEK_SET) == 1);
    list[0] = file(20, __WASI_EVENTTYPE_FD_READ, fd);
    list[1] = file(21, __WASI_EVENTTYPE_FD_WRITE, fd);
    list[2] = timer(22, __WASI_CLOCKID_MONOTONIC, 3600000 * MS, 0);
    for (int i = 0; i < 2; i++) {
        CHECK(waited(list, 3) < 1000 && count == 2);
        CHECK(events[0].userdata == 20 && events[0].type == __WASI_EVENTTYPE_FD_READ && !events[0].error);
        CHECK(events[0].fd_readwrite.nbytes == 4 && !events[0].fd_readwrite.flags);
        CHECK(events[1].userdata == 21 && events[1].type == __WASI_EVENTTYPE_FD_WRITE && !events[1].error);
    }
    list[1] = file(23, __WASI_EVENTTYPE_FD_READ, 77);
    waited(list, 3);
    CHECK(count == 2 && events[0].userdata == 23 && events[0].error == __WASI_ERRNO_BADF);
    CHECK(events[1].userdata == 20);
    CHECK(close(fd) == 0 && unlink("/poll") == 0);

    /* what a library makes of it */
    struct pollfd set[2] = {{.fd = 0, .events = POLLIN}, {.fd = 1, .events = POLLOUT}};
    CHECK(poll(set, 2, 10000) >= 1 && set[1].revents & POLLOUT);
    CHECK(poll(set, 1, 0) >= 0);
    struct timespec pause = {.tv_nsec = 20 * MS};
    __wasi_timestamp_t start = now(__WASI_CLOCKID_MONOTONIC);
    CHECK(nanosleep(&pause, NULL) == 0 && usleep(1000) == 0);
    CHECK(now(__WASI_CLOCKID_MONOTONIC) - start >= 21 * MS);
    return ok();
}
