/* Arguments, environment, random numbers. If arguments are given they must be these: "b c", "", "ü=\n". */
#include "check.h"
#include <unistd.h>
#include <wasi/api.h>

/* Left out of newer headers, but part of preview1. */
__attribute__((import_module("wasi_snapshot_preview1"), import_name("proc_raise"))) int proc_raise(int);

extern char **environ;

int main(int argc, char **argv) {
    CHECK(argc >= 1 && argv[0][0] && !argv[argc]);
    if (argc > 1) {
        CHECK(argc == 4 && !strcmp(argv[1], "b c") && !strcmp(argv[2], "") && !strcmp(argv[3], "\xc3\xbc=\n"));
    }
    for (char **it = environ; it && *it; it++) CHECK(strncmp(*it, "_CORACLE", 8) && strchr(*it, '='));

    static unsigned char big[1 << 20];
    CHECK(getentropy(big, 256) == 0);
    WASI(__wasi_random_get(big, sizeof big), 0);
    unsigned counts[256] = {0};
    for (unsigned i = 0; i < sizeof big; i++) counts[big[i]]++;
    for (int i = 0; i < 256; i++) CHECK(counts[i] > 3500 && counts[i] < 4700);
    WASI(__wasi_random_get(big, 0), 0);
    WASI(proc_raise(0), 0);
    WASI(proc_raise(16), 0);
    WASI(proc_raise(77), __WASI_ERRNO_INVAL);
    WASI(__wasi_sock_shutdown(1, __WASI_SDFLAGS_WR), __WASI_ERRNO_NOTSOCK);
    WASI(__wasi_sock_shutdown(1, 0), __WASI_ERRNO_INVAL);
    return ok();
}
