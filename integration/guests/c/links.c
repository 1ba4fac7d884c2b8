/* Symbolic links (absolute ones too), hard links, renames: what the kernel makes of them. */
#include "check.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void put(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static int holds(const char *path, const char *text) {
    char buffer[64] = {0};
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    fread(buffer, 1, sizeof buffer - 1, file);
    fclose(file);
    return !strcmp(buffer, text);
}

int main(void) {
    char buffer[64];
    struct stat one, two;
    CHECK(mkdir("/links", 0777) == 0 && mkdir("/links/dir", 0777) == 0);
    put("/links/file", "file");

    CHECK(symlink("file", "/links/relative") == 0 && holds("/links/relative", "file"));
    CHECK(symlink("/links/file", "/links/absolute") == 0 && holds("/links/absolute", "file"));
    CHECK(symlink("/links/dir", "/links/todir") == 0);
    CHECK(symlink("../file", "/links/dir/up") == 0 && holds("/links/todir/up", "file"));
    put("/links/todir/new", "new");
    CHECK(holds("/links/dir/new", "new"));
    CHECK(readlink("/links/absolute", buffer, sizeof buffer) == 11 && !memcmp(buffer, "/links/file", 11));
    CHECK(readlink("/links/absolute", buffer, 3) == 3 && !memcmp(buffer, "/li", 3));
    FAILS(readlink("/links/file", buffer, 3), EINVAL);
    CHECK(lstat("/links/relative", &one) == 0 && S_ISLNK(one.st_mode) && one.st_size == 4);
    CHECK(stat("/links/relative", &one) == 0 && S_ISREG(one.st_mode));
    FAILS(open("/links/relative", O_RDONLY | O_NOFOLLOW), ELOOP);
    FAILS(symlink("x", "/links/file"), EEXIST);
    CHECK(symlink("circle", "/links/circle") == 0);
    FAILS(open("/links/circle", O_RDONLY), ELOOP);
    CHECK(symlink("nothing", "/links/dangling") == 0);
    FAILS(open("/links/dangling", O_RDONLY), ENOENT);
    CHECK(lstat("/links/dangling", &one) == 0);
    put("/links/dangling", "made");
    CHECK(holds("/links/nothing", "made"));

    /* relative to an open directory, upwards as well: the container is the limit, not the directory */
    int dir = open("/links/dir", O_RDONLY | O_DIRECTORY);
    CHECK(dir >= 3);
    int fd = openat(dir, "up", O_RDONLY);
    CHECK(fd >= 3 && close(fd) == 0);
    CHECK(fstatat(dir, "../file", &one, 0) == 0 && close(dir) == 0);
    CHECK(holds("/links/../../../links/file", "file"));

    CHECK(link("/links/file", "/links/hard") == 0);
    CHECK(stat("/links/file", &one) == 0 && stat("/links/hard", &two) == 0);
    CHECK(one.st_ino == two.st_ino && one.st_dev == two.st_dev && two.st_nlink == 2);
    put("/links/hard", "changed");
    CHECK(holds("/links/file", "changed"));
    FAILS(link("/links/file", "/links/hard"), EEXIST);
    CHECK(link("/links/relative", "/links/hard-to-link") == 0);
    CHECK(lstat("/links/hard-to-link", &one) == 0);

    CHECK(rename("/links/file", "/links/dir/moved") == 0 && holds("/links/dir/moved", "changed"));
    FAILS(stat("/links/file", &one), ENOENT);
    CHECK(stat("/links/dir/moved", &one) == 0 && one.st_ino == two.st_ino);
    put("/links/other", "other");
    CHECK(rename("/links/other", "/links/dir/moved") == 0 && holds("/links/dir/moved", "other"));
    CHECK(holds("/links/hard", "changed") && stat("/links/hard", &one) == 0 && one.st_nlink == 1);
    CHECK(mkdir("/links/empty", 0777) == 0 && rename("/links/dir", "/links/empty") == 0);
    CHECK(holds("/links/empty/moved", "other"));
    FAILS(rename("/links/empty", "/links/empty/inside"), EINVAL);
    FAILS(rename("/links/none", "/links/some"), ENOENT);
    FAILS(rename("/links/hard", "/links/empty"), EISDIR);

    const char *rest[] = {"/links/relative", "/links/absolute",     "/links/todir",       "/links/circle",
                          "/links/nothing",  "/links/dangling",     "/links/hard",        "/links/hard-to-link",
                          "/links/empty/up", "/links/empty/moved",  "/links/empty/new"};
    for (unsigned i = 0; i < sizeof rest / sizeof *rest; i++) CHECK(unlink(rest[i]) == 0);
    CHECK(rmdir("/links/empty") == 0 && rmdir("/links") == 0);
    return ok();
}
