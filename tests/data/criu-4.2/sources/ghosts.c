/* Files without names: one small, one sparse, one with another name; a mapped one; a directory; devices. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define CHECK(x) do { if ((long)(x) < 0) { perror(#x); exit(1); } } while (0)
int main(int argc, char **argv) {
	CHECK(chdir(argv[argc - 1]));
	int g = open("ghost", O_RDWR | O_CREAT, 0604); CHECK(g); CHECK(write(g, "I was a file", 12)); CHECK(unlink("ghost"));
	int r = open("/proc/self/fd/3", O_RDONLY); CHECK(r);
	int s = open("sparse", O_RDWR | O_CREAT, 0600); CHECK(s); CHECK(pwrite(s, "far", 3, 3 << 20)); CHECK(pwrite(s, "near", 4, 0)); CHECK(unlink("sparse"));
	int m = open("mapped", O_RDWR | O_CREAT, 0600); CHECK(m); CHECK(ftruncate(m, 4096)); CHECK(unlink("mapped"));
	char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, m, 0); strcpy(p, "in a lost file"); CHECK(close(m));
	CHECK(open(".", O_RDONLY | O_DIRECTORY)); CHECK(open("/dev/null", O_WRONLY)); CHECK(open("/dev/urandom", O_RDONLY | O_CLOEXEC));
	int e = open("na\377me with spaces", O_RDWR | O_CREAT, 0600); CHECK(e);
	CHECK(write(1, "ready\n", 6));
	for (;;) pause();
}
