#include "compat.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* Files, and who else there is: children of both kinds, a zombie, and a program that is executed afterwards. */

void tree(void)
{
    int pair[2], line[2], event = eventfd(7, 0), file = open("file", O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0644);
    char bytes[16] = { 0 };
    uint64_t count = 0;
    struct stat now;
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0 && pipe2(line, O_CLOEXEC | O_NONBLOCK) == 0, "make files");
    must(write(file, "0123456789", 10) == 10 && lseek(file, 4, SEEK_SET) == 4, "write");
    must(write(pair[0], "held", 4) == 4 && write(line[1], "in it", 5) == 5, "write");
    pid_t native = fork();
    if (native == 0) {
        execl("/bin/sleep", "sleep", "1000", (char *)NULL);
        _exit(1);
    }
    pid_t same = fork();
    if (same == 0) {
        own = 99;
        close(pair[0]);
        close(line[1]);
        must(read(pair[1], bytes, 4) == 4 && read(pair[1], bytes, 4) == 4, "read");
        _exit(own == 99 && memcmp(bytes, "more", 4) == 0 ? 23 : 1);
    }
    pid_t dead = fork();
    if (dead == 0)
        _exit(31);
    close(pair[1]);
    nap(100);
    stand();
    int status = 0;
    expect(lseek(file, 0, SEEK_CUR) == 4 && fcntl(file, F_GETFL) & O_APPEND, "place in a file");
    expect(read(line[0], bytes, sizeof bytes) == 5 && memcmp(bytes, "in it", 5) == 0, "what is in a pipe");
    expect(read(event, &count, 8) == 8 && count == 7, "count of an event: %d", (int)count);
    expect(waitpid(dead, &status, 0) == dead && WEXITSTATUS(status) == 31, "a zombie: %x", status);
    must(write(pair[0], "more", 4) == 4, "write");
    expect(waitpid(same, &status, 0) == same && WEXITSTATUS(status) == 23, "a child of the same kind: %x", status);
    expect(kill(native, SIGTERM) == 0 && waitpid(native, &status, 0) == native && WTERMSIG(status) == SIGTERM, "a child of the other kind: %x", status);
    status = system("test -e go && exit 5");
    expect(WEXITSTATUS(status) == 5, "a program that is executed: %x", status);
    expect(fstat(file, &now) == 0 && now.st_size == 10 && time(NULL) > 1600000000, "times and sizes");
}

/* With a filter by which calls of 64-bit code would end it. */
void filtered(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_I386, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof code / sizeof *code, code };
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "filter");
    own = 5;
    stand();
    expect(own == 5 && prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER, "its filter");
}
