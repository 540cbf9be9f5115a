"""A pid that is used again, while no daemon runs, by a process that has nothing to do
with a box.

usage: reuse.py BOXLITED SHIM DIR CASE

It has to be the first process of a pid namespace of its own (unshare --pid --fork
--mount-proc): there it is free to choose the next pid, and takes in the shims that a
killed daemon leaves. It ends with a message and 1 when something is wrong.

CASE says what is done to the record of the box while there is no daemon:
    plain    nothing: pidfd inode and start time both differ
    tick     the start time is made that of the stranger, as it is for two processes of
             the same 10 ms: only the inode tells them apart
    noinode  the inode is taken out, as an old kernel had none: the start time decides
    name     both: only that a shim names itself so tells it from the stranger
    alive    the shim is not killed and no stranger comes: the box is found again
    named    so it is by its start time and its name, where the record has no inode
"""

import json
import os
import signal
import subprocess
import sys
import time

BOXLITED, SHIM, DIR, CASE = sys.argv[1:]
MNT, STATE = DIR + "/mnt", DIR + "/state"
BOX = MNT + "/boxes/x"
ALIVE = CASE in ("alive", "named")


def check(ok, what):
    if not ok:
        sys.exit("FAIL: " + what)


def until(what, ok, seconds=10):
    end = time.monotonic() + seconds
    while not ok():
        check(time.monotonic() < end, "gave up waiting for " + what)
        time.sleep(0.005)


def read(file):
    with open(BOX + "/" + file) as f:
        return f.read().strip()


def command(text):
    fd = os.open(BOX + "/ctl", os.O_WRONLY)
    os.write(fd, text.encode() + b"\n")
    os.close(fd)


def status(pid):
    try:
        with open("/proc/%d/status" % pid) as f:
            return dict(line.rstrip("\n").split(":\t", 1) for line in f)
    except (FileNotFoundError, ProcessLookupError):
        return {}


def ticks(pid):
    with open("/proc/%d/stat" % pid) as f:
        return int(f.read().rsplit(")", 1)[1].split()[19])


def daemon():
    log = open(DIR + "/daemon.log", "a")
    d = subprocess.Popen([BOXLITED, "--mount", MNT, "--state", STATE, "--shim", SHIM, "--log-level", "debug"],
                         stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def up():
        check(d.poll() is None, "the daemon ended with %s" % d.returncode)
        try:
            with open(MNT + "/version") as f:
                return f.read() != ""
        except OSError:  # not there yet, or what the last one left is
            return False

    until("the daemon", up)
    return d


def stranger(pid):
    """Makes a process with that pid, which notes every signal that it can."""
    for _ in range(1000):
        with open("/proc/sys/kernel/ns_last_pid", "w") as f:
            f.write(str(pid - 1))
        child = os.fork()
        if child == 0:
            # What is blocked stays pending, for all to see.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            while True:
                time.sleep(1000)
        if child == pid:
            until("the stranger to be ready", lambda: status(pid)["SigBlk"].startswith("fffffff"))
            return
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    sys.exit("FAIL: pid %d cannot be had again" % pid)


def unharmed(pid, when):
    s = status(pid)
    check(s.get("State", "gone")[0] == "S", "%s the stranger is %s" % (when, s.get("State", "gone")))
    for pending in "SigPnd", "ShdPnd":
        check(int(s[pending], 16) == 0, "%s the stranger has got signals %s" % (when, s[pending]))


def main():
    check(os.getpid() == 1, "this is not the first process of a pid namespace")
    d = daemon()
    os.mkdir(BOX)
    with open(BOX + "/config.yaml", "w") as f:
        f.write("command: [sleep, infinity]\n")
    command("start")
    pid = int(read("pid"))
    check(status(pid)["PPid"] == str(d.pid), "the shim is not the daemon's child")

    d.kill()
    d.wait()
    record = STATE + "/boxes/x/shim.json"
    if not ALIVE:
        os.kill(pid, signal.SIGKILL)
        got, _ = os.waitpid(pid, 0)  # an orphan of the daemon: it is ours
        check(got == pid, "the shim is not ours")
        stranger(pid)
    with open(record) as f:
        live = json.load(f)
    check(live["identity"]["pid"] == pid, "the record is of another process")
    if CASE in ("tick", "name"):
        live["identity"]["start_ticks"] = ticks(pid)
    if CASE in ("noinode", "name", "named"):
        live["identity"].pop("pidfd_inode", None)  # an old kernel has none
    with open(record, "w") as f:
        json.dump(live, f)

    d = daemon()
    if ALIVE:
        check(read("status") == "running" and int(read("pid")) == pid, "a box that lives is not found again")
        command("kill")
        check(os.waitpid(pid, 0)[0] == pid, "the shim is not ours")
    else:
        unharmed(pid, "when the next daemon has started")
    check(read("status") == "stopped", "the box is " + read("status"))
    check(read("pid") == "-1", "the box has the pid " + read("pid"))
    for text in "kill", "stop", "kill":
        command(text)
        if not ALIVE:
            unharmed(pid, "after a " + text)
    check(read("status") == "stopped", "the box is " + read("status"))
    # It starts again, beside the stranger, and is ended again.
    command("start")
    again = int(read("pid"))
    check(again != pid or ALIVE, "the new run has the stranger's pid")
    command("kill")
    check(not status(again), "the new run is still there")
    if not ALIVE:
        unharmed(pid, "after another run")
    os.rmdir(BOX)
    d.send_signal(signal.SIGTERM)
    check(d.wait(10) == 0, "the daemon ended with %s" % d.returncode)
    if not ALIVE:
        unharmed(pid, "after the end of the daemon")
    print("pid %d, %s: ok" % (pid, CASE))


main()
