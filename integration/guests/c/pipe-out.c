/* expect: standard output is a pipe that nobody reads any more; `ok` comes on standard error.
 * Writing to it is an error, not the end. */
#include "check.h"
#include <unistd.h>

int main(void) {
    errno = 0;
    if (write(1, "x", 1) != -1 || errno != EPIPE) return 1;
    return fputs("ok\n", stderr) < 0;
}
