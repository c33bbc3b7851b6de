#include "compat.h"

#include <sys/time.h>

/* Signals: handlers of both kinds, on an alternate stack, with a restorer of their own; what is pending; being in a handler. */

static volatile int plain, queued, in_handler, on_stack;
static char *stack_start;

static void on_plain(int signal)
{
    plain += signal;
}

static void on_queued(int signal, siginfo_t *info, void *context)
{
    (void)context;
    char here;
    on_stack = &here >= stack_start && &here < stack_start + 65536;
    queued += info->si_value.sival_int * (signal == SIGRTMIN + 2 && info->si_pid == getpid());
}

static void on_long(int signal)
{
    (void)signal;
    in_handler = 1;
    while (!leave)
        ;
    in_handler = 2;
}

static void *in_a_handler(void *argument)
{
    double value = 0.5;
    raise(SIGUSR2);
    expect(value == 0.5, "what is around a handler");
    return argument;
}

void signals(void)
{
    sigset_t blocked, pending;
    struct sigaction seen;
    union sigval value = { .sival_int = 40 };
    stack_t stack = { stack_start = malloc(65536), 0, 65536 };
    must(sigaltstack(&stack, NULL) == 0, "sigaltstack");
    action(SIGUSR1, SA_RESTART, on_plain, NULL);
    action(SIGUSR2, 0, on_long, NULL);
    action(SIGTERM, 0, SIG_IGN, NULL);
    action(SIGRTMIN + 2, SA_ONSTACK | SA_NODEFER, NULL, on_queued);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGRTMIN + 2);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    pthread_t other = start(in_a_handler, NULL);
    while (!in_handler)
        nap(1);
    sigqueue(getpid(), SIGRTMIN + 2, value);
    value.sival_int = 2;
    sigqueue(getpid(), SIGRTMIN + 2, value);
    stand();
    sigpending(&pending);
    expect(sigismember(&pending, SIGRTMIN + 2) == 1, "what was pending is not");
    sigprocmask(SIG_UNBLOCK, &blocked, NULL);
    expect(queued == 42 && on_stack, "queued signals: %d, on the stack: %d", queued, on_stack);
    raise(SIGUSR1);
    raise(SIGTERM);
    expect(plain == SIGUSR1, "a plain handler: %d", plain);
    sigaction(SIGUSR1, NULL, &seen);
    expect(seen.sa_handler == on_plain && seen.sa_flags & SA_RESTART && sigismember(&seen.sa_mask, SIGHUP) == 1
               && sigismember(&seen.sa_mask, SIGINT) == 0,
           "an action: flags %x", (unsigned)seen.sa_flags);
    leave = 1;
    expect(pthread_join(other, NULL) == 0 && in_handler == 2, "the way back from a handler");
}

/* Timers of all kinds. */

static volatile int alarms, ticks, ids;

static void on_alarm(int signal)
{
    (void)signal;
    alarms++;
}

static void on_tick(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    ticks++;
    ids |= info->si_value.sival_int;
}

void timers(void)
{
    struct itimerval interval = { { 0, 20000 }, { 0, 20000 } }, left;
    timer_t each[3];
    action(SIGALRM, SA_RESTART, on_alarm, NULL);
    action(SIGRTMIN, SA_RESTART, NULL, on_tick);
    setitimer(ITIMER_REAL, &interval, NULL);
    for (int number = 0; number < 3; number++) {
        struct sigevent event = { 0 };
        event.sigev_notify = SIGEV_SIGNAL;
        event.sigev_signo = SIGRTMIN;
        event.sigev_value.sival_int = 1 << number;
        must(timer_create(CLOCK_MONOTONIC, &event, &each[number]) == 0, "timer_create");
        struct itimerspec often = { { 0, 30000000 }, { 0, 30000000 } }, once = { { 0, 0 }, { 1000, 0 } };
        timer_settime(each[number], 0, number < 2 ? &often : &once, NULL);
    }
    stand();
    int alarms_before = alarms, ticks_before = ticks;
    struct itimerspec once;
    nap(200);
    expect(alarms > alarms_before + 3 && ticks > ticks_before + 3, "they do not tick: %d, %d", alarms, ticks);
    expect(ids == 3, "values: %d", ids);
    getitimer(ITIMER_REAL, &left);
    expect(left.it_interval.tv_usec == 20000, "interval: %ld", (long)left.it_interval.tv_usec);
    timer_gettime(each[2], &once);
    expect(once.it_value.tv_sec > 900 && once.it_value.tv_sec < 1000, "what is left: %ld", (long)once.it_value.tv_sec);
    expect(timer_delete(each[1]) == 0, "timer_delete");
}
