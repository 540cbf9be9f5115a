"""Readers of the blocking files: a crowd of them, and slow ones.

usage: waiters.py BOXES crowd CONNECTION DAEMON   1,000 readers blocked on 100 boxes
       waiters.py BOXES events BOX FILE DAEMON    slow readers of FILE while events come
       waiters.py BOXES log BOX DAEMON            slow readers of wait/log while a log grows
       waiters.py BOXES graves COUNT              boxes that are removed under their readers

CONNECTION is the directory of the mount in /sys/fs/fuse/connections, DAEMON the pid of
the daemon. Each ends with a message and 1 when an answer is wrong, else it prints
what it has measured.
"""

import json
import os
import queue
import re
import select
import signal
import sys
import tempfile
import threading
import time

from boxes import BOXES, path, read, write

COUNT = 100
LINES = 300
CAT = 1 << 17  # what cat asks for at once


def check(ok, what):
    if not ok:
        sys.exit("FAIL: " + what)


def until(what, ok, seconds=30):
    end = time.monotonic() + seconds
    while not ok():
        check(time.monotonic() < end, "gave up waiting for " + what)
        time.sleep(0.005)


def rss(pid):
    """KiB"""
    with open("/proc/%s/status" % pid) as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


def blocked(connection):
    """Requests that have no answer yet."""
    with open(connection + "/waiting") as f:
        return int(f.read())


def p99(times):
    us = sorted(round(t * 1e6) for t in times)
    return us[len(us) * 99 // 100], us[-1]


class Child:
    """A process that runs work(), whose result comes back as JSON."""

    def __init__(self, name, work):
        self.name, self.file = name, tempfile.TemporaryFile()
        self.ready, ready = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.close(self.ready)
                text = json.dumps(work(lambda: os.close(ready)))
                self.file.write(text.encode())
                self.file.flush()
            except BaseException as e:
                print("FAIL: %s: %r" % (name, e), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        os.close(ready)

    def await_ready(self):
        check(select.select([self.ready], [], [], 60)[0], self.name + " is not ready")
        os.close(self.ready)

    def result(self, seconds=60):
        fd = os.pidfd_open(self.pid)
        check(select.select([fd], [], [], seconds)[0], "%s does not end" % self.name)
        os.close(fd)
        _, status = os.waitpid(self.pid, 0)
        check(status == 0, "%s ended with status %d" % (self.name, status))
        self.file.seek(0)
        return json.loads(self.file.read())

    def killed(self, sig):
        os.kill(self.pid, sig)
        fd = os.pidfd_open(self.pid)
        check(select.select([fd], [], [], 10)[0], "%s survives a SIG%s" % (self.name, sig.name))
        os.close(fd)
        check(os.waitpid(self.pid, 0)[1] & 127 == sig, "%s did not die of SIG%s" % (self.name, sig.name))


def readers(plan):
    """A thread for each (box, file) of the plan, each with a descriptor of its own,
    which reads to the end. The result is what each read has given."""

    def work(ready):
        got = [[] for _ in plan]
        fds = [os.open(p, os.O_RDONLY) for p in plan]

        def one(i):
            try:
                while text := os.read(fds[i], CAT):
                    got[i].append(text.decode())
                    if plan[i].startswith(BOXES + "/../") and " last created\n" in got[i][-1]:
                        return
            except OSError as e:
                got[i].append(repr(e))

        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(plan))]
        for t in threads:
            t.start()
        ready()
        for t in threads:
            t.join()
        return got

    return work


def each(names, work):
    """Does the work for every box, by a few threads, which mostly wait."""
    todo, errors = queue.SimpleQueue(), []
    for name in names:
        todo.put(name)

    def some():
        try:
            while not errors:
                work(todo.get_nowait())
        except queue.Empty:
            pass
        except BaseException as e:
            errors.append(repr(e))

    threads = [threading.Thread(target=some) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(not errors, "; ".join(errors))


def observer(halt):
    """Reads the status of another box, a read a millisecond."""

    def work(ready):
        ready()
        times = []
        while not select.select([halt], [], [], 0.001)[0]:
            began = time.monotonic()
            text = read("other", "status")
            times.append(time.monotonic() - began)
            if text != "running":
                raise RuntimeError("the other box is " + text)
        return times

    return work


# --- a crowd -----------------------------------------------------------------

NAMES = ["b%03d" % i for i in range(COUNT)]
NUMBER = {name: i for i, name in enumerate(NAMES)}


def config(name, code):
    # A child writes the lines: a signal that comes in the middle of a trap's loop
    # makes dash go around once more.
    return """command:
  - /bin/sh
  - -c
  - |
    n=0
    lines='i=$1; while [ $i -le $2 ]; do echo "$0 $i"; i=$((i + 1)); done'
    trap 'n=$((n + 100)); /bin/sh -c "$lines" %s $((n - 99)) $n' USR1
    trap 'exit %d' TERM
    echo ready
    sleep infinity &
    while :; do wait; done
""" % (name, code)


def crowd(connection, daemon):
    first = {name: 1 + i for name, i in NUMBER.items()}
    second = {name: 1 + COUNT + i for name, i in NUMBER.items()}

    def make(name):
        os.mkdir(BOXES + "/" + name)
        write(name, "config.yaml", config(name, first[name]))
        write(name, "ctl", "start\n")
        until(name + " to be ready", lambda: read(name, "log") == "ready")
        # A paused box is one whose wait/running blocks like all the others.
        write(name, "ctl", "pause\n")

    each(NAMES, make)
    small = rss(daemon)
    seen = {name: read(name, "events") for name in NAMES}
    began_at = int(open(BOXES + "/../events").read().splitlines()[-1].split()[0])

    # Four processes of about 250 readers. The last is stopped meanwhile: it would find
    # that a box has been running and is no more, and asks only for what stays true.
    files = ["wait/exit", "wait/stopped", "wait/log", "wait/event"]
    plans = [[] for _ in range(4)]
    for name, i in NUMBER.items():
        for k, file in enumerate(files):
            plans[(i + k) % 4].append(path(name, file))
            plans[(i + k + 1) % 4].append(path(name, file))
        plans[i % 3].extend([path(name, "wait/running")] * 2)
    check(sum(map(len, plans)) == 10 * COUNT, "the plan")
    victims = [[path(name, (files + ["wait/running"])[(i + k) % 5]) for name, i in NUMBER.items()] for k in range(2)]
    root = [BOXES + "/../wait/event"] * 10
    children = [Child("readers %d" % i, readers(plan)) for i, plan in enumerate(plans)]
    dying = [Child("victims %d" % i, readers(plan)) for i, plan in enumerate(victims)]
    rooted = Child("readers of all", readers(root))
    for child in children + dying + [rooted]:
        child.await_ready()
    total = 10 * COUNT + 2 * COUNT + len(root)
    until("%d readers to block" % total, lambda: blocked(connection) >= total)
    big = rss(daemon)

    halt_r, halt_w = os.pipe()
    beside = Child("the client beside it", observer(halt_r))
    beside.await_ready()
    os.kill(children[3].pid, signal.SIGSTOP)
    kept = {}

    def drive(name):
        write(name, "ctl", "resume\n")
        for lines in range(100, LINES + 1, 100):
            write(name, "ctl", "signal USR1\n")
            size = len("ready\n") + sum(len("%s %d\n" % (name, n)) for n in range(1, lines + 1))
            until("%d lines of %s" % (lines, name), lambda: os.stat(path(name, "log")).st_size >= size)
        write(name, "config.yaml", config(name, second[name]))
        # The next run begins at once; it has said something before anybody looks.
        write(name, "ctl", "restart\n")
        check(read(name, "status") == "running", name + " does not run again")
        until(name + " to be ready again", lambda: read(name, "log").endswith("\nready"))
        write(name, "ctl", "stop\n")
        kept[name] = read(name, "events")
        check(read(name, "exit_code") == str(second[name]), "exit code of " + name)
        os.rmdir(BOXES + "/" + name)

    began = time.monotonic()
    each(NAMES[:COUNT // 2], drive)
    for child, sig in zip(dying, (signal.SIGINT, signal.SIGKILL)):
        child.killed(sig)
    each(NAMES[COUNT // 2:], drive)
    os.mkdir(BOXES + "/last")
    os.kill(children[3].pid, signal.SIGCONT)
    got = [child.result() for child in children]
    took = time.monotonic() - began
    os.rmdir(BOXES + "/last")

    for plan, texts in zip(plans, got):
        for p, reads in zip(plan, texts):
            name, file = p.split("/")[-3], p.split("/")[-1]
            one, text = len(reads) == 1, "".join(reads)
            if file == "running":
                check(one and text == "running\n", "%s gave %r" % (p, reads))
            elif file == "exit":
                check(one and text == "%d\n" % first[name], "%s gave %r" % (p, reads))
            elif file == "stopped":
                check(one and text == "%d\n" % second[name], "%s gave %r" % (p, reads))
            elif file == "log":
                want = "".join("%s %d\n" % (name, n) for n in range(1, LINES + 1))
                check(text == want, "%s gave %d bytes instead of %d: …%r" % (p, len(text), len(want), text[-60:]))
            else:
                check(kept[name].startswith(seen[name]), "the events of %s do not go on" % name)
                *lines, last = text.splitlines()
                check("\n".join(lines) == kept[name][len(seen[name]) + 1:], "%s gave %r instead of %r" % (p, text, kept[name][len(seen[name]):]))
                check(last.endswith(" %s removed" % name), "the last of %s is %r" % (p, last))
    lost = 0
    for reads in rooted.result():
        text = "".join(reads)
        check(text.splitlines()[-1].endswith(" last created"), "the last event of all is %r" % text[-80:])
        lost += account(text, began_at)[1]

    os.write(halt_w, b"x")
    times = beside.result()
    slow, slowest = p99(times)
    until("no request to be left", lambda: blocked(connection) == 0)
    print("%d readers in %.1f s; %d reads of another status meanwhile: p99 %d us, slowest %d us;" % (10 * COUNT, took, len(times), slow, slowest),
          "readers of all events lost %d; the daemon had %d KiB, %d with the readers, has %d" % (lost, small, big, rss(daemon)))


# --- slow readers ------------------------------------------------------------


def account(text, seq):
    """Checks that the event lines go on from number seq: each is the next one, or
    comes after a line that says how many were lost. Returns the number of the last,
    how many were lost, and in how many lines that was said."""
    lost = said = 0
    for line in text.splitlines():
        words = line.split()
        if words[:4] == ["-", "-", "-", "lost"]:
            n = int(re.fullmatch(r"count=([1-9]\d*)", words[4]).group(1))
            seq, lost, said = seq + n, lost + n, said + 1
            continue
        check(words[0] == str(seq + 1), "after event %d comes %r" % (seq, line))
        seq += 1
    return seq, lost, said


def drain(fd, text=b""):
    """What is there by now: a read that would block ends it."""
    try:
        while more := os.read(fd, CAT):
            text += more
    except BlockingIOError:
        pass
    return text


def last_seq():
    return int(open(BOXES + "/../events").read().splitlines()[-1].split()[0])


def slow_events(box, file, daemon):
    keeps = 128 if file == "wait/event" else 1024
    file = path(box, file)
    began_at = last_seq()

    def burst(events):
        began = time.monotonic()
        while events > 0:
            write(box, "ctl", "kill\n" * min(events, 100))  # without a process: an event, and no more
            events -= 100
        return (time.monotonic() - began) * 1000

    alone = burst(5000)
    small = rss(daemon)
    seq = last_seq()
    check(seq >= began_at + 5000, "only %d events" % (seq - began_at))
    # What O_NONBLOCK makes of them is told at the open.
    *idle, dribble = [os.open(file, os.O_RDONLY | os.O_NONBLOCK) for _ in range(201)]
    taken, halt = [], threading.Event()

    def follow(ready):
        fd, text = os.open(file, os.O_RDONLY), b""
        ready()
        while not re.search(rb" configured\n", text[-4096:]):
            text += os.read(fd, CAT)
        return text.decode()

    def sip():
        while not halt.wait(0.001):
            try:
                taken.append(os.read(dribble, 1))
            except BlockingIOError:
                pass

    fast, stopped = Child("a fast reader", follow), Child("a stopped reader", follow)
    fast.await_ready()
    stopped.await_ready()
    os.kill(stopped.pid, signal.SIGSTOP)
    sipping = threading.Thread(target=sip)
    sipping.start()
    beside = burst(5000)
    after = last_seq()
    halt.set()
    sipping.join()
    texts = [os.read(fd, 1) for fd in idle]  # now each has its batch
    big = rss(daemon)

    for fd, text in zip(idle, texts):
        text = drain(fd, text).decode()
        end, lost, said = account(text, seq)
        check(end == after, "a reader that never read ends with %d, not %d" % (end, after))
        check(said == 1 and text.startswith("- - - lost count="), "a reader that never read is told %d times: %r" % (said, text[:60]))
        check(lost == after - seq - keeps, "it lost %d of %d" % (lost, after - seq))
    text = drain(dribble, b"".join(taken)).decode()
    end, missed, said = account(text, seq)
    check(end == after and said >= 1, "a reader of a byte now and then ends with %d, not %d; it was told %d times" % (end, after, said))
    # From here on nobody is slow.
    burst(10)
    for fd in idle + [dribble]:
        end, lost, _ = account(drain(fd).decode(), after)
        check(end == last_seq() and lost == 0, "a reader that has caught up loses %d" % lost)
        os.close(fd)

    os.kill(stopped.pid, signal.SIGCONT)
    write(box, "config.yaml", "command: [echo, again]\n")
    told = []
    for child in fast, stopped:
        end, lost, said = account(child.result(), seq)
        check(end >= last_seq() - 1, "%s ends with %d, not %d" % (child.name, end, last_seq()))
        told.append((lost, said))
    check(told[1][1] == 1, "a stopped reader is told %d times what it lost" % told[1][1])
    check(big - small < 200 * 40, "the daemon grew from %d to %d KiB" % (small, big))
    print("5,000 events: %d ms without readers, %d ms with 203;" % (alone, beside),
          "lost: %d by each that never read, %d by a byte a millisecond (told %d times), %d by who was stopped, %d by who was fast;" % (after - seq - keeps, missed, len(re.findall("lost", text)), told[1][0], told[0][0]),
          "the daemon had %d KiB, with them %d" % (small, big))


WIDTH = len("line 0000000001\n")
TOTAL = 6_500_000


def content(at, n):
    """Bytes of the log of the first run, from its start signal on."""
    first = at // WIDTH
    text = b"".join(b"line %010d\n" % i for i in range(first + 1, (at + n) // WIDTH + 2))
    return text[at - first * WIDTH:][:n]


def follow_log(fd, text=b""):
    """Reads a log to its end and checks every byte. Returns where it ends, how many
    bytes were lost, and in how many lines that was said."""
    at, lost, said = {0}, 0, 0
    while True:
        more = os.read(fd, CAT)
        text += more
        while notice := re.search(rb"(?:\A|(?<=\n))- - - lost count=([1-9]\d*)\n", text):
            at = same(text[:notice.start()], at, True)
            n = int(notice.group(1))
            at, lost, said = {a + n for a in at}, lost + n, said + 1
            text = text[notice.end():]
        # What may be the beginning of a notice waits for the rest of it.
        cut = max(0, len(text) - 64) if more else len(text)
        at = same(text[:cut], at, False)
        text = text[cut:]
        if not more:
            return max(at), lost, said


def same(text, at, noticed):
    """Checks that the text is what the log has at one of the places in at, and returns
    the places where it may go on. A notice that comes within a line ends that first;
    whether that newline is also the log's own is seen only by what comes after."""
    goes_on = set()
    for a in at:
        want = content(a, len(text))
        if text == want:
            goes_on.add(a + len(text))
        if noticed and text[-1:] == b"\n" and text[:-1] == want[:-1]:
            goes_on.add(a + len(text) - 1)
    if not goes_on:
        raise RuntimeError("the log does not go on at %s with %r" % (sorted(at), text[:60]))
    return goes_on


def slow_log(box, daemon):
    size = WIDTH * TOTAL
    write(box, "config.yaml", """log: {max_size: 1MiB}
command:
  - /bin/sh
  - -c
  - |
    trap 'exec seq -f "line %%010.0f" 1 %d' USR1
    echo ready
    sleep infinity &
    while :; do wait; done
""" % TOTAL)
    write(box, "ctl", "start\n")
    until("the box to be ready", lambda: read(box, "log") == "ready")
    small = rss(daemon)
    file = path(box, "wait/log")
    *idle, dribble = [os.open(file, os.O_RDONLY) for _ in range(4)]
    taken, halt = [], threading.Event()

    def follow(ready):
        fd = os.open(file, os.O_RDONLY)
        ready()
        return follow_log(fd)

    def sip():
        while not halt.wait(0.001):
            taken.append(os.read(dribble, 1))

    fast, stopped = Child("a fast reader", follow), Child("a stopped reader", follow)
    fast.await_ready()
    stopped.await_ready()
    os.kill(stopped.pid, signal.SIGSTOP)
    sipping = threading.Thread(target=sip)
    sipping.start()
    began = time.monotonic()
    write(box, "ctl", "signal USR1\n")
    check(read(box, "wait/exit") == "0", "exit code")
    ran = time.monotonic() - began
    big = rss(daemon)
    halt.set()
    sipping.join()

    results = {"fast": fast.result()}
    # The next run is none of theirs, also if they come to read only now.
    write(box, "config.yaml", "log: {max_size: 1MiB}\ncommand: [echo, the next run]\n")
    write(box, "ctl", "start\n")
    read(box, "wait/exit")
    os.kill(stopped.pid, signal.SIGCONT)
    results["stopped"] = stopped.result()
    results["idle"] = follow_log(idle[0])
    results["sipping"] = follow_log(dribble, b"".join(taken))
    some = os.read(idle[1], 100)
    # Another one, which leaves nothing of the first.
    write(box, "config.yaml", "log: {max_size: 1MiB}\ncommand: [seq, \"1\", \"400000\"]\n")
    write(box, "ctl", "start\n")
    read(box, "wait/exit")
    results["overrun"] = follow_log(idle[1], some)
    results["late"] = follow_log(idle[2])
    for who, (at, lost, said) in results.items():
        check(at == size, "%s: the log ends at %d, not %d" % (who, at, size))
        check((lost > 0) == (said > 0), who)
    at, lost, said = results["idle"]
    check(said == 1 and size - (2 << 20) <= lost <= size - (1 << 20), "a reader that never read lost %d of %d, told %d times" % (lost, size, said))
    check(results["stopped"][2] >= 1, "a stopped reader was not told what it lost")
    check(results["sipping"][2] >= 1, "a reader of a byte now and then was not told what it lost")
    check(results["overrun"][2] == 2, "a reader that fell behind twice was told %d times" % results["overrun"][2])
    check(results["late"][1:] == (size, 1), "a reader of what is not kept any more: %r" % (results["late"],))
    for fd in idle + [dribble]:
        os.close(fd)
    check(big - small < 16 << 10, "the daemon grew from %d to %d KiB" % (small, big))
    print("%d MB of log in %.1f s;" % (size // 1000000, ran),
          "; ".join("%s: lost %d (told %d times)" % (who, lost, said) for who, (_, lost, said) in results.items()) + ";",
          "the daemon had %d KiB, has %d" % (small, big))


def graves(count):
    for i in range(int(count)):
        name = "r%d" % i
        os.mkdir(BOXES + "/" + name)
        write(name, "config.yaml", "command: [sleep, infinity]\n")
        fds = [os.open(path(name, file), os.O_RDONLY) for file in ("wait/event", "wait/running", "log", "status")]
        os.rmdir(BOXES + "/" + name)
        check(b"removed" in os.read(fds[0], CAT), "no removal of " + name)
        for fd in fds:
            os.close(fd)


{"graves": graves, "crowd": crowd, "events": slow_events, "log": slow_log}[sys.argv[2]](*sys.argv[3:])
