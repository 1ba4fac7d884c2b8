// The demo's module: an ordinary C program.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "exit")) return atoi(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "cat")) {
        FILE *file = fopen(argv[2], "r");
        if (!file) return perror(argv[2]), 1;
        for (int c; (c = getc(file)) != EOF;) putchar(c);
        return 0;
    }
    printf("Hello from WebAssembly");
    for (int i = 1; i < argc; i++) printf(", %s", argv[i]);
    if (getenv("GREETING")) printf(" (GREETING is %s)", getenv("GREETING"));
    printf("\n");
    return 0;
}
