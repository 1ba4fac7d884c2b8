/* File times, set and read, through paths, links and descriptors. */
#include "check.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <wasi/api.h>

static struct stat of(const char *path) {
    struct stat it;
    CHECK(lstat(path, &it) == 0);
    return it;
}

int main(void) {
    struct timespec both[2] = {{.tv_sec = 1000000000, .tv_nsec = 123456789}, {.tv_sec = 1, .tv_nsec = 5}};
    int fd = open("/times", O_RDWR | O_CREAT | O_TRUNC, 0666);
    CHECK(fd >= 3 && futimens(fd, both) == 0);
    struct stat it = of("/times");
    CHECK(it.st_atim.tv_sec == 1000000000 && it.st_atim.tv_nsec == 123456789);
    CHECK(it.st_mtim.tv_sec == 1 && it.st_mtim.tv_nsec == 5);

    /* one left, one set to now; not both at once (by WASI's names: libc versions differ on UTIME_NOW) */
    WASI(__wasi_path_filestat_set_times(3, 1, "times", 0, 0, __WASI_FSTFLAGS_MTIM_NOW), 0);
    WASI(__wasi_fd_filestat_set_times(fd, 0, 0, __WASI_FSTFLAGS_MTIM_NOW | __WASI_FSTFLAGS_MTIM), __WASI_ERRNO_INVAL);
    WASI(__wasi_fd_filestat_set_times(fd, 0, 0, 0), 0);
    it = of("/times");
    CHECK(it.st_atim.tv_sec == 1000000000 && it.st_mtim.tv_sec > 1700000000 && it.st_ctim.tv_sec > 1700000000);

    CHECK(symlink("/times", "/times-link") == 0);
    struct timespec old[2] = {{.tv_sec = 10}, {.tv_sec = 20}}, older[2] = {{.tv_sec = 30}, {.tv_sec = 40}};
    CHECK(utimensat(AT_FDCWD, "/times-link", old, 0) == 0);
    CHECK(utimensat(AT_FDCWD, "/times-link", older, AT_SYMLINK_NOFOLLOW) == 0);
    CHECK(of("/times").st_mtim.tv_sec == 20 && of("/times-link").st_mtim.tv_sec == 40);
    CHECK(utimensat(AT_FDCWD, "/./times", older, 0) == 0 && of("/times").st_atim.tv_sec == 30);
    FAILS(utimensat(AT_FDCWD, "/times-none", old, 0), ENOENT);
    CHECK(close(fd) == 0 && unlink("/times-link") == 0 && unlink("/times") == 0);
    return ok();
}
