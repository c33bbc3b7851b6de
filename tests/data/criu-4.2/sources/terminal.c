/* A shell's job: the leader of a session on a pseudo-terminal whose other side is not in the tree. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#define CHECK(x) do { if ((long)(x) < 0) { perror(#x); exit(1); } } while (0)
int main(void) {
	struct winsize size = { .ws_row = 33, .ws_col = 77 };
	struct termios modes;
	CHECK(ioctl(0, TIOCSWINSZ, &size));
	CHECK(tcgetattr(0, &modes)); modes.c_lflag &= ~ECHO; CHECK(tcsetattr(0, TCSANOW, &modes));
	CHECK(write(1, "ready\n", 6));
	for (;;) pause();
}
