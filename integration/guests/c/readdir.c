/* A directory of 3000 files: each is listed once, in whatever pieces it is read; positions can be returned to;
 * files removed meanwhile do no harm. */
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wasi/api.h>

enum { COUNT = 3000 };
static char seen[COUNT];

static int number(const char *name) {
    return strncmp(name, "a-file-of-some-length-", 22) ? -1 : atoi(name + 22);
}

/* Lists it with a buffer of this size, whose last entry may be cut. */
static int list(int fd, unsigned size) {
    char *buffer = malloc(size);
    __wasi_dircookie_t cookie = 0;
    int count = 0;
    memset(seen, 0, sizeof seen);
    for (;;) {
        __wasi_size_t used;
        WASI(__wasi_fd_readdir(fd, (unsigned char *)buffer, size, cookie, &used), 0);
        unsigned at = 0;
        while (at + sizeof(__wasi_dirent_t) <= used) {
            __wasi_dirent_t entry;
            memcpy(&entry, buffer + at, sizeof entry);
            if (at + sizeof entry + entry.d_namlen > used) break;
            char name[256] = {0};
            memcpy(name, buffer + at + sizeof entry, entry.d_namlen);
            int it = number(name);
            if (it >= 0) {
                CHECK(it < COUNT && !seen[it] && entry.d_type == __WASI_FILETYPE_REGULAR_FILE && entry.d_ino);
                seen[it] = 1;
                count++;
            } else {
                CHECK(!strcmp(name, ".") || !strcmp(name, ".."));
            }
            at += sizeof entry + entry.d_namlen;
            cookie = entry.d_next;
        }
        if (used < size) break;
        CHECK(at > 0);
    }
    free(buffer);
    return count;
}

int main(void) {
    char path[64];
    CHECK(mkdir("/readdir", 0777) == 0);
    for (int i = 0; i < COUNT; i++) {
        sprintf(path, "/readdir/a-file-of-some-length-%d", i);
        int fd = open(path, O_WRONLY | O_CREAT, 0666);
        CHECK(fd >= 3 && close(fd) == 0);
    }
    int fd = open("/readdir", O_RDONLY | O_DIRECTORY);
    CHECK(fd >= 3);
    CHECK(list(fd, 64) == COUNT);
    CHECK(list(fd, 100) == COUNT);
    CHECK(list(fd, 4096) == COUNT);
    CHECK(list(fd, 1 << 20) == COUNT);
    close(fd);

    DIR *dir = opendir("/readdir");
    CHECK(dir);
    struct dirent *entry;
    int count = 0;
    long middle = 0;
    char after[256] = "";
    while ((entry = readdir(dir))) {
        if (middle && !after[0]) strcpy(after, entry->d_name);
        if (++count == 1500) middle = telldir(dir);
    }
    CHECK(count == COUNT + 2 && middle && after[0]);
    seekdir(dir, middle);
    CHECK((entry = readdir(dir)) && !strcmp(entry->d_name, after));
    rewinddir(dir);
    for (count = 0; (entry = readdir(dir)); count++) {
        if (number(entry->d_name) >= 0) {
            sprintf(path, "/readdir/%s", entry->d_name);
            CHECK(unlink(path) == 0);
        }
    }
    CHECK(closedir(dir) == 0 && count == COUNT + 2);
    CHECK(rmdir("/readdir") == 0);
    CHECK(!opendir("/readdir") && errno == ENOENT);
    return ok();
}
