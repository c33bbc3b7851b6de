/* What all families have in common; the head of main.c says what the program is. */
#ifndef COMPAT_H
#define COMPAT_H

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(void *) == 4, "it is built for 32 bits");

/* Notes what is not as it is to be. */
#define expect(holds, ...) ((holds) ? (void)0 : found(__VA_ARGS__))
void found(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Ends the program if it cannot come to stand. */
void must(int holds, const char *what);

/* Sleeps, whatever signals come. */
void nap(int milliseconds);

/* Says that its state stands, and waits until it is to look. */
void stand(void);

pthread_t start(void *(*way)(void *), void *argument);

/* Sets an action, by one of the two kinds of handlers. */
typedef void (*informed)(int, siginfo_t *, void *);
void action(int signal, int flags, void (*handler)(int), informed with_info);

/* Whether EINTR is no finding: CRIU has calls say that where they have a time limit, and some others. */
int is_excused(void);

/* Threads are to end. */
extern volatile int leave;
/* One of each thread. */
extern __thread int own;

void busy(void);
void calls(void);
void filtered(void);
void large(void);
void memory(void);
void registers(void);
void signals(void);
void threads(void);
void timers(void);
void tree(void);

#endif
