/* A container's whole life, as a module and as a native program. */
#include <stdio.h>

int main(void) { return puts("hello") < 0; }
