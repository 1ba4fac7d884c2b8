/* expect: exit 143
 * A guest that raises SIGTERM ends as if it had been sent. */
__attribute__((import_module("wasi_snapshot_preview1"), import_name("proc_raise"))) int proc_raise(int);

int main(void) {
    proc_raise(15);
    return 1;
}
