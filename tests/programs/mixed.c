/* A 64-bit program with some 32-bit code in it, which is refused: mixed WHAT DIRECTORY. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static long by_int80(long number, long first, long second, long third, long fourth)
{
    long answer;
    asm volatile("int $0x80" : "=a"(answer) : "a"(number), "b"(first), "c"(second), "d"(third), "S"(fourth)
                 : "r8", "r9", "r10", "r11", "memory");
    return (int)answer;
}

int main(int count, char **arguments)
{
    if (count != 3 || chdir(arguments[2]) != 0)
        return 2;
    uint32_t *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED)
        return 1;
    if (strcmp(arguments[1], "segments") == 0) {
        /* struct user_desc: any entry, base, a limit of 4 GiB in pages, a segment of 32-bit data. */
        const uint32_t segment[] = { -1, (uint32_t)(uintptr_t)low, 0xfffff, 0x51 };
        memcpy(low, segment, sizeof segment);
        if (by_int80(243, (long)low, 0, 0, 0) != 0)
            return 1;
    } else if (strcmp(arguments[1], "action") == 0) {
        /* struct sigaction of 32-bit code: a handler, no flags, no restorer, no mask. */
        const uint32_t action[] = { (uint32_t)(uintptr_t)low, 0, 0, 0, 0 };
        memcpy(low, action, sizeof action);
        if (by_int80(174, 10, (long)low, 0, 8) != 0)
            return 1;
    }
    FILE *ready = fopen("ready", "w");
    if (!ready || fclose(ready) != 0)
        return 1;
    if (strcmp(arguments[1], "code") == 0) {
        /* A loop, of 32-bit code by its segment. */
        memcpy(low, "\xf3\x90\xeb\xfc", 4);
        asm volatile("pushq $0x23\n\tpushq %0\n\tlretq" : : "r"((uint64_t)(uintptr_t)low) : "memory");
    }
    for (;;)
        pause();
}
