"""A process with something of everything that an inventory lists. Prints "ready" when all of its
tasks sleep, and ends when its standard input does."""
import ctypes, fcntl, mmap, os, select, signal, socket, sys, threading, time

folder = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.shmat.restype = ctypes.c_void_p
for name in ("madvise", "mlock", "munmap"):
    getattr(libc, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int][: 3 if name == "madvise" else 2]
PAGE, FAILED = 4096, ctypes.c_void_p(-1).value
keep = []


def memory(pages=1, prot=3, flags=0x22, fd=-1, offset=0):
    # A page that may not be touched between mappings keeps the kernel from merging them.
    libc.mmap(None, PAGE, 0, 0x22, -1, 0)
    return libc.mmap(None, pages * PAGE, prot, flags, fd, offset)


# Mappings with every flag that a program can ask for. What a kernel does not know is passed over.
for advice in (1, 2, 3, 10, 12, 14, 15, 16, 18):
    libc.madvise(memory(4), 4 * PAGE, advice)
libc.mlock(memory(), PAGE)
libc.syscall(325, ctypes.c_void_p(memory()), ctypes.c_size_t(PAGE), 1)  # mlock2, on fault
libc.syscall(462, ctypes.c_void_p(memory()), ctypes.c_size_t(PAGE), 0)  # mseal
for flags in (0x4022, 0x122, 0x21, 0x28):  # NORESERVE, GROWSDOWN, shared, droppable
    memory(2, 3, flags)
for prot in (0, 1, 5, 7):
    memory(1, prot)
libc.prctl(0x53564D41, 0, ctypes.c_void_p(memory()), ctypes.c_size_t(PAGE), b"a name")
for number in range(500):
    memory(1 + number % 3)
shared_memory = libc.shmget(0, PAGE, 0o1600)
keep.append(libc.shmat(shared_memory, None, 0))
libc.shmctl(shared_memory, 0, None)

# Files: plain, shared positions, duplicates, unlinked, odd and long names.
os.makedirs(folder, exist_ok=True)
long_folder = os.path.join(folder, *("x" * 100 for _ in range(4)))
os.makedirs(long_folder, exist_ok=True)
for name in ["plain", "with blank", "with\nnewline", "back\\slash", "(deleted)", long_folder + "/long"]:
    fd = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"x" * 3 * PAGE)
    os.lseek(fd, 7, os.SEEK_SET)
    memory(2, 1, 0x02, fd, PAGE)
    memory(2, 3, 0x01, fd, 0)
    keep += [os.dup(fd), os.open(os.path.join(folder, name), os.O_RDONLY)]
unlinked = os.open(os.path.join(folder, "unlinked"), os.O_RDWR | os.O_CREAT)
os.write(unlinked, b"x" * PAGE)
memory(1, 3, 0x02, unlinked)
os.unlink(os.path.join(folder, "unlinked"))
for number in range(300):
    keep.append(os.open("/dev/null", os.O_RDWR))
    os.set_inheritable(keep[-1], number % 3 == 0)
keep += [os.open(folder, os.O_RDONLY | os.O_DIRECTORY), os.open("/dev/null", 0o10000000)]

# What is no file.
keep += [os.pipe() for _ in range(100)]
keep += [socket.socketpair() for _ in range(50)]
keep += [socket.socket(family, kind) for family in (socket.AF_INET, socket.AF_INET6) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
keep.append(os.memfd_create("memory"))
events = os.eventfd(7, os.EFD_NONBLOCK)
poll = select.epoll()
poll.register(events)
keep += [libc.timerfd_create(1, 0), libc.inotify_init(), os.pidfd_open(os.getpid())]
uffd = libc.syscall(323, 0)
fcntl.fcntl(uffd, fcntl.F_SETFD, 0)

# Signals.
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGRTMAX])
os.kill(os.getpid(), signal.SIGTERM)
signal.pthread_kill(threading.get_ident(), signal.SIGRTMAX)
stack = (ctypes.c_uint64 * 3)(memory(16), 0, 16 * PAGE)
libc.sigaltstack(stack, None)
libc.prctl(1, signal.SIGHUP)


def sleeper(number):
    libc.prctl(15, b"thread %d" % number)
    signal.pthread_sigmask(signal.SIG_BLOCK, [1 + number % 31])
    if number == 0:
        libc.unshare(0x400)  # a descriptor table of its own
        libc.close(events)
    time.sleep(10000)


for number in range(40):
    threading.Thread(target=sleeper, args=(number,), daemon=True).start()

# Children: one that shares all files and has its own session, a stopped one, two zombies.
if os.fork() == 0:
    os.setsid()
    os.lseek(keep[1], 9, os.SEEK_SET)
    time.sleep(10000)
stopped = os.fork()
if stopped == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(stopped, os.WUNTRACED)
if os.fork() == 0:
    os._exit(7)
killed = os.fork()
if killed == 0:
    time.sleep(10000)
os.kill(killed, signal.SIGKILL)
time.sleep(0.5)
print("ready", hex(stack[0]), stack[2], flush=True)
sys.stdin.read()
os.killpg(os.getpgid(0), signal.SIGKILL)
