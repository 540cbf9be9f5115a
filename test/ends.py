"""The ends of daemon, notifier and client in every order, by SIGKILL.

ends.py BOXLITED SHIM MOUNT STATE ROUNDS

In each round a daemon starts over what the last one left, a client changes, reads
and watches without end, and the three are killed at random moments in random order.
Then no request may be left waiting, no process but shims, and the dead mount says
ENOTCONN at once. $SEED repeats a run.
"""

import ctypes
import errno
import glob
import os
import random
import signal
import subprocess
import sys
import time

boxlited, shim, mount, state, rounds = sys.argv[1:6]
seed = int(os.environ.get("SEED") or time.time())
print("seed", seed, flush=True)
rand = random.Random(seed)
BOUND = 10
CLIENT = """
inotifywait -q -m "$1" "$1/status" >/dev/null 2>&1 &
while :; do /bin/echo start >"$1/ctl"; cat "$1/status" "$1/last_error"; /bin/echo kill >"$1/ctl"; done
"""


# What the daemons leave becomes this process's, and is reaped by the kernel: the
# first process of a machine may take its time, and a zombie counts as a leak.
if ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) != 0:  # PR_SET_CHILD_SUBREAPER
    sys.exit("prctl")
signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def popen(argv, **kw):
    return subprocess.Popen(argv, preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_DFL), **kw)


def await_(what, ok):
    end = time.monotonic() + BOUND
    while not ok():
        if time.monotonic() > end:
            sys.exit("gave up after %d s: waiting for %s" % (BOUND, what))
        time.sleep(0.002)


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ESRCH):
            return ""
        raise


def minor():
    """The number of the mount's connection; a look at the mount itself might hang."""
    found = [line.split()[2].split(":")[1] for line in read("/proc/self/mountinfo").splitlines() if line.split()[4] == mount]
    return found[-1] if found else None


def living(ok):
    """The processes that have not ended and of which ok(pid, fields of stat) is true."""
    out = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        fields = read("/proc/%s/stat" % pid).rpartition(")")[2].split()
        if fields and fields[0] not in "ZX" and ok(pid, fields):
            out.append(int(pid))
    return out


def runs_boxlited(pid, _):
    try:
        return os.readlink("/proc/%s/exe" % pid) == boxlited
    except OSError:
        return False


def kill_notifier(daemon):
    """Kills the notifier, if there is one and its daemon lives, and says how many."""
    killed = 0
    for pid in [pid for path in glob.glob("/proc/%d/task/*/children" % daemon) for pid in read(path).split()]:
        if read("/proc/%s/comm" % pid) == "boxlite-notify\n":
            try:
                os.kill(int(pid), signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass  # it was faster
    return killed


def answers():
    try:
        with open(mount + "/version") as f:
            return f.read() != ""
    except OSError:
        return False


def start():
    daemon = popen([boxlited, "--mount", mount, "--state", state, "--shim", shim])
    await_("the daemon", lambda: daemon.poll() is not None or answers())
    if daemon.poll() is not None:
        sys.exit("the daemon ended with %d" % daemon.returncode)
    return daemon


def pause():
    time.sleep(rand.random() * 0.01)


replaced = 0
for n in range(int(rounds)):
    daemon = start()
    connection = minor()
    if not os.path.isdir(mount + "/boxes/x"):
        os.mkdir(mount + "/boxes/x")
        with open(mount + "/boxes/x/config.yaml", "w") as f:
            f.write("command: [sleep, infinity]")
    client = popen(
        ["sh", "-c", CLIENT, "sh", mount + "/boxes/x"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    pause()
    pause()
    order = ["daemon", "notifier", "client"]
    rand.shuffle(order)
    for victim in order:
        pause()
        if victim == "daemon":
            daemon.kill()
        elif victim == "client":
            os.killpg(client.pid, signal.SIGKILL)
        else:
            replaced += kill_notifier(daemon.pid)
    where = "round %d of seed %d (%s): " % (n, seed, ", ".join(order))
    await_(where + "the daemon to end", lambda: daemon.poll() is not None)
    await_(where + "the client to end", lambda: client.poll() is not None)
    await_(where + "their processes to go", lambda: not living(
        lambda pid, fields: int(fields[2]) == client.pid or runs_boxlited(pid, fields)))
    await_(where + "the requests to end", lambda: read("/sys/fs/fuse/connections/%s/waiting" % connection).strip() in ("", "0"))
    try:
        os.stat(mount + "/version")
        sys.exit(where + "the mount answers")
    except OSError as e:
        if e.errno != errno.ENOTCONN:
            sys.exit("%sthe dead mount says %s" % (where, e))

signal.signal(signal.SIGCHLD, signal.SIG_DFL)
daemon = start()
fd = os.open(mount + "/boxes/x/ctl", os.O_WRONLY)
os.write(fd, b"kill")
os.close(fd)
daemon.terminate()
if daemon.wait(BOUND) != 0 or living(runs_boxlited):
    sys.exit("the last daemon ended with %s and left %s" % (daemon.returncode, living(runs_boxlited)))
if not replaced:
    sys.exit("no notifier was ever killed before its daemon")
