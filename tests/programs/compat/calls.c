#include "compat.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/wait.h>

/* Calls that it is in. */

enum { READ, POLL, SELECT, EPOLL, FUTEX, SIGWAIT, WAITPID, SLEEP, CLOCK_SLEEP, PAUSED, CALLS };
static int pipes[CALLS][2];
static int answers[CALLS], errors[CALLS], done[CALLS];
static pthread_mutex_t of_condition = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int signalled;
static pid_t child;

static void on_nothing(int signal)
{
    (void)signal;
}

static void *in_a_call(void *argument)
{
    int call = (int)(intptr_t)argument, answer = -1, fd = pipes[call][0];
    struct pollfd ready = { fd, POLLIN, 0 };
    struct epoll_event event = { EPOLLIN, { .u64 = 0x1234567890abcdefULL } };
    struct timeval limit = { 600, 0 };
    struct timespec rest = { 600, 0 };
    fd_set set;
    sigset_t wanted;
    char byte = 0;
    errno = 0;
    switch (call) {
    case READ:
        answer = read(fd, &byte, 1) == 1 && byte == 'x';
        break;
    case POLL:
        answer = poll(&ready, 1, 600000);
        break;
    case SELECT:
        FD_ZERO(&set);
        FD_SET(fd, &set);
        answer = select(fd + 1, &set, NULL, NULL, &limit);
        break;
    case EPOLL: {
        int epoll = epoll_create1(0);
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        memset(&event, 0, sizeof event);
        answer = epoll_wait(epoll, &event, 1, -1);
        expect(is_excused() || event.data.u64 == 0x1234567890abcdefULL, "data of an event: %llx", (unsigned long long)event.data.u64);
        break;
    }
    case FUTEX:
        clock_gettime(CLOCK_REALTIME, &rest);
        rest.tv_sec += 600;
        pthread_mutex_lock(&of_condition);
        for (answer = 0; !signalled && answer == 0;)
            answer = pthread_cond_timedwait(&condition, &of_condition, &rest);
        pthread_mutex_unlock(&of_condition);
        answer = answer == 0;
        break;
    case SIGWAIT:
        sigemptyset(&wanted);
        sigaddset(&wanted, SIGRTMIN + 5);
        answer = sigwaitinfo(&wanted, NULL) == SIGRTMIN + 5;
        break;
    case WAITPID: {
        int status = 0;
        answer = waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 17;
        break;
    }
    case SLEEP:
    case CLOCK_SLEEP:
        /* Until the end of the check, in pieces: none of them may say that it was interrupted. */
        for (answer = 1; !leave && answer == 1;) {
            struct timespec little = { 0, 400000000 };
            int failed = call == SLEEP ? nanosleep(&little, NULL) : clock_nanosleep(CLOCK_MONOTONIC, 0, &little, NULL);
            answer = failed == 0;
            errno = failed > 0 ? failed : errno;
        }
        break;
    default:
        answer = pause() == -1 && errno == EINTR;
    }
    errors[call] = errno;
    answers[call] = answer;
    done[call] = 1;
    return NULL;
}

void calls(void)
{
    static const char *const names[] = { "read", "poll", "select", "epoll_wait", "futex", "sigwaitinfo", "waitpid", "nanosleep", "clock_nanosleep", "pause" };
    pthread_t all[CALLS];
    sigset_t blocked;
    int tell_child[2];
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGRTMIN + 5);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    action(SIGUSR1, 0, on_nothing, NULL);
    must(pipe(tell_child) == 0, "pipe");
    child = fork();
    if (child == 0) {
        char byte;
        close(tell_child[1]);
        _exit(read(tell_child[0], &byte, 1) == 1 ? 17 : 1);
    }
    for (int call = 0; call < CALLS; call++) {
        must(pipe(pipes[call]) == 0, "pipe");
        all[call] = start(in_a_call, (void *)(intptr_t)call);
    }
    nap(100);
    stand();
    for (int call = 0; call < CALLS; call++)
        expect(!done[call] || (errno = errors[call], is_excused()), "%s did not last: %d, %s", names[call], answers[call], strerror(errors[call]));
    for (int call = 0; call < CALLS; call++)
        must(write(pipes[call][1], "x", 1) == 1, "write");
    must(write(tell_child[1], "x", 1) == 1, "write");
    pthread_mutex_lock(&of_condition);
    signalled = 1;
    pthread_cond_signal(&condition);
    pthread_mutex_unlock(&of_condition);
    leave = 1;
    pthread_kill(all[SIGWAIT], SIGRTMIN + 5);
    pthread_kill(all[PAUSED], SIGUSR1);
    for (int call = 0; call < CALLS; call++) {
        pthread_join(all[call], NULL);
        expect(answers[call] == 1 || (errno = errors[call], is_excused()), "%s: %d, %s", names[call], answers[call], strerror(errors[call]));
    }
}
