// Shows a guest's world, one word of the command line at a time; the last is the exit code when it is a number.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void copy(int from) {
    char buffer[4096];
    ssize_t n;
    while ((n = read(from, buffer, sizeof buffer)) > 0) {
        fwrite(buffer, 1, n, stdout);
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        const char *path = strchr(word, '=') ? strchr(word, '=') + 1 : "";
        if (!strcmp(word, "args")) {
            for (int j = 0; j < argc; j++) printf("<%s>", argv[j]);
            printf("\n");
        } else if (!strcmp(word, "env")) {
            for (char **e = environ; *e; e++) printf("%s\n", *e);
        } else if (!strcmp(word, "stdin")) {
            copy(0);
        } else if (!strcmp(word, "stderr")) {
            fprintf(stderr, "to stderr\n");
        } else if (!strcmp(word, "tty")) {
            printf("tty %d %d %d\n", isatty(0), isatty(1), isatty(2));
        } else if (!strcmp(word, "line")) {
            char line[100];
            if (fgets(line, sizeof line, stdin)) printf("got %s", line);
        } else if (!strcmp(word, "sleep")) {
            printf("sleeping\n");
            struct timespec t = {1000, 0};
            nanosleep(&t, NULL);
        } else if (!strcmp(word, "nap")) {
            struct timespec t = {0, 300000000};
            nanosleep(&t, NULL);
        } else if (!strcmp(word, "spin")) {
            printf("spinning\n");
            for (volatile int n = 0;; n++) {}
        } else if (!strcmp(word, "tick")) {
            printf("ticking\n");
            struct timespec t = {0, 20000000};
            for (;;) nanosleep(&t, NULL);
        } else if (!strncmp(word, "cat=", 4)) {
            int fd = open(path, O_RDONLY);
            if (fd < 0) printf("%s: %s\n", path, strerror(errno));
            else copy(fd), close(fd);
        } else if (!strncmp(word, "ls=", 3)) {
            DIR *dir = opendir(path);
            if (!dir) printf("%s: %s\n", path, strerror(errno));
            for (struct dirent *e; dir && (e = readdir(dir));)
                if (e->d_name[0] != '.') printf("%s\n", e->d_name);
        } else if (!strncmp(word, "touch=", 6)) {
            int fd = open(path, O_WRONLY | O_CREAT, 0644);
            if (fd < 0) printf("%s: %s\n", path, strerror(errno));
            else printf("made %s\n", path), close(fd);
        } else if (!strncmp(word, "alloc=", 6)) {
            size_t size = strtoul(path, NULL, 0) << 20;
            // Volatile: memory that nobody reads would not be written either.
            volatile char *memory = malloc(size);
            printf("%s\n", memory ? "allocated" : "no memory");
            for (size_t at = 0; memory && at < size; at += 4096) memory[at] = 1;
            printf("touched\n");
        } else if (!strcmp(word, "abort")) {
            abort();
        } else {
            return atoi(word);
        }
    }
    return 0;
}
