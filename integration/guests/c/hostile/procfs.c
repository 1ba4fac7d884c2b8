/* Tries everything that a guest must not be able to do on every entry of every procfs that its arguments name, after that of
 * a directory to work in: to follow a magic link, to open anything for writing, to read what is its owner's alone. Nothing
 * is ever written, so that no harm is done where an attempt succeeds. The last line but one counts the attempts. */
#include "../check.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char mine[256], stolen[256];
static int failures, links, writes, secrets, directories;

static void refused(int succeeded, const char *what, const char *path) {
    if (succeeded && ++failures <= 20) printf("%s succeeds on %s\n", what, path);
}

static int opens(const char *path, int flags) {
    int fd = open(path, flags, 0666);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

static void is_closed_to_change(const char *path) {
    refused(!utimensat(AT_FDCWD, path, NULL, AT_SYMLINK_NOFOLLOW), "utimensat", path);
    refused(!rename(path, stolen), "rename", path);
    refused(!rename(mine, path), "rename over", path);
    refused(!unlink(path), "unlink", path);
    refused(!link(path, stolen), "link", path);
    refused(!link(mine, path), "link over", path);
}

static void magic(const char *path) {
    char below[1200];
    struct stat it;
    links++;
    refused(opens(path, O_RDONLY), "open", path);
    refused(opens(path, O_RDWR), "open for writing", path);
    refused(opens(path, O_RDONLY | O_DIRECTORY), "open as a directory", path);
    refused(!stat(path, &it), "stat", path);
    refused(!utimensat(AT_FDCWD, path, NULL, 0), "utimensat of what is behind", path);
    refused(!linkat(AT_FDCWD, path, AT_FDCWD, stolen, AT_SYMLINK_FOLLOW), "link of what is behind", path);
    for (int i = 0; i < 3; i++) {
        snprintf(below, sizeof below, "%s/%s", path, (const char *[]){".", "..", "etc"}[i]);
        refused(opens(below, O_RDONLY), "open", below);
        refused(!stat(below, &it), "stat", below);
        refused(!lstat(below, &it), "lstat", below);
    }
    snprintf(below, sizeof below, "%s/made", path);
    refused(!mkdir(below, 0755), "mkdir", below);
    refused(opens(below, O_CREAT | O_WRONLY), "creation", below);
    refused(!symlink("x", below), "symlink", below);
}

/* What its owner alone may read, as far as it is in every kernel. WASI does not tell modes. */
static int is_secret(const char *path) {
    const char *names[] = {"mem", "environ", "auxv", "pagemap", "stack", "syscall"}, *name = strrchr(path, '/') + 1;
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return 1;
    return 0;
}

static void file(const char *path) {
    writes++;
    refused(opens(path, O_WRONLY), "open for writing", path);
    refused(opens(path, O_RDWR), "open for both", path);
    refused(opens(path, O_WRONLY | O_APPEND), "open to append", path);
    refused(opens(path, O_RDWR | O_CREAT), "creation", path);
    if (is_secret(path)) {
        secrets++;
        refused(opens(path, O_RDONLY), "open", path);
        return;
    }
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0) return;
    refused(!ftruncate(fd, 0), "ftruncate", path);
    refused(!futimens(fd, NULL), "futimens", path);
    refused(write(fd, "", 0) >= 0, "write", path);
    close(fd);
}

static void directory(const char *path, dev_t device, int depth) {
    char below[1024];
    directories++;
    snprintf(below, sizeof below, "%s/made", path);
    refused(!mkdir(below, 0755), "mkdir", below);
    refused(opens(below, O_CREAT | O_WRONLY), "creation", below);
    refused(!symlink("x", below), "symlink", below);
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    if (!list) return;
    refused(!futimens(fd, NULL), "futimens", path);
    for (struct dirent *entry; (entry = readdir(list));) {
        struct stat it;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        /* Other file systems are mounted below, and processes end. */
        if (lstat(below, &it) || it.st_dev != device) continue;
        is_closed_to_change(below);
        if (S_ISLNK(it.st_mode)) {
            char target[512];
            ssize_t length = readlink(below, target, sizeof target - 1);
            if (length < 0) continue;
            target[length] = 0;
            /* A few ordinary links lead to sysfs. */
            if ((target[0] == '/' && strncmp(target, "/sys/", 5)) || strchr(target, ':')) magic(below);
        } else if (S_ISDIR(it.st_mode) && depth < 7) {
            directory(below, device, depth + 1);
        } else if (S_ISREG(it.st_mode)) {
            file(below);
        }
    }
    closedir(list);
}

int main(int argc, char **argv) {
    CHECK(argc > 1);
    snprintf(mine, sizeof mine, "%s/mine", argv[1]);
    snprintf(stolen, sizeof stolen, "%s/stolen", argv[1]);
    int fd = open(mine, O_CREAT | O_WRONLY, 0666);
    CHECK(fd >= 0 && close(fd) == 0);
    /* Elsewhere these calls work. */
    CHECK(utimensat(AT_FDCWD, mine, NULL, 0) == 0 && !link(mine, stolen) && !rename(stolen, mine) && !unlink(stolen));
    for (int i = 2; i < argc; i++) {
        struct stat it;
        CHECK(stat(argv[i], &it) == 0 && S_ISDIR(it.st_mode));
        is_closed_to_change(argv[i]);
        directory(argv[i], it.st_dev, 0);
    }
    printf("links %d writes %d secrets %d directories %d failures %d\n", links, writes, secrets, directories,
           failures);
    return failures ? 1 : ok();
}
