/* Two threads, and one of every descriptor that is waited on: pipe, fifo, Unix sockets, epoll, timers. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#define CHECK(x) do { if ((long)(x) < 0) { perror(#x); exit(1); } } while (0)
static void *other(void *arg) { (void)arg; for (;;) pause(); }
int main(int argc, char **argv) {
	const char *dir = argv[argc - 1];
	char path[200];
	CHECK(chdir(dir));
	int p[2]; CHECK(pipe(p)); CHECK(write(p[1], "in the pipe", 11));
	int p2[2]; CHECK(pipe2(p2, O_NONBLOCK | O_CLOEXEC));
	CHECK(mkfifo("fifo", 0600));
	int ff = open("fifo", O_RDWR); CHECK(ff); CHECK(write(ff, "in the fifo", 11));
	int s[2]; CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s)); CHECK(write(s[0], "in the socket", 13));
	struct sockaddr_un un = { .sun_family = AF_UNIX }; strcpy(un.sun_path, "listener.sock");
	int l = socket(AF_UNIX, SOCK_STREAM, 0); CHECK(bind(l, (void *)&un, sizeof un)); CHECK(listen(l, 5));
	int c = socket(AF_UNIX, SOCK_STREAM, 0); CHECK(connect(c, (void *)&un, sizeof un));
	int a = accept(l, 0, 0); CHECK(a); CHECK(write(c, "to the server", 13));
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int t = socket(AF_INET, SOCK_STREAM, 0); CHECK(bind(t, (void *)&in, sizeof in)); CHECK(listen(t, 8));
	int u = socket(AF_INET, SOCK_DGRAM, 0); CHECK(bind(u, (void *)&in, sizeof in));
	int ev = eventfd(5, EFD_NONBLOCK); CHECK(ev);
	int tf = timerfd_create(CLOCK_MONOTONIC, 0); CHECK(tf);
	struct itimerspec its = { { 3600, 1 }, { 7200, 2 } }; CHECK(timerfd_settime(tf, 0, &its, 0));
	sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR1); sigaddset(&set, SIGUSR2);
	CHECK(sigprocmask(SIG_BLOCK, &set, 0));
	int sf = signalfd(-1, &set, 0); CHECK(sf);
	int ep = epoll_create1(EPOLL_CLOEXEC); CHECK(ep);
	int fds[] = { p[0], l, t, ev, tf, sf };
	for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++) {
		struct epoll_event e = { .events = EPOLLIN, .data.u64 = 0x100 + i }; CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &e));
	}
	int f = open("file", O_RDWR | O_CREAT | O_APPEND, 0640); CHECK(f); CHECK(write(f, "0123456789", 10)); CHECK(dup(f));
	union sigval v = { .sival_int = 42 }; CHECK(sigqueue(getpid(), SIGUSR1, v)); 
	struct itimerval iv = { { 100, 5 }, { 5000, 6 } }; CHECK(setitimer(ITIMER_REAL, &iv, 0));
	timer_t pt; struct sigevent se = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 9 };
	CHECK(timer_create(CLOCK_MONOTONIC, &se, &pt)); its.it_value.tv_sec = 9000; CHECK(timer_settime(pt, 0, &its, 0));
	struct sigaction sa = { .sa_handler = SIG_IGN }; CHECK(sigaction(SIGPIPE, &sa, 0));
	static char alt[16384]; stack_t ss = { .ss_sp = alt, .ss_size = sizeof alt }; CHECK(sigaltstack(&ss, 0));
	char *shared = mmap(0, 16384, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); strcpy(shared, "shared");
	CHECK(ftruncate(f, 8192));
	char *map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0); map[4096] = 'x';
	char *priv = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, f, 0); priv[0] = 'y';
	pthread_t th; pthread_attr_t at; pthread_attr_init(&at); pthread_attr_setstacksize(&at, 65536);
	CHECK(-pthread_create(&th, &at, other, 0));
	CHECK(write(1, "ready\n", 6));
	for (;;) pause();
}
