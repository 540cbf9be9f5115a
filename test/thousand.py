"""A thousand boxes at once, driven and watched through the control filesystem.

usage: thousand.py BOXES start COUNT      makes and starts COUNT boxes
       thousand.py BOXES killall COUNT    SIGKILLs all their shims, and waits until
                                          each is gone and said to be; beside it a
                                          client reads the status of the box "other"
       thousand.py BOXES again COUNT      starts them again
       thousand.py BOXES remove COUNT     removes them

killall prints one line: the milliseconds until the last shim was gone from /proc,
until the last status was right; of the reads beside it in the second that begins with
the first kill how many there were, the 99th percentile and the slowest in
microseconds; and how many processes of others wanted a processor just before, in
percent of the processors (half of one is its own client).
"""

import os
import select
import signal
import sys
import threading
import time

from boxes import BOXES, read, write

WHAT, COUNT = sys.argv[2], int(sys.argv[3])
NAMES = ["b%04d" % i for i in range(COUNT)]


def each(work):
    """Does the work for every box, by a few threads, which mostly wait."""
    names, errors = iter(NAMES), []
    lock = threading.Lock()

    def some():
        while True:
            with lock:
                name = next(names, None)
            if name is None or errors:
                return
            try:
                work(name)
            except OSError as e:
                errors.append("%s: %s" % (name, e))

    threads = [threading.Thread(target=some) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        sys.exit("\n".join(errors))


def start(name):
    os.mkdir(BOXES + "/" + name)
    write(name, "config.yaml", "command: [sleep, infinity]\n")
    again(name)


def again(name):
    write(name, "ctl", "start\n")


def remove(name):
    os.rmdir(BOXES + "/" + name)


def observe(pipe):
    """Reads the status of another box, a read a millisecond, until its parent says
    which second counts, and prints how long the reads of that took."""
    reads = []
    os.set_blocking(pipe, False)
    while True:
        try:
            first = float(os.read(pipe, 64))
            break
        except BlockingIOError:
            pass
        began = time.monotonic()
        text = read("other", "status")
        reads.append((began, time.monotonic()))
        if text != "running":
            sys.exit("the other box is " + text)
        time.sleep(0.001)  # a client, not a load
    times = sorted(end - began for began, end in reads if first <= end and began < first + 1)
    us = [round(t * 1e6) for t in times]
    print(len(us), us[len(us) * 99 // 100], us[-1], flush=True)


def killall():
    pids = {name: int(read(name, "pid")) for name in NAMES}
    assert len(set(pids.values())) == COUNT and min(pids.values()) > 1, "pids"
    told_r, told_w = os.pipe()
    halt_r, halt_w = os.pipe()
    observer = os.fork()
    if observer == 0:
        os.close(halt_w)
        os.dup2(told_w, 1)
        try:
            observe(halt_r)
        except BaseException as e:
            print("observer: %s" % e, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(told_w)
    others, looks = 0, 200
    for _ in range(looks):
        with open("/proc/loadavg") as f:
            others += int(f.read().split()[3].split("/")[0]) - 1
        time.sleep(0.001)

    # A pidfd hangs up when its process has been reaped. To wait for that costs
    # nothing, where looking into /proc again and again would keep a processor busy.
    poll = select.epoll(COUNT)
    fds = {}
    for pid in pids.values():
        fd = os.pidfd_open(pid)
        fds[fd] = pid
        poll.register(fd, 0)

    began = time.monotonic()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    while fds:
        ended = poll.poll(30, COUNT)
        if not ended:
            sys.exit("%d shims are not reaped after 30 s: %s" % (len(fds), list(fds.values())[:10]))
        for fd, _ in ended:
            poll.unregister(fd)
            os.close(fd)
            del fds[fd]
    left = [pid for pid in pids.values() if os.path.exists("/proc/%d" % pid)]
    if left:
        sys.exit("%d shims are still in /proc: %s" % (len(left), left[:10]))
    gone = time.monotonic() - began
    for name in NAMES:
        if read(name, "status") != "stopped":
            read(name, "wait/stopped")  # blocks
            got = read(name, "status")
            if got != "stopped":
                sys.exit("%s is %s" % (name, got))
    right = time.monotonic() - began
    time.sleep(max(0, 1 - right))
    os.write(halt_w, b"%r" % began)
    for name in NAMES:
        got = read(name, "status"), read(name, "pid"), read(name, "exit_code"), read(name, "health")
        if got != ("stopped", "-1", "137", "unhealthy"):
            sys.exit("%s: %s" % (name, got))
    with os.fdopen(told_r) as f:
        reads = f.read().strip()
    if os.waitpid(observer, 0)[1] != 0:
        sys.exit("the client beside it failed")
    print(round(gone * 1000), round(right * 1000), reads, max(0, round(100 * others / looks / os.cpu_count()) - 50))


if WHAT == "killall":
    killall()
else:
    each({"start": start, "again": again, "remove": remove}[WHAT])
