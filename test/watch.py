"""What an inotify watcher sees, by the bare system calls.

watch.py follow BOX ROUNDS   changes last_error and status of a box at random, in a
                             rush, and reads each file at its events and at no other
                             time: in each of the rounds the last thing that it has
                             read has to become the last state
watch.py death BOX ROUNDS    kills the box's shim, and prints the times in ms from there
                             until `stopped` has been read at an event
watch.py until FILE TEXT     reads FILE at its events until it is TEXT
"""

import ctypes
import os
import random
import select
import signal
import sys
import threading
import time

MODIFY = 0x2
BOUND = 10
libc = ctypes.CDLL(None, use_errno=True)


def text(path):
    with open(path) as f:
        return f.read().rstrip("\n")


def command(box, line):
    """Writes to ctl; an error of the write or of the close is the caller's to expect."""
    fd = os.open(box + "/ctl", os.O_WRONLY)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


class Watch:
    """A watch on one file, which is read once, and then at its events."""

    def __init__(self, path):
        self.path = path
        self.fd = libc.inotify_init1(os.O_CLOEXEC)
        if self.fd < 0 or libc.inotify_add_watch(self.fd, path.encode(), MODIFY) < 0:
            raise OSError(ctypes.get_errno(), path)
        self.last = text(path)

    def step(self, seconds):
        """Waits for events, and reads the file if there are any."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        os.read(self.fd, 65536)
        self.last = text(self.path)
        return True

    def until(self, want):
        end = time.monotonic() + BOUND
        while self.last != want:
            left = end - time.monotonic()
            if left <= 0 or not self.step(left):
                sys.exit("%s: after the last event it was %r, but it is %r, and should be %r"
                         % (self.path, self.last, text(self.path), want))


def follow(box, rounds):
    seed = int(os.environ.get("SEED") or time.time())
    print("seed", seed)
    rand = random.Random(seed)
    status, error = Watch(box + "/status"), Watch(box + "/last_error")

    def change(n):
        for i in range(rand.randrange(1, 6)):
            if rand.random() < 0.5:
                try:
                    command(box, "no%d.%d" % (n, i))
                except OSError:
                    pass  # it is refused, and that is what changes last_error
            else:
                command(box, rand.choice(("start", "kill", "stop 0s", "start\nkill\nstart")))

    for n in range(rounds):
        t = threading.Thread(target=change, args=(n,))
        t.start()
        while t.is_alive():
            for w in (status, error):
                w.step(0.0005)
        t.join()
        # What was written is carried out, so this is the truth.
        for w in (status, error):
            w.until(text(w.path))
    command(box, "kill")
    status.until("stopped")


def death(box, rounds):
    status = Watch(box + "/status")
    for _ in range(rounds):
        command(box, "start")
        status.until("running")
        pid = int(text(box + "/pid"))
        # What is still to come of the start belongs to it.
        while status.step(0.02):
            pass
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        status.until("stopped")
        print("%.2f" % ((time.monotonic() - began) * 1000))


def until(path, want):
    w = Watch(path)
    print("watching", flush=True)
    w.until(want)


what, where, arg = sys.argv[1:4]
{"follow": lambda: follow(where, int(arg)), "death": lambda: death(where, int(arg)), "until": lambda: until(where, arg)}[what]()
