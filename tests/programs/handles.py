"""Has a worker, hands a pipe over to it (a descriptor in a message), and logs to a socket of syslog's kind."""

import logging
import logging.handlers
import multiprocessing
import os
import sys
import time
from multiprocessing import reduction

directory, syslog = sys.argv[1:3]
log = logging.getLogger()
log.addHandler(logging.handlers.SysLogHandler(address=syslog))
log.setLevel(logging.INFO)


def wait_for(name):
    while not os.path.exists(os.path.join(directory, name)):
        time.sleep(0.02)


def publish(name):
    open(os.path.join(directory, name), "w").close()


def work(connection):
    wait_for("go")
    handle = reduction.recv_handle(connection)
    log.info("worker read %s", os.read(handle, 100).decode())


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    ours, theirs = multiprocessing.Pipe()
    worker = multiprocessing.Process(target=work, args=(theirs,))
    worker.start()
    read, write = os.pipe()
    os.write(write, b"what was handed over")
    reduction.send_handle(ours, read, worker.pid)
    os.close(read)
    os.close(write)
    log.info("ready")
    publish("ready")
    worker.join()
    log.info("worker ended with %d", worker.exitcode)
    publish("done")
    wait_for("end")
