// The module of packaging/kubernetes/pod.yaml: writes a page to the file that it is given, and stays until it is ended.
// Without a file, expect: exit 1, stderr `usage: page FILE`.
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: page FILE\n");
        return 1;
    }
    FILE *page = fopen(argv[1], "w");
    if (!page) {
        perror(argv[1]);
        return 1;
    }
    fprintf(page, "<p>Written by a module.\n");
    if (fclose(page)) {
        perror(argv[1]);
        return 1;
    }
    printf("wrote %s\n", argv[1]);
    fflush(stdout);
    for (;;) sleep(1000);
}
