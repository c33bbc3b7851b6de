#include "compat.h"

#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>

/* Registers: general ones, the x87, vectors; while it spins, and while it is in a call made by each kind of entry. */

struct registers {
    uint32_t general[5];
    uint16_t control, status;
    uint32_t mxcsr;
    uint8_t x87[8][10], vectors[8][16] __attribute__((aligned(16)));
};

static volatile int spinning;

/* Loads the vectors and the x87, has the kernel keep them until it is told to leave, and stores them. */
static void keep(struct registers *registers, const struct registers *wanted, int spin)
{
    uint32_t words[4];
    asm volatile("fninit\n\tfldcw %0" : : "m"(wanted->control));
    for (int at = 7; at >= 0; at--)
        asm volatile("fldt %0" : : "m"(wanted->x87[at]));
    asm volatile("ldmxcsr %0" : : "m"(wanted->mxcsr));
    asm volatile("movdqa 0(%0), %%xmm0\n\tmovdqa 16(%0), %%xmm1\n\tmovdqa 32(%0), %%xmm2\n\tmovdqa 48(%0), %%xmm3\n\t"
                 "movdqa 64(%0), %%xmm4\n\tmovdqa 80(%0), %%xmm5\n\tmovdqa 96(%0), %%xmm6\n\tmovdqa 112(%0), %%xmm7"
                 : : "r"(wanted->vectors));
    spinning++;
    if (spin) {
        /* All general registers but the ones that it looks by. */
        asm volatile("movl $0x11111111, %%ecx\n\tmovl $0x22222222, %%edx\n\tmovl $0x33333333, %%esi\n\tmovl $0x44444444, %%edi\n"
                     "1:\tcmpl $0, (%%eax)\n\tje 1b\n\t"
                     "movl %%ecx, 0(%%ebx)\n\tmovl %%edx, 4(%%ebx)\n\tmovl %%esi, 8(%%ebx)\n\tmovl %%edi, 12(%%ebx)"
                     : : "a"(&leave), "b"(words) : "ecx", "edx", "esi", "edi", "memory");
        memcpy(registers->general, words, sizeof words);
    } else {
        /* nanosleep by int 0x80, 5 milliseconds, again and again. */
        struct timespec rest = { 0, 5000000 };
        int answer;
        /* Whether it says EINTR is looked at among the calls. */
        while (!leave)
            asm volatile("int $0x80" : "=a"(answer) : "a"(SYS_nanosleep), "b"(&rest), "c"(0) : "memory");
    }
    asm volatile("movdqa %%xmm0, 0(%0)\n\tmovdqa %%xmm1, 16(%0)\n\tmovdqa %%xmm2, 32(%0)\n\tmovdqa %%xmm3, 48(%0)\n\t"
                 "movdqa %%xmm4, 64(%0)\n\tmovdqa %%xmm5, 80(%0)\n\tmovdqa %%xmm6, 96(%0)\n\tmovdqa %%xmm7, 112(%0)"
                 : : "r"(registers->vectors) : "memory");
    asm volatile("stmxcsr %0" : "=m"(registers->mxcsr));
    asm volatile("fnstcw %0\n\tfnstsw %1" : "=m"(registers->control), "=m"(registers->status));
    for (int at = 0; at < 8; at++)
        asm volatile("fstpt %0" : "=m"(registers->x87[at]));
    asm volatile("fninit");
}

static void *with_registers(void *argument)
{
    struct registers wanted = { 0 }, seen = { 0 };
    int spin = (int)(intptr_t)argument;
    const uint32_t general[] = { 0x11111111, 0x22222222, 0x33333333, 0x44444444 };
    wanted.control = 0x0a7f;
    wanted.mxcsr = 0x5f80;
    for (int at = 0; at < 8; at++) {
        long double value = 1.25L + at + spin * 100;
        memcpy(wanted.x87[at], &value, 10);
        memset(wanted.vectors[at], 0x80 + 16 * spin + at, 16);
    }
    keep(&seen, &wanted, spin);
    expect(memcmp(seen.x87, wanted.x87, sizeof seen.x87) == 0, "x87, spin %d", spin);
    expect(memcmp(seen.vectors, wanted.vectors, sizeof seen.vectors) == 0, "vectors, spin %d", spin);
    expect(seen.control == wanted.control && seen.mxcsr == wanted.mxcsr, "control words %x, %x", seen.control, seen.mxcsr);
    expect(!spin || memcmp(seen.general, general, sizeof general) == 0, "general registers");
    return NULL;
}

void registers(void)
{
    pthread_t spins = start(with_registers, (void *)1), sleeps = start(with_registers, (void *)0);
    uint32_t segments[4], seen[4];
    asm volatile("mov %%ds, %0\n\tmov %%es, %1\n\tmov %%fs, %2\n\tmov %%gs, %3"
                 : "=r"(segments[0]), "=r"(segments[1]), "=r"(segments[2]), "=r"(segments[3]));
    while (spinning < 2)
        nap(1);
    stand();
    asm volatile("mov %%ds, %0\n\tmov %%es, %1\n\tmov %%fs, %2\n\tmov %%gs, %3"
                 : "=r"(seen[0]), "=r"(seen[1]), "=r"(seen[2]), "=r"(seen[3]));
    expect(memcmp(segments, seen, sizeof seen) == 0, "segments: %x %x %x %x", seen[0], seen[1], seen[2], seen[3]);
    leave = 1;
    pthread_join(spins, NULL);
    pthread_join(sleeps, NULL);
}

/* At work all the time: nothing of it may be disturbed. */

static void *reckons(void *argument)
{
    volatile double value = 1;
    long double exact = 1;
    for (int step = 0; !leave; step++) {
        value = value * 1.5 / 1.5;
        exact = exact * 3 / 3;
        expect(value == 1 && exact == 1, "step %d: %f", step, value);
        if (step % 1000 == 0) {
            own = step;
            sched_yield();
            expect(own == step, "its storage in step %d: %d", step, own);
        }
    }
    return argument;
}

static void *naps(void *argument)
{
    while (!leave) {
        struct timespec rest = { 0, 2000000 };
        int failed = nanosleep(&rest, NULL);
        expect(failed == 0 || is_excused(), "nanosleep: %s", strerror(errno));
        struct pollfd none = { -1, 0, 0 };
        int ready = poll(&none, 1, 2);
        expect(ready == 0 || is_excused(), "poll: %d, %s", ready, strerror(errno));
    }
    return argument;
}

static void *passes(void *argument)
{
    int *ends = argument, sent = 0, seen = 0;
    while (!leave) {
        sent++;
        expect(write(ends[1], &sent, 4) == 4 && read(ends[0], &seen, 4) == 4 && seen == sent, "passed %d: %d", sent, seen);
    }
    return argument;
}

void busy(void)
{
    int line[2];
    timer_t timer;
    must(pipe(line) == 0 && timer_create(CLOCK_MONOTONIC, NULL, &timer) == 0, "pipe, timer");
    pthread_t all[] = { start(reckons, NULL), start(naps, NULL), start(passes, line), start(reckons, NULL) };
    stand();
    leave = 1;
    for (int at = 0; at < 4; at++)
        pthread_join(all[at], NULL);
}
