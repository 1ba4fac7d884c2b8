/* A guest that has one directory, /box, and tries to reach /secret and /other beside it by every call that takes a path.
 * Links that lead out may be made and looked at; nothing may follow them. The test has put some there as well. */
#include "../check.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int box, tried;

static void out(const char *path) {
    struct stat it;
    char entry[600], buffer[8];
    const int flags[] = {O_RDONLY, O_WRONLY, O_RDWR | O_CREAT, O_WRONLY | O_TRUNC, O_RDONLY | O_DIRECTORY};
    tried++;
    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++) FAILS(openat(box, path, flags[i], 0666), ENOTCAPABLE);
    FAILS(fstatat(box, path, &it, 0), ENOTCAPABLE);
    FAILS(utimensat(box, path, NULL, 0), ENOTCAPABLE);
    FAILS(linkat(box, path, box, "stolen", AT_SYMLINK_FOLLOW), ENOTCAPABLE);
    /* Of what is inside the directory that the path leads to. */
    for (int i = 0; i < 2; i++) {
        snprintf(entry, sizeof entry, "%s/../%s", path, (const char *[]){"secret", "other"}[i]);
        FAILS(openat(box, entry, O_RDWR), ENOTCAPABLE);
        FAILS(fstatat(box, entry, &it, AT_SYMLINK_NOFOLLOW), ENOTCAPABLE);
        FAILS(readlinkat(box, entry, buffer, sizeof buffer), ENOTCAPABLE);
        FAILS(mkdirat(box, entry, 0755), ENOTCAPABLE);
        FAILS(unlinkat(box, entry, 0), ENOTCAPABLE);
        FAILS(unlinkat(box, entry, AT_REMOVEDIR), ENOTCAPABLE);
        FAILS(symlinkat("x", box, entry), ENOTCAPABLE);
        FAILS(linkat(box, "mine", box, entry, 0), ENOTCAPABLE);
        FAILS(linkat(box, entry, box, "stolen", 0), ENOTCAPABLE);
        FAILS(renameat(box, entry, box, "stolen"), ENOTCAPABLE);
        FAILS(renameat(box, "mine", box, entry), ENOTCAPABLE);
        FAILS(utimensat(box, entry, NULL, AT_SYMLINK_NOFOLLOW), ENOTCAPABLE);
    }
}

int main(void) {
    box = open("/box", O_RDONLY | O_DIRECTORY);
    CHECK(box >= 3);
    int mine = openat(box, "mine", O_CREAT | O_WRONLY, 0666);
    CHECK(mine >= 3 && close(mine) == 0);
    CHECK(mkdirat(box, "a", 0755) == 0 && mkdirat(box, "a/b", 0755) == 0);
    CHECK(open("/secret", O_RDONLY) < 0); /* no preopened directory has this name */

    out("../secret");
    out("a/../../other");
    out("a/b/../../../other");
    out("./a/.././../secret");
    const char *targets[] = {"../other", "a/../../other", "a/b/../../../other/../other", "../box/../other",
                             "../../../../../../other"};
    char name[32], through[600];
    for (unsigned i = 0; i < sizeof targets / sizeof *targets; i++) {
        snprintf(name, sizeof name, "out-%u", i);
        CHECK(symlinkat(targets[i], box, name) == 0);
        out(name);
        snprintf(through, sizeof through, "%s/.", name);
        out(through);
        snprintf(through, sizeof through, "a/b/../../%s", name);
        out(through);
    }
    /* A chain of links that leaves at its end, a link that gets another place and meaning, and a second name of it. */
    CHECK(symlinkat("../other", box, "link-0") == 0);
    for (int i = 1; i < 15; i++) {
        char next[32];
        snprintf(next, sizeof next, "a/b/../../link-%d", i - 1);
        snprintf(name, sizeof name, "link-%d", i);
        CHECK(symlinkat(next, box, name) == 0);
    }
    out("link-14");
    CHECK(symlinkat("../mine", box, "a/moved") == 0);
    CHECK(faccessat(box, "a/moved", R_OK, 0) == 0);
    CHECK(renameat(box, "a/moved", box, "moved") == 0);
    FAILS(openat(box, "moved", O_RDONLY), ENOTCAPABLE);
    CHECK(symlinkat("../../other", box, "a/two-up") == 0 && linkat(box, "a/two-up", box, "a/b/second", 0) == 0);
    out("a/two-up");
    CHECK(openat(box, "a/b/second", O_RDONLY) < 0);
    CHECK(utimensat(box, "a", NULL, 0) == 0);
    /* An open directory does not lead above itself, wherever it is moved. */
    int inner = openat(box, "a/b", O_RDONLY | O_DIRECTORY);
    CHECK(inner >= 3);
    FAILS(openat(inner, "..", O_RDONLY | O_DIRECTORY), ENOTCAPABLE);
    CHECK(renameat(box, "a/b", box, "b") == 0);
    FAILS(openat(inner, "../../secret", O_RDONLY), ENOTCAPABLE);
    FAILS(openat(inner, "../mine", O_RDONLY), ENOTCAPABLE);

    FAILS(symlinkat("/other", box, "absolute"), ENOTCAPABLE);
    /* What the test has put there. */
    int planted = openat(box, "planted", O_RDONLY | O_DIRECTORY);
    DIR *list = planted < 0 ? NULL : fdopendir(planted);
    CHECK(list);
    for (struct dirent *entry; (entry = readdir(list));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(through, sizeof through, "planted/%s", entry->d_name);
        if (openat(box, through, O_RDONLY) >= 0 || openat(box, through, O_RDONLY | O_DIRECTORY) >= 0) {
            printf("%s can be opened\n", through);
            return 1;
        }
        out(through);
    }
    printf("%d ways out\n", tried);
    return ok();
}
