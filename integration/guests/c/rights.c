/* fd_fdstat_get: types, flags and rights of what is open; rights that were given up stay so; changing flags;
 * renumbering; closing what was open from the start. */
#include "check.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wasi/api.h>

static __wasi_fdstat_t stat_of(int fd) {
    __wasi_fdstat_t it;
    WASI(__wasi_fd_fdstat_get(fd, &it), 0);
    return it;
}

int main(void) {
    __wasi_fdstat_t it = stat_of(3);
    CHECK(it.fs_filetype == __WASI_FILETYPE_DIRECTORY && it.fs_flags == 0);
    CHECK(it.fs_rights_base & __WASI_RIGHTS_PATH_OPEN && it.fs_rights_base & __WASI_RIGHTS_FD_READDIR);
    CHECK(!(it.fs_rights_base & (__WASI_RIGHTS_FD_READ | __WASI_RIGHTS_FD_WRITE | __WASI_RIGHTS_FD_FILESTAT_SET_SIZE)));
    CHECK(it.fs_rights_inheriting & __WASI_RIGHTS_FD_WRITE);
    __wasi_prestat_t pre;
    char name[2] = {0};
    WASI(__wasi_fd_prestat_get(3, &pre), 0);
    CHECK(pre.tag == __WASI_PREOPENTYPE_DIR && pre.u.dir.pr_name_len == 1);
    WASI(__wasi_fd_prestat_dir_name(3, (unsigned char *)name, 1), 0);
    CHECK(name[0] == '/' && !name[1]);
    WASI(__wasi_fd_prestat_dir_name(3, (unsigned char *)name, 0), __WASI_ERRNO_NAMETOOLONG);
    WASI(__wasi_fd_prestat_get(4, &pre), __WASI_ERRNO_BADF);
    WASI(__wasi_fd_prestat_get(1, &pre), __WASI_ERRNO_BADF);

    char byte;
    int fd = open("/rights", O_RDONLY | O_CREAT | O_TRUNC, 0666);
    it = stat_of(fd);
    CHECK(it.fs_filetype == __WASI_FILETYPE_REGULAR_FILE);
    CHECK(it.fs_rights_base & __WASI_RIGHTS_FD_READ && !(it.fs_rights_base & __WASI_RIGHTS_FD_WRITE));
    CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY && !isatty(fd));
    FAILS(write(fd, "x", 1), EBADF);
    CHECK(close(fd) == 0 && (fd = open("/rights", O_WRONLY)) >= 3);
    CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY);
    FAILS(read(fd, &byte, 1), EBADF);
    CHECK(close(fd) == 0 && (fd = open("/rights", O_RDWR | O_APPEND | O_SYNC)) >= 3);
    CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR);
    it = stat_of(fd);
    CHECK(it.fs_flags & __WASI_FDFLAGS_APPEND && it.fs_flags & __WASI_FDFLAGS_SYNC);
    WASI(__wasi_fd_fdstat_set_flags(fd, it.fs_flags & ~__WASI_FDFLAGS_APPEND), 0);
    CHECK(!(stat_of(fd).fs_flags & __WASI_FDFLAGS_APPEND));
    WASI(__wasi_fd_fdstat_set_flags(fd, __WASI_FDFLAGS_NONBLOCK), 0);
    CHECK(stat_of(fd).fs_flags & __WASI_FDFLAGS_NONBLOCK);
    close(fd);

    fd = open("/rights", O_RDWR);
    it = stat_of(fd);
    WASI(__wasi_fd_fdstat_set_rights(fd, it.fs_rights_base & ~__WASI_RIGHTS_FD_WRITE, 0), 0);
    __wasi_ciovec_t data = {(const unsigned char *)"x", 1};
    __wasi_size_t done;
    WASI(__wasi_fd_write(fd, &data, 1, &done), __WASI_ERRNO_NOTCAPABLE);
    WASI(__wasi_fd_fdstat_set_rights(fd, it.fs_rights_base, 0), __WASI_ERRNO_NOTCAPABLE);
    WASI(__wasi_fd_readdir(fd, (unsigned char *)name, 1, 0, &done), __WASI_ERRNO_NOTCAPABLE);

    /* a directory that gave up writing for what is opened beneath it */
    mkdir("/rights-dir", 0777);
    int dir = open("/rights-dir", O_RDONLY | O_DIRECTORY);
    it = stat_of(dir);
    WASI(__wasi_fd_fdstat_set_rights(dir, it.fs_rights_base & ~__WASI_RIGHTS_PATH_UNLINK_FILE,
                                     it.fs_rights_inheriting & ~__WASI_RIGHTS_FD_WRITE), 0);
    int inner = openat(dir, "a", O_RDWR | O_CREAT, 0666);
    CHECK(inner >= 3);
    WASI(__wasi_fd_write(inner, &data, 1, &done), __WASI_ERRNO_NOTCAPABLE);
    WASI(__wasi_path_unlink_file(dir, "a"), __WASI_ERRNO_NOTCAPABLE);
    WASI(__wasi_path_unlink_file(fd, "a"), __WASI_ERRNO_NOTDIR);
    CHECK(unlink("/rights-dir/a") == 0 && rmdir("/rights-dir") == 0 && close(dir) == 0);

    WASI(__wasi_fd_renumber(inner, 99), __WASI_ERRNO_BADF);
    WASI(__wasi_fd_renumber(inner, fd), 0);
    WASI(__wasi_fd_close(inner), __WASI_ERRNO_BADF);
    WASI(__wasi_fd_renumber(fd, fd), 0);
    CHECK(close(fd) == 0 && unlink("/rights") == 0);

    /* what is opened after closing standard input does not become standard input */
    CHECK(close(0) == 0 && (fd = open("/", O_RDONLY | O_DIRECTORY)) >= 3 && close(fd) == 0);
    WASI(__wasi_fd_close(3), 0);
    WASI(__wasi_fd_prestat_get(3, &pre), __WASI_ERRNO_BADF);
    return ok();
}
