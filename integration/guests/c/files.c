/* Files through wasi-libc: open modes, positions, append, truncation, sizes, reading and writing in place, many
 * buffers at once. */
#include "check.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

int main(void) {
    char buffer[64];
    struct stat stat_;
    mkdir("/files", 0777);
    unlink("/files/a");

    int fd = open("/files/a", O_RDWR | O_CREAT | O_EXCL, 0666);
    CHECK(fd >= 3);
    FAILS(open("/files/a", O_RDWR | O_CREAT | O_EXCL, 0666), EEXIST);
    CHECK(write(fd, "0123456789", 10) == 10);
    CHECK(lseek(fd, 0, SEEK_CUR) == 10);
    CHECK(lseek(fd, -3, SEEK_END) == 7);
    CHECK(read(fd, buffer, sizeof buffer) == 3 && !memcmp(buffer, "789", 3));
    CHECK(read(fd, buffer, sizeof buffer) == 0);
    FAILS(lseek(fd, -11, SEEK_END), EINVAL);
    CHECK(lseek(fd, 0, SEEK_CUR) == 10);

    CHECK(pread(fd, buffer, 4, 2) == 4 && !memcmp(buffer, "2345", 4));
    CHECK(pwrite(fd, "xy", 2, 4) == 2);
    CHECK(lseek(fd, 0, SEEK_CUR) == 10);
    FAILS(pread(fd, buffer, 1, -1), EINVAL);

    CHECK(lseek(fd, 1, SEEK_SET) == 1);
    char one[2], two[5];
    struct iovec parts[3] = {{one, 2}, {NULL, 0}, {two, 5}};
    CHECK(readv(fd, parts, 3) == 7 && !memcmp(one, "12", 2) && !memcmp(two, "3xy67", 5));
    CHECK(lseek(fd, 20, SEEK_SET) == 20);
    struct iovec out[2] = {{"abc", 3}, {"de", 2}};
    CHECK(writev(fd, out, 2) == 5);
    CHECK(fstat(fd, &stat_) == 0 && stat_.st_size == 25 && S_ISREG(stat_.st_mode) && stat_.st_nlink == 1);
    CHECK(pread(fd, buffer, 10, 10) == 10 && !memcmp(buffer, "\0\0\0\0\0\0\0\0\0\0", 10));

    CHECK(ftruncate(fd, 5) == 0 && fstat(fd, &stat_) == 0 && stat_.st_size == 5);
    CHECK(ftruncate(fd, 4096) == 0 && fstat(fd, &stat_) == 0 && stat_.st_size == 4096);
    CHECK(posix_fallocate(fd, 0, 8192) == 0 && fstat(fd, &stat_) == 0 && stat_.st_size == 8192);
    CHECK(posix_fallocate(fd, 0, 10) == 0 && fstat(fd, &stat_) == 0 && stat_.st_size == 8192);
    CHECK(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL) == 0);
    CHECK(fsync(fd) == 0 && fdatasync(fd) == 0);
    CHECK(pwrite(fd, "far", 3, 5ll << 30) == 3 && fstat(fd, &stat_) == 0 && stat_.st_size == (5ll << 30) + 3);
    CHECK(lseek(fd, -1, SEEK_END) == (5ll << 30) + 2 && read(fd, buffer, 2) == 1 && buffer[0] == 'r');
    CHECK(close(fd) == 0);
    FAILS(close(fd), EBADF);
    FAILS(read(fd, buffer, 1), EBADF);

    CHECK((fd = open("/files/a", O_WRONLY | O_TRUNC)) >= 3);
    FAILS(read(fd, buffer, 1), EBADF);
    CHECK(write(fd, "one", 3) == 3 && close(fd) == 0);
    CHECK((fd = open("/files/a", O_WRONLY | O_APPEND)) >= 3);
    CHECK(lseek(fd, 0, SEEK_SET) == 0 && write(fd, "two", 3) == 3 && close(fd) == 0);
    CHECK((fd = open("/files/a", O_RDONLY)) >= 3);
    CHECK(read(fd, buffer, sizeof buffer) == 6 && !memcmp(buffer, "onetwo", 6));
    FAILS(write(fd, "x", 1), EBADF);
    CHECK(close(fd) == 0);

    FAILS(open("/files/none", O_RDONLY), ENOENT);
    FAILS(open("/files/a/b", O_RDONLY), ENOTDIR);
    FAILS(open("/files/a", O_RDONLY | O_DIRECTORY), ENOTDIR);
    FAILS(open("/files", O_RDWR), EISDIR);
    FAILS(rmdir("/files"), ENOTEMPTY);
    FAILS(rmdir("/files/a"), ENOTDIR);
    FAILS(unlink("/files"), EISDIR);
    FAILS(mkdir("/files", 0777), EEXIST);
    CHECK(access("/files/a", R_OK | W_OK) == 0);
    FAILS(access("/files/none", F_OK), ENOENT);

    FILE *stream = fopen("/files/a", "w+");
    CHECK(stream && fprintf(stream, "%d lines\n", 2) == 8 && fseek(stream, 0, SEEK_SET) == 0);
    CHECK(fgets(buffer, sizeof buffer, stream) && !strcmp(buffer, "2 lines\n") && fclose(stream) == 0);
    CHECK(unlink("/files/a") == 0 && rmdir("/files") == 0);
    return ok();
}
