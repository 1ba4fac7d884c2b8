/* The way to /proc/self does not matter: whatever leads there, its status can be read, and its memory, environment,
 * descriptors and program cannot. The arguments are further ways. */
#include "../check.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int ways;

static void refused(int directory, const char *way, const char *file) {
    const int flags[] = {O_RDONLY, O_RDWR, O_WRONLY | O_TRUNC, O_RDONLY | O_DIRECTORY};
    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (openat(directory, file, flags[i]) >= 0) {
            printf("%s: %s can be opened with %#x\n", way, file, flags[i]);
            exit(1);
        }
    }
}

static void attempts(int directory, const char *way, const char *before) {
    const char *files[] = {"mem",     "environ", "auxv",   "exe",         "fd/0",       "fd/3",      "fd/4",
                           "ns/mnt",  "root",    "cwd",    "root/etc",    "cwd/.",      "task/../mem", "./mem",
                           "cwd/..",  "root/../..", "task/../fd/../exe",  "fd/../mem",  "comm/../mem"};
    char path[4200];
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s%s", before, files[i]);
        refused(directory, way, path);
    }
    snprintf(path, sizeof path, "%scomm", before);
    if (openat(directory, path, O_WRONLY) >= 0) {
        printf("%s: comm can be written\n", way);
        exit(1);
    }
    /* This one is no secret, so it is the attempt that failed and not the way. */
    snprintf(path, sizeof path, "%sstatus", before);
    int fd = openat(directory, path, O_RDONLY);
    if (fd < 0) {
        printf("%s leads nowhere: %s\n", way, strerror(errno));
        exit(1);
    }
    close(fd);
}

static void leads(const char *way) {
    char path[4100];
    snprintf(path, sizeof path, "%s/", way);
    attempts(AT_FDCWD, way, path);
    int fd = open(way, O_RDONLY | O_DIRECTORY);
    CHECK(fd >= 3);
    attempts(fd, way, "");
    close(fd);
    ways++;
}

/* The last of so many links, the first of which leads to /proc/self. */
static void chain(int length) {
    char target[64] = "/proc/self", name[64];
    for (int i = 0; i < length; i++) {
        snprintf(name, sizeof name, "/ways/chain-%d-%d", length, i);
        CHECK(symlink(target, name) == 0);
        strcpy(target, i % 2 ? name : name + 1);
        /* Every other one is relative, and winds. */
        if (i % 2 == 0) snprintf(target, sizeof target, "../ways/./%s", strrchr(name, '/') + 1);
    }
    if (length < 39) return leads(name);
    FAILS(open(name, O_RDONLY), ELOOP);
    char path[80];
    snprintf(path, sizeof path, "%s/mem", name);
    FAILS(open(path, O_RDWR), ELOOP);
}

int main(int argc, char **argv) {
    CHECK(mkdir("/ways", 0755) == 0);
    const char *direct[] = {"/proc/self",         "/proc/thread-self", "/proc/1",           "/proc/./self/../self//",
                            "/proc/self/../1/.",  "/ways/../proc/self", "/../../proc/self", "/proc/self/task/../../self",
                            "/proc/1/task/1/net/../../.."};
    for (unsigned i = 0; i < sizeof direct / sizeof *direct; i++) leads(direct[i]);
    for (int i = 1; i < argc; i++) leads(argv[i]);

    CHECK(symlink("/proc/self", "/ways/absolute") == 0);
    leads("/ways/absolute");
    CHECK(symlink("../proc/self", "/ways/relative") == 0);
    leads("/ways/relative");
    CHECK(symlink("../../../proc/self/task/../../self/", "/ways/winding") == 0);
    leads("/ways/winding");
    CHECK(symlink("/proc", "/ways/above") == 0);
    leads("/ways/above/self");
    chain(5);
    chain(30);
    chain(45);
    CHECK(symlink("around", "/ways/around") == 0);
    FAILS(open("/ways/around/mem", O_RDWR), ELOOP);

    /* A link to the file itself, a second name of that link, and a name that the link got while its directory was open. */
    const char *files[] = {"mem", "exe", "environ", "fd/0", "fd/1", "root", "cwd"};
    CHECK(mkdir("/ways/before", 0755) == 0);
    int directory = open("/ways/before", O_RDONLY | O_DIRECTORY);
    CHECK(directory >= 3 && rename("/ways/before", "/ways/after") == 0);
    char target[64];
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(target, sizeof target, "/proc/self/%s", files[i]);
        CHECK(symlinkat(target, directory, "link") == 0);
        CHECK(linkat(directory, "link", AT_FDCWD, "/ways/second", 0) == 0);
        CHECK(rename("/ways/second", "/ways/third") == 0);
        refused(directory, "a link in a renamed directory", "link");
        refused(AT_FDCWD, "the same by its new name", "/ways/after/link");
        refused(AT_FDCWD, "another name of the link", "/ways/third");
        struct stat it;
        if (strcmp(files[i], "mem") && strcmp(files[i], "environ")) FAILS(stat("/ways/third", &it), ELOOP);
        FAILS(linkat(AT_FDCWD, "/ways/third", AT_FDCWD, "/ways/hard", AT_SYMLINK_FOLLOW),
              strcmp(files[i], "mem") && strcmp(files[i], "environ") ? ELOOP : EXDEV);
        CHECK(unlinkat(directory, "link", 0) == 0 && unlink("/ways/third") == 0);
    }
    printf("%d ways\n", ways);
    return ok();
}
