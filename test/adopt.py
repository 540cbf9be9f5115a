"""Many boxes that outlive their daemon.

usage: adopt.py BOXES up COUNT FILE     makes and starts COUNT boxes, and notes their
                                        pids and the sizes of their logs in FILE
       adopt.py STATE end COUNT FILE    without a daemon: makes every tenth of them end,
                                        each with a code of its own, and waits for the
                                        logs of the others to grow, in STATE/boxes
       adopt.py BOXES check COUNT FILE  the others still run, with the pids that they
                                        had, and their logs have grown and go on to
                                        grow; of those that ended the code is known
"""

import json
import os
import signal
import sys
import time

from boxes import BOXES, path, read, write

WHAT, COUNT, NOTES = sys.argv[2], int(sys.argv[3]), sys.argv[4]
NAMES = ["a%03d" % i for i in range(COUNT)]
ENDING = {name: i % 250 + 1 for i, name in enumerate(NAMES) if i % 10 == 0}
CONFIG = """command:
  - sh
  - -c
  - 'trap "exit %d" USR1; while :; do echo tick; sleep 1 & wait $!; done'
"""


def log(name):
    return path(name, "log")


def is_now(name, file, want):
    got = read(name, file)
    if got != want:
        sys.exit("%s of %s is %r, not %r; last_error: %s" % (file, name, got, want, read(name, "last_error")))


def grows(size, path):
    end = time.monotonic() + 10
    while os.stat(path).st_size <= size:
        if time.monotonic() > end:
            sys.exit("%s does not grow" % path)
        time.sleep(0.02)


def up():
    for name in NAMES:
        os.mkdir(BOXES + "/" + name)
        write(name, "config.yaml", CONFIG % ENDING.get(name, 1))
        write(name, "ctl", "start\n")
    notes = {}
    for name in NAMES:
        grows(0, log(name))
    for name in NAMES:
        notes[name] = int(read(name, "pid")), os.stat(log(name)).st_size
    with open(NOTES, "w") as f:
        json.dump(notes, f)


def end(notes):
    for name in ENDING:
        shim = notes[name][0]
        # Its only child that is a shell; a sleep is the shell's.
        os.kill(min(children(shim)), signal.SIGUSR1)
    for name in ENDING:
        bound = time.monotonic() + 10
        while alive(notes[name][0]):
            if time.monotonic() > bound:
                sys.exit("%s does not end" % name)
            time.sleep(0.02)
    for name, (_, size) in notes.items():
        if name not in ENDING:
            grows(size, "%s/boxes/%s/log.%020d" % (BOXES, name, 0))


def children(pid):
    out = []
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/children" % (pid, task)) as f:
            out += map(int, f.read().split())
    return out


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def check(notes):
    sizes = {}
    for name, (pid, size) in notes.items():
        if name in ENDING:
            for file, want in ("status", "stopped"), ("wait/stopped", ENDING[name]), ("exit_code", ENDING[name]), ("pid", -1):
                is_now(name, file, str(want))
            continue
        is_now(name, "status", "running")
        is_now(name, "pid", str(pid))
        is_now(name, "last_error", "ok")
        sizes[name] = os.stat(log(name)).st_size
        if sizes[name] <= size:
            sys.exit("the log of %s has not grown while no daemon ran" % name)
    for name, size in sizes.items():
        grows(size, log(name))


if WHAT == "up":
    up()
else:
    with open(NOTES) as f:
        {"end": end, "check": check}[WHAT](json.load(f))
