/* Opens and changes what somebody else exchanges meanwhile: a directory and a link in its place (`swapped`), a file and a
 * link in its place (`file`), a directory and one from elsewhere (`moved`). What is found must be the decoy or nothing.
 * Arguments: where that is, beneath a preopened directory, and the names to try. Ends when it has met both often enough. */
#include "../check.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { ENOUGH = 150, SECONDS = 20 };
static int found, refused;

static void is_decoy(int base, const char *path, int flags) {
    char text[16] = "";
    int fd = openat(base, path, flags);
    *(fd < 0 ? &refused : &found) += 1;
    if (fd < 0) return;
    if (pread(fd, text, 5, 0) != 5 || strcmp(text, "decoy")) {
        printf("%s has been reached\n", path);
        exit(1);
    }
    close(fd);
}

/* Calls that change something; whether it was the decoy, the test looks at. */
static void change(int base, const char *before) {
    char made[256], victim[256];
    struct stat it;
    snprintf(made, sizeof made, "%smade", before);
    snprintf(victim, sizeof victim, "%svictim", before);
    mkdirat(base, made, 0755);
    unlinkat(base, made, AT_REMOVEDIR);
    symlinkat("x", base, made);
    unlinkat(base, made, 0);
    linkat(base, victim, base, made, 0);
    unlinkat(base, made, 0);
    renameat(base, victim, base, made);
    renameat(base, made, base, victim);
    utimensat(base, victim, NULL, 0);
    if (!fstatat(base, victim, &it, 0) && S_ISREG(it.st_mode) && it.st_size > 5) {
        printf("%s has been looked at\n", victim);
        exit(1);
    }
    int fd = openat(base, made, O_CREAT | O_EXCL | O_WRONLY, 0666);
    if (fd >= 0) close(fd);
    unlinkat(base, made, 0);
}

int main(int argc, char **argv) {
    char path[256];
    CHECK(argc > 2);
    int base = open(argv[1], O_RDONLY | O_DIRECTORY);
    CHECK(base >= 3);
    time_t end = time(NULL) + SECONDS;
    for (int rounds = 0; found < ENOUGH || refused < ENOUGH || rounds < ENOUGH; rounds++) {
        for (int i = 2; i < argc; i++) {
            snprintf(path, sizeof path, "swapped/%s", argv[i]);
            is_decoy(base, path, O_RDWR);
            is_decoy(base, path, O_RDONLY);
            snprintf(path, sizeof path, "moved/inner/../%s", argv[i]);
            is_decoy(base, path, O_RDONLY);
        }
        is_decoy(base, "file", O_RDWR);
        change(base, "swapped/");
        change(base, "moved/inner/../");
        if (time(NULL) > end) {
            printf("found %d, refused %d: no race\n", found, refused);
            return 1;
        }
    }
    printf("found %d refused %d\n", found, refused);
    return ok();
}
