#include "compat.h"

#include <sys/syscall.h>

/* Threads: thread-local storage, names, masks, alternate stacks, lists of robust futexes. */

enum { THREADS = 6 };
static __thread char text[64] = "as it was linked";
static pthread_barrier_t standing;
static pthread_mutex_t robust;

static void *of_threads(void *argument)
{
    int number = (int)(intptr_t)argument;
    char name[16], seen[16];
    sigset_t mask, now;
    stack_t stack = { malloc(SIGSTKSZ + 4096 * number), 0, SIGSTKSZ + 4096 * number }, stack_now;
    expect(strcmp(text, "as it was linked") == 0, "the image of its storage");
    own = 1000 + number;
    snprintf(text, sizeof text, "thread %d", number);
    snprintf(name, sizeof name, "compat-%d", number);
    pthread_setname_np(pthread_self(), name);
    sigemptyset(&mask);
    sigaddset(&mask, SIGRTMIN + number);
    pthread_sigmask(SIG_BLOCK, &mask, NULL);
    must(sigaltstack(&stack, NULL) == 0, "sigaltstack");
    if (number == 0)
        must(pthread_mutex_lock(&robust) == 0, "lock");
    pid_t tid = gettid();
    pthread_barrier_wait(&standing);
    while (!leave)
        nap(3);
    expect(own == 1000 + number, "storage of thread %d: %d", number, own);
    snprintf(seen, sizeof seen, "thread %d", number);
    expect(strcmp(text, seen) == 0, "text of thread %d: %s", number, text);
    pthread_getname_np(pthread_self(), seen, sizeof seen);
    expect(strcmp(seen, name) == 0, "name of thread %d: %s", number, seen);
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    expect(sigismember(&now, SIGRTMIN + number) == 1, "mask of thread %d", number);
    expect(sigismember(&now, SIGRTMIN + number + 1) == 0, "mask of thread %d", number);
    sigaltstack(NULL, &stack_now);
    expect(stack_now.ss_sp == stack.ss_sp && stack_now.ss_size == stack.ss_size, "stack of thread %d", number);
    expect(gettid() == tid, "number of thread %d", number);
    /* The first ends with the mutex in its hands: the kernel goes through its list. */
    return argument;
}

void threads(void)
{
    pthread_t all[THREADS];
    pthread_mutexattr_t attributes;
    struct list_head { void *next; } *before = NULL, *after = NULL;
    size_t bytes = 0;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes);
    pthread_barrier_init(&standing, NULL, THREADS + 1);
    for (int number = 0; number < THREADS; number++)
        all[number] = start(of_threads, (void *)(intptr_t)number);
    pthread_barrier_wait(&standing);
    syscall(SYS_get_robust_list, 0, &before, &bytes);
    stand();
    syscall(SYS_get_robust_list, 0, &after, &bytes);
    expect(before && before == after && bytes == 12, "list of robust futexes: %p, %zu", (void *)after, bytes);
    leave = 1;
    for (int number = 0; number < THREADS; number++) {
        void *answer = NULL;
        expect(pthread_join(all[number], &answer) == 0 && answer == (void *)(intptr_t)number, "end of thread %d", number);
    }
    int error = pthread_mutex_lock(&robust);
    expect(error == EOWNERDEAD, "the owner of the mutex has died: %d", error);
    /* A new one gets storage of its own. */
    leave = 0;
    pthread_barrier_init(&standing, NULL, 2);
    pthread_t another = start(of_threads, (void *)(intptr_t)7);
    pthread_barrier_wait(&standing);
    leave = 1;
    expect(pthread_join(another, NULL) == 0 && own == 1, "a thread that is made afterwards");
}
