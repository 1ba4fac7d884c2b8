// The module of packaging/kubernetes/pod.yaml: writes a page to the file that it is given, and stays until it is ended.
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
    FILE *page = argc > 1 ? fopen(argv[1], "w") : NULL;
    if (!page) {
        perror(argc > 1 ? argv[1] : "usage: page FILE");
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
