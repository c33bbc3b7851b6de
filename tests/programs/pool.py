"""A pool of processes and one of threads, with a queue, a shared value and a manager between them."""

import concurrent.futures as futures
import multiprocessing


def work(number):
    return sum(i * i for i in range(number % 5000))


if __name__ == "__main__":
    value, queue = multiprocessing.Value("i", 0), multiprocessing.Queue()
    shared = multiprocessing.Manager().dict()
    with futures.ProcessPoolExecutor(2) as processes, futures.ThreadPoolExecutor(3) as threads:
        number = 0
        while True:
            numbers = range(number, number + 10)
            assert list(processes.map(work, numbers)) == list(threads.map(work, numbers))
            queue.put(number)
            assert queue.get() == number
            shared["number"] = number
            assert shared["number"] == number
            with value.get_lock():
                value.value += 1
            number += 1
            assert value.value == number
            print(number, flush=True)
