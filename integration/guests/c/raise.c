/* expect: exit 143
 * A guest that raises SIGTERM ends as if it had been sent. */
#include <wasi/api.h>

int main(void) {
    __wasi_proc_raise(__WASI_SIGNAL_TERM);
    return 1;
}
