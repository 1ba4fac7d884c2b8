/* peak FILE PROGRAM ARGUMENT...: runs the program, and writes to the file how many KiB of memory it, or what it has waited
 * for, had at most. It ends with the exit code of the program.
 *
 * A process begins with the peak of the one that has forked it, so that has to be a small one. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments) {
    if (count < 3) return 127;
    pid_t pid = vfork();
    if (pid == 0) {
        execv(arguments[2], arguments + 2);
        _exit(127);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) < 0) return 127;
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    FILE *out = fopen(arguments[1], "w");
    if (!out || fprintf(out, "%ld", usage.ru_maxrss) < 0 || fclose(out)) return 126;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 126;
}
