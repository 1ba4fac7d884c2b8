/* What a guest must not reach, where there is a /proc: the memory, the descriptors and the program of the process
 * that it runs in, whatever way leads there. */
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wasi/api.h>

static void closed(const char *path) {
    for (int mode = 0; mode < 2; mode++) {
        int fd = open(path, mode ? O_RDWR : O_RDONLY);
        if (fd >= 0) {
            printf("%s can be opened\n", path);
            exit(1);
        }
    }
}

int main(void) {
    __wasi_fd_t opened;
    WASI(__wasi_path_open(3, 1, "/etc", 0, __WASI_RIGHTS_FD_READ, 0, 0, &opened), __WASI_ERRNO_NOTCAPABLE);
    WASI(__wasi_path_open(3, 1, "", 0, __WASI_RIGHTS_FD_READ, 0, 0, &opened), __WASI_ERRNO_NOENT);
    struct stat it;
    if (stat("/proc/self/status", &it)) return ok();

    const char *names[] = {"self", "thread-self", "1"};
    char path[128];
    for (int i = 0; i < 3; i++) {
        const char *files[] = {"mem", "exe", "root/etc", "cwd/etc", "fd/0", "fd/1", "fd/3", "fd/4", "ns/mnt"};
        for (unsigned j = 0; j < sizeof files / sizeof *files; j++) {
            sprintf(path, "/proc/%s/%s", names[i], files[j]);
            closed(path);
        }
    }
    CHECK(symlink("/proc/self", "/confine-self") == 0);
    CHECK(symlink("/confine-self/mem", "/confine-mem") == 0);
    CHECK(symlink("/proc/self/fd/1", "/confine-out") == 0);
    closed("/confine-self/mem");
    closed("/confine-mem");
    closed("/confine-out");
    int dir = open("/proc/self", O_RDONLY | O_DIRECTORY);
    CHECK(dir >= 3 && openat(dir, "mem", O_RDWR) < 0 && openat(dir, "./mem", O_RDWR) < 0);
    CHECK(openat(dir, "task/../mem", O_RDWR) < 0 && openat(dir, "exe", O_RDONLY) < 0);
    close(dir);
    DIR *maps = opendir("/proc/self/map_files");
    for (struct dirent *entry; maps && (entry = readdir(maps));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/self/map_files/%s", entry->d_name);
        closed(path);
    }
    unlink("/confine-self");
    unlink("/confine-mem");
    unlink("/confine-out");
    /* but these mean the guest's own */
    if (lstat("/dev/stdout", &it) == 0) {
        FILE *out = fopen("/dev/stdout", "w");
        CHECK(out && fputs("", out) >= 0 && fclose(out) == 0);
        int fd = open("/dev/fd/1", O_WRONLY);
        CHECK(fd >= 3 && close(fd) == 0);
        FAILS(open("/dev/fd/77", O_RDONLY), ENOENT);
    }
    /* the rest of /proc is a guest's like anybody's */
    FILE *status = fopen("/proc/self/status", "r");
    char line[128];
    CHECK(status && fgets(line, sizeof line, status) && fclose(status) == 0);
    return ok();
}
