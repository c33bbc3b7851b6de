#include "compat.h"

#include <fcntl.h>
#include <sys/mman.h>

/* Memory. */

void memory(void)
{
    enum { PAGES = 64, PAGE = 4096 };
    int file = open("mapped", O_RDWR | O_CREAT | O_TRUNC, 0644);
    must(file >= 0 && ftruncate(file, PAGES * PAGE) == 0, "make a file");
    uint32_t *all[6];
    int prot = PROT_READ | PROT_WRITE;
    all[0] = mmap(NULL, PAGES * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    all[1] = mmap(NULL, PAGES * PAGE, prot, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    all[2] = mmap(NULL, PAGES * PAGE, prot, MAP_PRIVATE, file, 0);
    all[3] = mmap(NULL, PAGES * PAGE, prot, MAP_SHARED, file, 0);
    all[4] = mmap((void *)0x10000, PAGES * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    all[5] = malloc(PAGES * PAGE);
    for (int one = 0; one < 6; one++) {
        must(all[one] != MAP_FAILED && all[one] != NULL, "map");
        for (int page = 0; page < PAGES; page++)
            all[one][page * PAGE / 4 + 1] = 0x9e3779b9u * (page + 1) + one;
    }
    must(mprotect(all[0], PAGE, PROT_READ) == 0, "mprotect");
    /* Where the next one would go. */
    void *next = mmap(NULL, PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *new;
    must(next != MAP_FAILED && munmap(next, PAGE) == 0, "map");
    void *heap = sbrk(0);
    stand();
    for (int one = 0; one < 6; one++)
        for (int page = 0; page < PAGES; page++)
            expect(all[one][page * PAGE / 4 + 1] == 0x9e3779b9u * (page + 1) + one, "page %d of %d", page, one);
    new = mmap(NULL, PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect(new == next || access("same-places", F_OK) != 0, "a new mapping: %p instead of %p", new, next);
    expect(sbrk(0) == heap && sbrk(65536) == heap, "the heap: %p, then %p", heap, sbrk(0));
    memset(heap, 1, 65536);
    /* The kernel finds room, in what 32-bit code can reach. */
    for (int round = 0; round < 64; round++) {
        char *more = mmap(NULL, 1 << 20, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        expect(more != MAP_FAILED && mremap(more, 1 << 20, 1 << 21, MREMAP_MAYMOVE) != MAP_FAILED, "more memory: %s", strerror(errno));
    }
}

/* Much memory, in which it writes a little all the time. */

enum { MEBIBYTES = 96 };
static volatile uint32_t *large_memory;

static void *writes(void *argument)
{
    for (uint32_t step = 0; !leave; step++) {
        for (uint32_t at = 0; at < MEBIBYTES; at++)
            large_memory[(at << 18) + 1] = step;
        nap(1);
        for (uint32_t at = 0; at < MEBIBYTES; at++)
            expect(large_memory[(at << 18) + 1] == step, "step %u in piece %u: %u", step, at, large_memory[(at << 18) + 1]);
    }
    return argument;
}

void large(void)
{
    large_memory = mmap(NULL, MEBIBYTES << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must((void *)large_memory != MAP_FAILED, "map");
    for (uint32_t page = 0; page < MEBIBYTES * 256; page++)
        large_memory[page << 10] = page * 0x9e3779b9u;
    pthread_t other = start(writes, NULL);
    stand();
    leave = 1;
    pthread_join(other, NULL);
    for (uint32_t page = 0; page < MEBIBYTES * 256; page++)
        expect(large_memory[page << 10] == page * 0x9e3779b9u, "page %u", page);
}
