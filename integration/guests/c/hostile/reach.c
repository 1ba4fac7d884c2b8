/* Says, a line each, what a guest can reach of the process that it runs in, through /proc: `no` is a promise here, and what
 * docs/security-comparison.md compares. With the argument `wait` it goes on until it is killed, to be looked at. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void says(const char *what, int reached) { printf("%s: %s\n", what, reached ? "yes" : "no"); }

static int opens(const char *path, int flags) {
    int fd = open(path, flags);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

/* Where the process has memory with these permissions, if it can be told. */
static unsigned long long mapped(const char *permissions) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512], what[8];
    unsigned long long start = 0, end;
    while (maps && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%llx-%llx %7s", &start, &end, what) == 3 && !strcmp(what, permissions)) break;
        start = 0;
    }
    if (maps) fclose(maps);
    return start;
}

/* Writes a byte back that was read from there: through this file the kernel lets one write to code as well. */
static int writes(const char *permissions) {
    unsigned long long address = mapped(permissions);
    char byte;
    int fd = open("/proc/self/mem", O_RDWR);
    int done = address && fd >= 0 && pread(fd, &byte, 1, address) == 1 && pwrite(fd, &byte, 1, address) == 1;
    if (fd >= 0) close(fd);
    return done;
}

static int image(void) {
    char magic[4] = "";
    int fd = open("/proc/self/exe", O_RDONLY);
    int done = fd >= 0 && read(fd, magic, 4) == 4 && !memcmp(magic, "\177ELF", 4);
    if (fd >= 0) close(fd);
    return done;
}

static int descriptors(void) {
    int opened = 0;
    char path[300];
    DIR *list = opendir("/proc/self/fd");
    for (struct dirent *entry; list && (entry = readdir(list));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
        opened += opens(path, O_RDONLY | O_NONBLOCK);
    }
    if (list) closedir(list);
    return opened;
}

int main(int argc, char **argv) {
    struct stat it;
    if (stat("/proc/self/status", &it)) return puts("no /proc"), 1;
    says("runner's memory, read", opens("/proc/self/mem", O_RDONLY));
    says("runner's data, written", writes("rw-p"));
    says("runner's code, written", writes("r-xp"));
    says("runner's environment", opens("/proc/self/environ", O_RDONLY));
    says("runner's program", image());
    says("runner's descriptors", descriptors());
    says("root directory through procfs", opens("/proc/1/root/etc", O_RDONLY | O_DIRECTORY));
    says("identity of what is behind a magic link", !stat("/proc/self/exe", &it));
    says("procfs, written", opens("/proc/self/comm", O_WRONLY));
    says("a sysctl, written", opens("/proc/sys/kernel/domainname", O_WRONLY));
    fflush(stdout);
    while (argc > 1 && !strcmp(argv[1], "wait")) sleep(1);
    return 0;
}
