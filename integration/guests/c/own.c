/* Where a guest's own things are that the kernel has elsewhere. What it must not reach is tried in hostile/. */
#include "check.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wasi/api.h>

int main(void) {
    __wasi_fd_t opened;
    WASI(__wasi_path_open(3, 1, "/etc", 0, __WASI_RIGHTS_FD_READ, 0, 0, &opened), __WASI_ERRNO_NOTCAPABLE);
    WASI(__wasi_path_open(3, 1, "", 0, __WASI_RIGHTS_FD_READ, 0, 0, &opened), __WASI_ERRNO_NOENT);
    struct stat it;
    if (stat("/proc/self/status", &it)) return ok();

    /* these mean the guest's own, not what the runner has open */
    if (lstat("/dev/stdout", &it) == 0) {
        FILE *out = fopen("/dev/stdout", "w");
        CHECK(out && fputs("", out) >= 0 && fclose(out) == 0);
        int fd = open("/dev/fd/1", O_WRONLY);
        CHECK(fd >= 3 && close(fd) == 0);
        struct stat own;
        CHECK(stat("/dev/stdout", &it) == 0 && fstat(1, &own) == 0 && it.st_ino == own.st_ino);
        CHECK(lstat("/dev/stdout", &it) == 0 && S_ISLNK(it.st_mode));
        FAILS(open("/dev/fd/77", O_RDONLY), ENOENT);
        FAILS(stat("/dev/fd/77", &it), ENOENT);
    }
    /* the rest of /proc is a guest's like anybody's */
    FILE *status = fopen("/proc/self/status", "r");
    char line[128];
    CHECK(status && fgets(line, sizeof line, status) && fclose(status) == 0);
    return ok();
}
