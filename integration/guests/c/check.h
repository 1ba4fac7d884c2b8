/* What every guest here needs: a guest checks itself, prints `ok` and exits with 0, or prints the line that failed and
 * exits with 1. A guest that must end otherwise says so in its first comment: `expect: exit N`. */
#pragma once
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            printf("%s:%d: %s (errno %d: %s)\n", __FILE__, __LINE__, #condition, errno, strerror(errno));    \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* A call that must fail with this error. */
#define FAILS(call, error)                                                                                   \
    do {                                                                                                     \
        errno = 0;                                                                                           \
        long result_ = (long)(call);                                                                         \
        if (result_ != -1 || errno != (error)) {                                                             \
            printf("%s:%d: %s = %ld (errno %d: %s, not %s)\n", __FILE__, __LINE__, #call, result_, errno,    \
                   strerror(errno), #error);                                                                 \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* A function of WASI's own that must answer with this error (0: success). */
#define WASI(call, error)                                                                                    \
    do {                                                                                                     \
        int answer_ = (call);                                                                                \
        if (answer_ != (error)) {                                                                            \
            printf("%s:%d: %s = %d, not %s\n", __FILE__, __LINE__, #call, answer_, #error);                  \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static inline int ok(void) {
    puts("ok");
    return 0;
}
