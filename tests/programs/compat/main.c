/* A program of 32-bit code that checks its own state, as those of tests/workloads do: compat FAMILY DIRECTORY.
 * When its state stands it makes the file "ready"; when there is a file "go" it looks, and says in "result" what it found. */
#include "compat.h"

#include <stdarg.h>

volatile int leave;
__thread int own = 1;

static char findings[4096];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void found(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    pthread_mutex_lock(&lock);
    size_t used = strlen(findings);
    vsnprintf(findings + used, sizeof findings - used, format, arguments);
    strncat(findings, "\n", sizeof findings - strlen(findings) - 1);
    pthread_mutex_unlock(&lock);
    va_end(arguments);
}

void must(int holds, const char *what)
{
    if (!holds) {
        perror(what);
        exit(1);
    }
}

void nap(int milliseconds)
{
    struct timespec rest = { milliseconds / 1000, milliseconds % 1000 * 1000000L };
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR) {
    }
}

static void put(const char *name, const char *text)
{
    FILE *file = fopen("new", "w");
    must(file && fputs(text, file) >= 0 && fclose(file) == 0 && rename("new", name) == 0, name);
}

void stand(void)
{
    put("ready", "");
    while (access("go", F_OK) != 0)
        nap(5);
}

static void tell(void)
{
    char text[sizeof findings + 16];
    snprintf(text, sizeof text, findings[0] ? "FAIL\n%s" : "PASS\n", findings);
    put("result", text);
}

pthread_t start(void *(*way)(void *), void *argument)
{
    pthread_t thread;
    must(pthread_create(&thread, NULL, way, argument) == 0, "make a thread");
    return thread;
}

void action(int signal, int flags, void (*handler)(int), informed with_info)
{
    struct sigaction new = { 0 };
    if (with_info)
        new.sa_sigaction = with_info;
    else
        new.sa_handler = handler;
    new.sa_flags = flags | (with_info ? SA_SIGINFO : 0);
    sigaddset(&new.sa_mask, SIGHUP);
    must(sigaction(signal, &new, NULL) == 0, "sigaction");
}

int is_excused(void)
{
    int error = errno;
    return error == EINTR && (access("dumped-by-criu", F_OK) == 0 || access("dumped-without-programs", F_OK) == 0);
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } families[] = { { "threads", threads }, { "signals", signals }, { "timers", timers }, { "calls", calls },
                     { "registers", registers }, { "memory", memory }, { "tree", tree }, { "busy", busy }, { "large", large },
                     { "filtered", filtered } };
    must(count == 3 && chdir(arguments[2]) == 0, "compat FAMILY DIRECTORY");
    for (size_t at = 0; at < sizeof families / sizeof *families; at++)
        if (strcmp(families[at].name, arguments[1]) == 0) {
            families[at].run();
            tell();
            return 0;
        }
    return 2;
}
