/* The four clocks: they run, do not go back, and have a resolution. */
#include "check.h"
#include <sched.h>
#include <sys/time.h>
#include <time.h>
#include <wasi/api.h>

int main(void) {
    for (unsigned id = 0; id < 4; id++) {
        __wasi_timestamp_t resolution, first, last;
        WASI(__wasi_clock_res_get(id, &resolution), 0);
        CHECK(resolution > 0 && resolution <= 1000000000);
        WASI(__wasi_clock_time_get(id, 1, &first), 0);
        do {
            WASI(__wasi_clock_time_get(id, 1, &last), 0);
            CHECK(last >= first);
        } while (last == first);
    }
    __wasi_timestamp_t none;
    WASI(__wasi_clock_time_get(4, 1, &none), __WASI_ERRNO_INVAL);
    WASI(__wasi_clock_res_get(4, &none), __WASI_ERRNO_INVAL);
    CHECK(sched_yield() == 0);
    struct timeval day;
    CHECK(gettimeofday(&day, NULL) == 0 && day.tv_sec > 1700000000 && time(NULL) - day.tv_sec < 2);
    return ok();
}
