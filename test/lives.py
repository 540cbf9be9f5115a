"""Boxes that live and end all the time, each with an exit code that only its run has.

usage: lives.py BOXES COUNT

COUNT boxes start and end beside each other until standard input is at its end. Every
other run is killed, the rest exit by themselves. What a box says of each of its ends
is compared with what must have come of it; a difference ends the program with a
message and 1. Else it prints the number of lives.
"""

import os
import sys
import threading

from boxes import BOXES, read, write

COUNT = int(sys.argv[2])
over, failures, lives = threading.Event(), [], []


def live(name, code, killed):
    write(name, "config.yaml", "command: [sh, -c, '%s']\n" % ("exec sleep 1000" if killed else "exit %d" % code))
    write(name, "ctl", "start\n")
    if killed:
        try:
            write(name, "ctl", "kill\n")
        except TimeoutError:
            pass  # the daemon was made to stand for longer than a kill is given
        code = 137
    got = read(name, "wait/stopped")
    assert got == str(code), "%s: exit code %s, not %d: %s" % (name, got, code, read(name, "last_error"))
    ends = [line for line in read(name, "events").splitlines() if " reaped " in line]
    assert ends[-1].endswith(" outcome=reaped"), "%s: %s" % (name, ends[-1])


def box(number):
    name, n = "life%d" % number, 0
    os.mkdir("%s/%s" % (BOXES, name))
    while not over.is_set() and not failures:
        live(name, (n * COUNT + number) % 125 + 1, n % 2 == 1)
        lives.append(1)
        n += 1
    os.rmdir("%s/%s" % (BOXES, name))


def go(number):
    try:
        box(number)
    except (AssertionError, OSError) as e:
        failures.append(str(e))


threads = [threading.Thread(target=go, args=(i,)) for i in range(COUNT)]
for t in threads:
    t.start()
sys.stdin.read()
over.set()
for t in threads:
    t.join()
if failures:
    sys.exit("\n".join(failures))
print(len(lives))
