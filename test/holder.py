#!/usr/bin/env python3
"""Opens files and keeps them open, to see what may be done with them later.

holder.py TURNS PATH=TEXT...

TURNS is a FIFO. At each line in it TEXT is written to each PATH, and a line says how that
went: "ok" or the name of the errno, a word for each. The line "end" closes them all.
"""

import errno
import os
import sys


def write(fd, text):
    try:
        os.write(fd, text.encode() + b"\n")
        return "ok"
    except OSError as e:
        return errno.errorcode[e.errno]


held = [(os.open(path, os.O_WRONLY), text) for path, text in (a.split("=", 1) for a in sys.argv[2:])]
print("open", flush=True)
for turn in open(sys.argv[1]):
    if turn == "end\n":
        break
    print(*(write(fd, text) for fd, text in held), flush=True)
