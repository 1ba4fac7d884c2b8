/* Has directories from outside of the container: standard input, and a descriptor that was passed. Beneath them it reaches
 * what is there; by no name of theirs anything above. */
#include "../check.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void is_closed_upwards(int fd) {
    struct stat it;
    CHECK(fd >= 0);
    FAILS(openat(fd, "..", O_RDONLY | O_DIRECTORY), ENOTCAPABLE);
    FAILS(openat(fd, "../secret", O_RDONLY), ENOTCAPABLE);
    FAILS(openat(fd, "link", O_RDONLY), ENOTCAPABLE);
    FAILS(openat(fd, "absolute", O_RDONLY), ENOTCAPABLE);
    FAILS(fstatat(fd, "../secret", &it, 0), ENOTCAPABLE);
    FAILS(mkdirat(fd, "../made", 0755), ENOTCAPABLE);
    FAILS(unlinkat(fd, "../secret", 0), ENOTCAPABLE);
    FAILS(openat(fd, "../made", O_CREAT | O_WRONLY, 0666), ENOTCAPABLE);
    int file = openat(fd, "file", O_RDONLY);
    CHECK(file >= 3 && close(file) == 0);
}

int main(int argc, char **argv) {
    char path[32];
    for (int i = 1; i < argc; i++) {
        is_closed_upwards(atoi(argv[i]));
        sprintf(path, "/dev/fd/%s", argv[i]);
        int fd = open(path, O_RDONLY | O_DIRECTORY);
        is_closed_upwards(fd);
        /* and a copy of the copy */
        sprintf(path, "/dev/fd/%d", fd);
        is_closed_upwards(open(path, O_RDONLY));
        struct stat it, own;
        CHECK(stat(path, &it) == 0 && fstat(fd, &own) == 0 && it.st_ino == own.st_ino);
    }
    is_closed_upwards(open("/dev/stdin", O_RDONLY | O_DIRECTORY));
    return ok();
}
