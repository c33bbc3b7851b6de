/* Process groups, sessions, a zombie, a stopped child, a shared pipe and a descriptor table of two tasks. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#define CHECK(x) do { if ((long)(x) < 0) { perror(#x); exit(1); } } while (0)
int main(void) {
	int p[2]; CHECK(pipe(p));
	int *shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); *shared = 1;
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1));
	pid_t z = fork(); CHECK(z); if (!z) _exit(17);
	pid_t k = fork(); CHECK(k); if (!k) { raise(SIGKILL); }
	pid_t s = fork(); CHECK(s);
	if (!s) { setsid(); pid_t g = fork(); CHECK(g); if (!g) setpgid(0, 0); close(p[0]); __atomic_add_fetch(shared, 1, 5); for (;;) pause(); }
	pid_t t = fork(); CHECK(t);
	if (!t) { prctl(PR_SET_PDEATHSIG, SIGTERM); prctl(PR_SET_NAME, "stopped one"); __atomic_add_fetch(shared, 1, 5); raise(SIGSTOP); for (;;) pause(); }
	siginfo_t i;
	CHECK(waitid(P_PID, t, &i, WSTOPPED | WNOWAIT));
	CHECK(waitid(P_PID, z, &i, WEXITED | WNOWAIT)); CHECK(waitid(P_PID, k, &i, WEXITED | WNOWAIT));
	while (__atomic_load_n(shared, 5) != 4) usleep(1000);
	CHECK(write(1, "ready\n", 6));
	for (;;) pause();
}
