/* What a debugger stops: it counts, and says how far it is. */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

volatile int steps;
volatile int others;

void count_step(void)
{
	steps++;
}

static void *other(void *unused)
{
	for (;; others++)
		usleep(3000);
	return unused;
}

int main(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, other, NULL);
	for (;;) {
		count_step();
		usleep(1000);
	}
}
