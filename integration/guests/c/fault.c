/* Addresses and lengths outside of the memory: every function answers EFAULT (21), and nothing crashes. */
#include "check.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wasi/api.h>

#define RAW(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))
RAW(fd_read) int raw_read(int, unsigned, unsigned, unsigned);
RAW(fd_write) int raw_write(int, unsigned, unsigned, unsigned);
RAW(fd_pread) int raw_pread(int, unsigned, unsigned, long long, unsigned);
RAW(fd_readdir) int raw_readdir(int, unsigned, unsigned, long long, unsigned);
RAW(fd_fdstat_get) int raw_fdstat(int, unsigned);
RAW(fd_filestat_get) int raw_filestat(int, unsigned);
RAW(fd_prestat_get) int raw_prestat(int, unsigned);
RAW(fd_prestat_dir_name) int raw_name(int, unsigned, unsigned);
RAW(fd_seek) int raw_seek(int, long long, int, unsigned);
RAW(path_open) int raw_open(int, int, unsigned, unsigned, int, long long, long long, int, unsigned);
RAW(path_filestat_get) int raw_path_stat(int, int, unsigned, unsigned, unsigned);
RAW(path_readlink) int raw_readlink(int, unsigned, unsigned, unsigned, unsigned, unsigned);
RAW(path_symlink) int raw_symlink(unsigned, unsigned, int, unsigned, unsigned);
RAW(path_rename) int raw_rename(int, unsigned, unsigned, int, unsigned, unsigned);
RAW(poll_oneoff) int raw_poll(unsigned, unsigned, unsigned, unsigned);
RAW(random_get) int raw_random(unsigned, unsigned);
RAW(clock_time_get) int raw_time(int, long long, unsigned);
RAW(clock_res_get) int raw_resolution(int, unsigned);
RAW(args_get) int raw_args(unsigned, unsigned);
RAW(args_sizes_get) int raw_args_sizes(unsigned, unsigned);
RAW(environ_get) int raw_environ(unsigned, unsigned);
RAW(sock_recv) int raw_recv(int, unsigned, unsigned, int, unsigned, unsigned);

enum { EFAULT_ = __WASI_ERRNO_FAULT, ROOT = 3 };

int main(void) {
    unsigned end = __builtin_wasm_memory_size(0) * 65536u, far = 0xfffffff0u;
    static unsigned there[64];
    unsigned good = (unsigned)(unsigned long)there;
    int fd = open("/fault", O_RDWR | O_CREAT | O_TRUNC, 0666);
    CHECK(fd >= 3 && write(fd, "abc", 3) == 3);

    /* the last bytes are good, one more is not */
    WASI(raw_fdstat(fd, end - 24), 0);
    WASI(raw_fdstat(fd, end - 23), EFAULT_);
    for (int i = 0; i < 2; i++) {
        unsigned bad = i ? far : end;
        WASI(raw_read(fd, bad, 1, good), EFAULT_);
        WASI(raw_read(fd, good, 1, bad), EFAULT_);
        WASI(raw_write(fd, bad, 1, good), EFAULT_);
        WASI(raw_pread(fd, bad, 1, 0, good), EFAULT_);
        WASI(raw_readdir(ROOT, bad, 100, 0, good), EFAULT_);
        WASI(raw_readdir(ROOT, good, far, 0, good), EFAULT_);
        WASI(raw_filestat(fd, bad), EFAULT_);
        WASI(raw_prestat(ROOT, bad), EFAULT_);
        WASI(raw_name(ROOT, bad, 100), EFAULT_);
        WASI(raw_seek(fd, 0, 0, bad), EFAULT_);
        WASI(raw_open(ROOT, 0, bad, 4, 0, 2, 2, 0, good), EFAULT_);
        WASI(raw_open(ROOT, 0, (unsigned)(unsigned long)"fault", 5, 0, 2, 2, 0, bad), EFAULT_);
        WASI(raw_path_stat(ROOT, 0, bad, 4, good), EFAULT_);
        WASI(raw_path_stat(ROOT, 0, (unsigned)(unsigned long)"fault", 5, bad), EFAULT_);
        WASI(raw_readlink(ROOT, bad, 4, good, 4, good), EFAULT_);
        WASI(raw_symlink(bad, 4, ROOT, good, 4), EFAULT_);
        WASI(raw_rename(ROOT, bad, 4, ROOT, good, 4), EFAULT_);
        WASI(raw_poll(bad, good, 1, good), EFAULT_);
        WASI(raw_random(bad, 16), EFAULT_);
        WASI(raw_time(1, 0, bad), EFAULT_);
        WASI(raw_resolution(1, bad), EFAULT_);
        WASI(raw_args(bad, bad), EFAULT_);
        WASI(raw_args_sizes(bad, good), EFAULT_);
        WASI(raw_environ(bad, good) && getenv("PATH"), getenv("PATH") != NULL);
        WASI(raw_recv(fd, bad, 1, 0, good, good), EFAULT_);
    }
    /* a list in range with a buffer that is not; a count that overflows */
    there[0] = end - 1;
    there[1] = 2;
    WASI(raw_read(fd, good, 1, good + 64), EFAULT_);
    there[0] = good;
    there[1] = 0xffffffff;
    WASI(raw_write(fd, good, 1, good + 64), EFAULT_);
    WASI(raw_poll(good, good, 0x10000, good), EFAULT_);
    WASI(raw_poll(good, good, 0x20000000, good), __WASI_ERRNO_INVAL);
    WASI(raw_random(good, 0xffffffff), EFAULT_);
    /* descriptors that are none */
    WASI(raw_read(-1, good, 0, good), __WASI_ERRNO_BADF);
    WASI(raw_fdstat(1000000, good), __WASI_ERRNO_BADF);
    WASI(raw_prestat(4, good), __WASI_ERRNO_BADF);
    WASI(raw_filestat(0x7fffffff, good), __WASI_ERRNO_BADF);
    CHECK(close(fd) == 0 && unlink("/fault") == 0);
    return ok();
}
