/* The least that a container of the default configuration costs: the system calls that the kernel has to be asked for,
 * and nothing else. No configuration is read, no state is kept, nothing is checked that the kernel does not check.
 *
 * floor ROOTFS: runs /bin/true in there and ends with its exit code. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define MUST(call) \
    do { \
        if ((call) < 0) { \
            perror(#call); \
            _exit(127); \
        } \
    } while (0)
#define HIERARCHIES "/sys/fs/cgroup"

enum { MOST = 32, PATH = 256 };

/* Where the host has its cgroup hierarchies, and the container's own in each. */
static char mounts[MOST][PATH], cgroups[MOST][PATH + 32];
static int hierarchies;

static int transfer(const char *from, const char *to) {
    char value[128];
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CLOEXEC);
    ssize_t length = read(in, value, sizeof value);
    ssize_t written = length > 0 ? write(out, value, length) : length;
    close(in);
    close(out);
    return written < 0 ? -1 : 0;
}

static void find_hierarchies(void) {
    FILE *mountinfo = fopen("/proc/self/mountinfo", "re");
    MUST(mountinfo ? 0 : -1);
    for (char line[4096]; fgets(line, sizeof line, mountinfo);) {
        char point[PATH];
        if (!strstr(line, " - cgroup ") && !strstr(line, " - cgroup2 ")) continue;
        if (sscanf(line, "%*s %*s %*s %*s %255s", point) != 1) continue;
        if (strncmp(point, HIERARCHIES, strlen(HIERARCHIES)) || hierarchies == MOST) continue;
        strcpy(mounts[hierarchies++], point);
    }
    fclose(mountinfo);
}

static void make_cgroups(void) {
    for (int i = 0; i < hierarchies; i++) {
        snprintf(cgroups[i], sizeof *cgroups, "%s/floor-%d", mounts[i], getpid());
        MUST(mkdir(cgroups[i], 0755));
        /* Nobody can enter a cpuset of v1 that is empty. */
        if (!strstr(mounts[i], "/cpuset") && !strstr(mounts[i], ",cpuset")) continue;
        static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};
        for (size_t k = 0; k < LENGTH(files); k++) {
            char from[PATH + 16], to[PATH + 64];
            snprintf(from, sizeof from, "%s/%s", mounts[i], files[k]);
            snprintf(to, sizeof to, "%s/%s", cgroups[i], files[k]);
            MUST(transfer(from, to));
        }
    }
}

static void enter_cgroups(pid_t pid) {
    char number[16];
    int length = snprintf(number, sizeof number, "%d", pid);
    for (int i = 0; i < hierarchies; i++) {
        char path[PATH + 64];
        snprintf(path, sizeof path, "%s/cgroup.procs", cgroups[i]);
        int procs = open(path, O_WRONLY | O_CLOEXEC);
        MUST(write(procs, number, length));
        close(procs);
    }
}

static void mount_filesystems(void) {
    const int closed = MS_NOSUID | MS_NOEXEC | MS_NODEV;
    MUST(mount("proc", "proc", "proc", 0, NULL));
    MUST(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
    MUST(mkdir("dev/pts", 0755));
    MUST(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    MUST(mkdir("dev/shm", 0755));
    MUST(mount("shm", "dev/shm", "tmpfs", closed, "mode=1777,size=65536k"));
    MUST(mkdir("dev/mqueue", 0755));
    MUST(mount("mqueue", "dev/mqueue", "mqueue", closed, NULL));
    MUST(mount("sysfs", "sys", "sysfs", closed | MS_RDONLY, NULL));
}

/* v2 alone is one mount; v1 has a directory for each hierarchy. */
static int is_v2_alone(void) { return hierarchies == 1 && !strcmp(mounts[0], HIERARCHIES); }

static void mount_cgroups(void) {
    if (!is_v2_alone())
        MUST(mount("tmpfs", HIERARCHIES + 1, "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=755"));
    for (int i = 0; i < hierarchies; i++) {
        const char *to = mounts[i] + 1;
        if (!is_v2_alone()) MUST(mkdir(to, 0755));
        MUST(mount(cgroups[i], to, NULL, MS_BIND, NULL));
        MUST(mount(NULL, to, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL));
    }
    if (!is_v2_alone())
        MUST(mount(NULL, HIERARCHIES + 1, NULL,
                   MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL));
}

static void make_devices(void) {
    static const struct {
        const char *path;
        unsigned major, minor;
    } devices[] = {
        {"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7},
        {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0},
    };
    mode_t mask = umask(0);
    for (size_t i = 0; i < LENGTH(devices); i++)
        MUST(mknod(devices[i].path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)));
    umask(mask);
    MUST(symlink("/proc/self/fd", "dev/fd"));
    MUST(symlink("/proc/self/fd/0", "dev/stdin"));
    MUST(symlink("/proc/self/fd/1", "dev/stdout"));
    MUST(symlink("/proc/self/fd/2", "dev/stderr"));
    MUST(symlink("pts/ptmx", "dev/ptmx"));
}

/* Not every kernel has all of them. */
static void close_paths(void) {
    static const char *const masked[] = {
        "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
        "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
    };
    static const char *const readonly[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    for (size_t i = 0; i < LENGTH(masked); i++) {
        struct stat it;
        if (stat(masked[i], &it)) continue;
        if (S_ISDIR(it.st_mode))
            MUST(mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, "nr_blocks=1,nr_inodes=1"));
        else
            MUST(mount("/dev/null", masked[i], NULL, MS_BIND, NULL));
    }
    for (size_t i = 0; i < LENGTH(readonly); i++) {
        if (mount(readonly[i], readonly[i], NULL, MS_BIND | MS_REC, NULL)) continue;
        MUST(mount(NULL, readonly[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    }
}

static void contain(const char *root) {
    MUST(sethostname("floor", 5));
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    MUST(mount(root, root, NULL, MS_BIND | MS_REC, NULL));
    MUST(chdir(root));
    mount_filesystems();
    mount_cgroups();
    make_devices();
    MUST(syscall(SYS_pivot_root, ".", "."));
    MUST(umount2(".", MNT_DETACH));
    MUST(chdir("/"));
    close_paths();
    MUST(mount(NULL, "/", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL));
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    char *arguments[] = {"/bin/true", NULL}, *environment[] = {NULL};
    MUST(execve(arguments[0], arguments, environment));
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: floor ROOTFS\n");
        return 127;
    }
    find_hierarchies();
    make_cgroups();
    int word[2];
    MUST(pipe2(word, O_CLOEXEC));
    struct clone_args namespaces = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS,
        .exit_signal = SIGCHLD,
    };
    pid_t pid = syscall(SYS_clone3, &namespaces, sizeof namespaces);
    MUST(pid);
    if (pid == 0) {
        char byte;
        MUST(read(word[0], &byte, 1));
        /* It begins at the cgroup that the process is in. The default configuration has it with v2 alone. */
        if (is_v2_alone()) MUST(unshare(CLONE_NEWCGROUP));
        contain(arguments[1]);
    }
    enter_cgroups(pid);
    MUST(write(word[1], "", 1));
    int status;
    MUST(waitpid(pid, &status, 0));
    for (int i = 0; i < hierarchies; i++) MUST(rmdir(cgroups[i]));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 126;
}
