"""Many execs of one box at once.

usage: execs.py EXECS crowd     100 execs, each fed and read at once; a slow reader,
                                clients that are killed in the middle

EXECS is the exec/ of a box that runs. It ends with a message and 1 when something is
wrong, else it prints what it has measured.
"""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

EXECS = sys.argv[1]
COUNT = 100
SIZE = 1 << 20


def path(name, file=""):
    return os.path.join(EXECS, name, file)


def write(name, file, data):
    fd = os.open(path(name, file), os.O_WRONLY | os.O_TRUNC)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def read(name, file):
    fd = os.open(path(name, file), os.O_RDONLY)
    try:
        parts = []
        while True:
            part = os.read(fd, 1 << 17)
            if not part:
                return b"".join(parts)
            parts.append(part)
    finally:
        os.close(fd)


def check(ok, what):
    if not ok:
        sys.exit("FAIL: " + what)


def begin(name, cmd):
    os.mkdir(path(name))
    write(name, "cmd", cmd)


def parallel(calls):
    errors = []

    def run(call):
        try:
            call()
        except BaseException as e:  # all that went wrong is told
            errors.append(repr(e))

    threads = [threading.Thread(target=run, args=(c,)) for c in calls]
    for t in threads:
        t.start()
    for t in threads:
        t.join(50)
        check(not t.is_alive(), "hangs")
    check(not errors, "; ".join(errors[:3]))


def round_trip(i):
    name = f"e{i}"
    data = hashlib.sha256(str(i).encode()).digest() * (SIZE // 32)
    feeder = threading.Thread(target=write, args=(name, "stdin", data))
    feeder.start()
    got = read(name, "stdout")
    feeder.join()
    check_that(got == data, f"{name} gave {len(got)} bytes, other ones")
    check_that(read(name, "wait/stopped") == b"0\n", f"exit code of {name}")


def check_that(ok, what):
    if not ok:
        raise AssertionError(what)


def crowd():
    # The slow one: nobody reads it.
    begin("slow", b"yes")
    t0 = time.monotonic()
    parallel([lambda i=i: begin(f"e{i}", b"cat") for i in range(COUNT)])
    t1 = time.monotonic()
    parallel([lambda i=i: round_trip(i) for i in range(COUNT)])
    t2 = time.monotonic()
    for i in range(COUNT):
        os.rmdir(path(f"e{i}"))

    # Clients that are killed in the middle of either, again and again: the rest comes.
    begin("victim", b"cat")
    keep = os.open(path("victim", "stdin"), os.O_WRONLY)
    for _ in range(20):
        writer = subprocess.Popen(["sh", "-c", 'exec cat /dev/zero >"$1"', "sh", path("victim", "stdin")])
        reader = subprocess.Popen(["cat", path("victim", "stdout")], stdout=subprocess.PIPE)
        reader.stdout.read(200000)
        for p in (writer, reader):
            p.send_signal(signal.SIGKILL)
        for p in (writer, reader):
            p.wait(5)
        reader.stdout.close()
    os.close(keep)
    read("victim", "stdout")
    check(read("victim", "wait/stopped") == b"0\n", "exit code of the victim")

    check(os.read(os.open(path("slow", "stdout"), os.O_RDONLY), 4) == b"y\ny\n", "the slow one")
    write("slow", "ctl", b"kill\n")
    check(read("slow", "wait/stopped") == b"137\n", "exit code of the slow one")
    print(f"{COUNT} begun in {t1 - t0:.3f} s, {COUNT} MiB through them in {t2 - t1:.3f} s")


crowd()
