"""The files of boxes, for the scripts here whose first argument is the directory
boxes/ of a mount."""

import os
import sys

BOXES = sys.argv[1]


def path(name, file):
    return "%s/%s/%s" % (BOXES, name, file)


def read(name, file):
    fd = os.open(path(name, file), os.O_RDONLY)
    try:
        return os.read(fd, 1 << 16).decode().strip()
    finally:
        os.close(fd)


def write(name, file, text):
    fd = os.open(path(name, file), os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)  # the close says how it ended
