/* overwrite GO PATH...: takes hold of files that nothing should be written to, and tries whatever might write to them
 * or change what the host sees of them: at once, and again when the file GO is there, as by then the programs that keep
 * a file busy have ended. Prints "holds PATH", "WON HOW PATH" for what succeeds, and "done" at the end. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Newer than Debian 12's headers let one use without a clash of definitions. */
#define SYS_OPEN_TREE 428
#define SYS_MOVE_MOUNT 429
#define SYS_MOUNT_SETATTR 442
#define TREE_CLONE 1
struct attributes { unsigned long long set, clear, propagation, users; };

enum { MOST = 64 };
static struct { const char *path; int file, place; } held[MOST];
static int count;

static void won(const char *how, const char *path) {
    printf("WON %s %s\n", how, path);
    fflush(stdout);
}

static int can_write(const char *path) {
    const int flags[] = {O_WRONLY, O_RDWR, O_WRONLY | O_APPEND, O_WRONLY | O_TRUNC, O_RDWR | O_CREAT};
    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++) {
        int fd = open(path, flags[i], 0755);
        if (fd < 0) continue;
        int written = write(fd, "overwritten", 11);
        close(fd);
        if (written > 0) return 1;
    }
    return 0;
}

/* The view that a descriptor is on, made writable: where it is, or as a copy of it. */
static int can_remount(int fd, const char *itself) {
    struct attributes writable = {.clear = 1 /* MOUNT_ATTR_RDONLY */};
    if (syscall(SYS_MOUNT_SETATTR, fd, "", AT_EMPTY_PATH, &writable, sizeof writable) == 0) return 1;
    if (mount("", itself, "", MS_REMOUNT | MS_BIND, "") == 0) return 2;
    int copy = syscall(SYS_OPEN_TREE, fd, "", TREE_CLONE | AT_EMPTY_PATH);
    if (copy >= 0 && syscall(SYS_MOUNT_SETATTR, copy, "", AT_EMPTY_PATH, &writable, sizeof writable) == 0) return 3;
    if (copy >= 0) close(copy);
    int target = open("/overwrite-target", O_CREAT | O_RDWR | O_CLOEXEC, 0644);
    if (target >= 0) close(target);
    if (mount(itself, "/overwrite-target", "", MS_BIND, "") == 0) return 4;
    if (syscall(SYS_MOVE_MOUNT, fd, "", AT_FDCWD, "/overwrite-target", 4 /* F_EMPTY_PATH */) == 0) return 5;
    return 0;
}

static void attack(int n) {
    char itself[64], place[64];
    const char *path = held[n].path;
    sprintf(itself, "/proc/self/fd/%d", held[n].file);
    sprintf(place, "/proc/self/fd/%d", held[n].place);
    int how = can_remount(held[n].place, place);
    if (how) printf("WON remount-%d %s\n", how, path);
    how = can_remount(held[n].file, itself);
    if (how) printf("WON remount-%d %s\n", how, path);

    if (can_write(path)) won("path", path);
    if (can_write(place)) won("place", path);
    if (held[n].file < 0) return;
    if (can_write(itself)) won("write", path);
    if (truncate(itself, 0) == 0) won("truncate", path);
    if (mmap(0, 4096, PROT_WRITE, MAP_SHARED, held[n].file, 0) != MAP_FAILED) won("map", path);
    if (fallocate(held[n].file, 0, 0, 1 << 20) == 0) won("fallocate", path);
    struct stat it;
    fstat(held[n].file, &it);
    if (fchmod(held[n].file, it.st_mode) == 0) won("chmod", path);
    if (fchown(held[n].file, it.st_uid, it.st_gid) == 0) won("chown", path);
    if (futimes(held[n].file, 0) == 0) won("utimes", path);
    if (fsetxattr(held[n].file, "user.overwrite", "x", 1, 0) == 0) won("xattr", path);
    if (linkat(AT_FDCWD, itself, AT_FDCWD, "/overwrite-link", AT_SYMLINK_FOLLOW) == 0) won("link", path);
}

int main(int argc, char **argv) {
    for (int i = 2; i < argc && count < MOST; i++) {
        int place = open(argv[i], O_PATH);
        struct stat it;
        if (place < 0 || fstat(place, &it) || !S_ISREG(it.st_mode)) continue;
        held[count].path = argv[i];
        held[count].place = place;
        held[count++].file = open(argv[i], O_RDONLY);
        printf("holds %s\n", argv[i]);
    }
    for (int n = 0; n < count; n++) attack(n);
    printf("ready\n");
    fflush(stdout);
    while (access(argv[1], F_OK)) usleep(10000);
    for (int n = 0; n < count; n++) attack(n);
    printf("done\n");
    return 0;
}
