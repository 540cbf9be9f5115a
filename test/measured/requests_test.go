package measured

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/test/daemon"
)

// A redirect is OPEN, FLUSH (of the dup), any number of WRITEs, FLUSH, RELEASE:
// one commit whatever the number.
func TestARedirectCommitsOnce(t *testing.T) {
	h, _ := home(t)
	big := h.File("big", sleeper+strings.Repeat("# padding of a comment line\n", 300))
	text, err := os.ReadFile(big)
	if err != nil {
		t.Fatal(err)
	}
	for name := range shells {
		for i, c := range []struct{ script, want string }{
			{`printf 'command:\n  - sleep\n  - infinity\n' >"$1"`, "command:\n  - sleep\n  - infinity\n"},
			{`echo 'command: [id]' >"$1"`, "command: [id]\n"},
			{"cat >\"$1\" <<E\ncommand:\n- id\nE", "command:\n- id\n"},
			{`{ echo command:; echo '- id'; echo 'hostname: h'; } >"$1"`, "command:\n- id\nhostname: h\n"},
			{`cat "$2" >"$1"`, string(text)},
			{`dd if="$2" of="$1" bs=7 2>/dev/null`, string(text)},
			{`while read -r line; do printf '%s\n' "$line"; done <"$2" >"$1"`, string(text)},
		} {
			box := name + strconv.Itoa(i)
			h.MustBox(box, "")
			if _, said, code := shell(h, name, c.script, h.Box(box, "config.yaml"), big); code != 0 {
				t.Errorf("%s: %s: %s", name, c.script, said)
			}
			if got := h.MustRead("boxes", box, "config.yaml"); got != c.want {
				t.Errorf("%s: %s: config.yaml has %d bytes, not %d", name, c.script, len(got), len(c.want))
			}
			if n := count(h, box, " configured"); n != 1 {
				t.Errorf("%s: %s: committed %d times", name, c.script, n)
			}
		}
	}
}

// A child that exits flushes the descriptor it inherited, in the middle of what
// its parent writes.
func TestTheFlushOfAForkedChildCommitsNothing(t *testing.T) {
	h, _ := home(t)
	for name := range shells {
		h.MustBox(name, sleeper)
		// The subshell is a child with the redirect; what is there so far would do.
		out, said, code := shell(h, name, `{ echo 'command: [id]'; (true); cat "$2"; (exit 0) & wait; echo 'hostname: later'; } >"$1"`,
			h.Box(name, "config.yaml"), h.File("more", "workdir: /tmp\n"))
		if code != 0 {
			t.Errorf("%s: %s%s", name, out, said)
		}
		if got, want := h.MustRead("boxes", name, "config.yaml"), "command: [id]\nworkdir: /tmp\nhostname: later\n"; got != want {
			t.Errorf("%s: config.yaml is %q", name, got)
		}
		if n := count(h, name, " configured"); n != 2 {
			t.Errorf("%s: committed %d times, not twice", name, n)
		}
	}
	h.MustBox("python", sleeper)
	_, said, code := h.Run("python3", "-c", `
import os, sys
config, events = sys.argv[1:]
fd = os.open(config, os.O_WRONLY | os.O_TRUNC)
os.write(fd, b"command: [id]\n")
for way in range(3):
    pid = os.fork()
    if pid == 0:
        if way == 1:
            os.close(fd)
        if way == 2:
            os.execv("/bin/true", ["true"])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    n = open(events).read().count(" configured")
    assert n == 1, "committed by a child (%d): %d commits" % (way, n)
os.write(fd, b"workdir: /tmp\n")
os.close(fd)
n = open(events).read().count(" configured")
assert n == 2, n
`, h.Box("python", "config.yaml"), h.Box("python", "events"))
	if code != 0 {
		t.Errorf("python: %s", said)
	}
	if got := h.MustRead("boxes", "python", "config.yaml"); got != "command: [id]\nworkdir: /tmp\n" {
		t.Errorf("python: config.yaml is %q", got)
	}
}

// The kernel closes the files of a killed writer as it closes anybody's.
func TestAWriterThatIsKilledChangesNothing(t *testing.T) {
	h, _ := home(t)
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGINT} {
		name := "s" + strconv.Itoa(int(sig))
		h.MustBox(name, sleeper)
		fifo := h.Dir + "/" + name
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		p := spawn(t, `trap - INT; exec python3 -c '
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
os.write(fd, b"command: [id]\n")
open(sys.argv[2]).read()
signal.pause()
' "$@"`, h.Box(name, "config.yaml"), fifo)
		// It opens the fifo once it has written.
		if err := h.Call("open the fifo", func() error { return os.WriteFile(fifo, nil, 0) }); err != nil {
			t.Fatal(err)
		}
		p.signal(sig)
		if status := p.join(2*time.Second, "a killed writer"); status.Signal() != sig {
			t.Errorf("the writer ended with %v", status)
		}
		// It comes with the release, which nobody waits for.
		daemon.Await(t, "the verdict", func() bool {
			return h.MustRead("boxes", name, "last_error") != "ok\n" || count(h, name, " configured") > 1
		})
		if got := h.MustRead("boxes", name, "config.yaml"); got != sleeper {
			t.Errorf("%s: config.yaml is %q: what a killed writer had written was committed", sig, got)
		}
		if got := h.MustRead("boxes", name, "last_error"); !strings.Contains(got, "killed") {
			t.Errorf("%s: last_error is %q", sig, got)
		}
	}
}

// Without that the flush commits the text up to the fault.
func TestARefusedWritePoisonsItsHandle(t *testing.T) {
	h, _ := home(t)
	h.MustBox("x", sleeper)
	for _, text := range []string{"command: [id]\ncomand: x\n", "command: [id]\ncommand: [ls]\n", "command: [id]\n" + strings.Repeat("# comment\n", 8000)} {
		err := h.Call("writes", func() error {
			fd, err := unix.Open(h.Box("x", "config.yaml"), unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			first, rest := text[:14], text[14:]
			if _, err := unix.Write(fd, []byte(first)); err != nil {
				t.Errorf("the good part: %v", err)
			}
			_, refused := unix.Write(fd, []byte(rest))
			if refused == nil {
				t.Errorf("%q was not refused in the write", rest[:min(len(rest), 20)])
			}
			if _, err := unix.Write(fd, []byte("workdir: /\n")); err == nil || err.Error() != refused.Error() {
				t.Errorf("a write after the refused one: %v, not %v", err, refused)
			}
			if err := unix.Fsync(fd); err == nil {
				t.Error("fsync after a refused write succeeded")
			}
			if err := unix.Close(fd); err == nil || err.Error() != refused.Error() {
				t.Errorf("close after a refused write: %v, not %v", err, refused)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := h.MustRead("boxes", "x", "config.yaml"); got != sleeper {
			t.Errorf("config.yaml is %q", got)
		}
	}
	if n := count(h, "x", " configured"); n != 1 {
		t.Errorf("committed %d times", n)
	}
}

// Errors of a write are seen by every shell; those of a close by programs, but by
// no builtin.
func TestWhoSeesTheErrorOfAClose(t *testing.T) {
	h, _ := home(t)
	h.MustBox("x", sleeper)
	h.MustBox("bad", "command: [no-such-command]\n")
	lateFile, earlyFile, start := h.File("late", late), h.File("early", early), h.File("start", "start\n")
	config, ctl := h.Box("x", "config.yaml"), h.Box("bad", "ctl")

	programs := []string{
		`cat "$2" >"$1"`, `exec cat "$2" >"$1"`, `cp "$2" "$1"`, `tee "$1" <"$2" >/dev/null`, `dd if="$2" of="$1"`,
		`exec /bin/echo "$(cat "$2")" >"$1"`, `/bin/echo "$(cat "$2")" >"$1"`,
	}
	for _, c := range programs {
		for target, sources := range map[string][]string{config: {lateFile, earlyFile}, ctl: {start}} {
			for _, source := range sources {
				if _, said, code := h.Sh(c, target, source); code == 0 || said == "" {
					t.Errorf("%s does not see the error of %s: status %d, %q", c, source, code, said)
				}
			}
		}
	}
	for name := range shells {
		for _, c := range []string{`echo "$(cat "$2")" >"$1"`, `printf '%s\n' "$(cat "$2")" >"$1"`} {
			if _, said, code := shell(h, name, c, config, earlyFile); code == 0 { // some say nothing of why
				t.Errorf("%s: %s does not see the error of a write: status %d, %q", name, c, code, said)
			}
			for target, source := range map[string]string{config: lateFile, ctl: start} {
				// That they do not is why what must be sure is asked for.
				if _, said, code := shell(h, name, c, target, source); code != 0 {
					t.Errorf("%s: %s sees the error of a close: %d, %q: say so in the documents", name, c, code, said)
				}
			}
		}
	}
	if got := h.MustRead("boxes", "x", "config.yaml"); got != sleeper {
		t.Errorf("config.yaml is %q", got)
	}
	// Editors look at fsync.
	if _, said, code := h.Run("python3", "-c", `
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
os.write(fd, sys.argv[2].encode())
try:
    os.fsync(fd)
except OSError as e:
    sys.exit(0 if e.errno == 22 else 2)
sys.exit(3)
`, config, late); code != 0 {
		t.Errorf("fsync of a bad config: status %d, %s", code, said)
	}
}

// A write or setattr that waits holds the inode lock, and a mkdir or rmdir that
// waits that of the directory. A flush that waits holds none.
func TestAWaitingCloseHoldsUpNobody(t *testing.T) {
	h, _ := home(t)
	ready(t, h, "x")
	stop := spawn(t, `exec /bin/echo "stop 1h" >"$1"`, h.Box("x", "ctl"))
	stop.blocked()
	reader := spawn(t, `exec cat "$1"`, h.Box("x", "wait", "stopped"))
	reader.blocked()
	for what, script := range map[string]string{
		"ls boxes":          `ls -l "$1"/boxes`,
		"ls of the box":     `ls -l "$1"/boxes/x`,
		"mkdir and rmdir":   `mkdir "$1"/boxes/sibling && rmdir "$1"/boxes/sibling`,
		"cat status":        `cat "$1"/boxes/x/status "$1"/boxes/x/info.json "$1"/events`,
		"a refused command": `! echo pause >"$1"/boxes/x/ctl 2>/dev/null`,
		"a signal":          `echo signal WINCH >"$1"/boxes/x/ctl`,
		"a config":          `cat "$1"/boxes/x/config.yaml >"$1"/../copy && cp "$1"/../copy "$1"/boxes/x/config.yaml`,
		"touch":             `touch "$1"/boxes/x "$1"/boxes/x/ctl`,
		"a refused rmdir":   `! rmdir "$1"/boxes/x 2>/dev/null`,
	} {
		within(t, prompt, what, func() {
			if _, said, code := h.Sh(script, h.Mount); code != 0 {
				t.Errorf("%s: %s", what, said)
			}
		})
	}
	if got := h.MustRead("boxes", "x", "status"); got != "stopping\n" {
		t.Errorf("status %q", got)
	}
	within(t, prompt, "a kill beside the stop", func() {
		if _, said, code := h.Sh(`exec /bin/echo kill >"$1"`, h.Box("x", "ctl")); code != 0 {
			t.Errorf("kill: %s", said)
		}
	})
	if status := stop.join(2*time.Second, "the stop"); status.ExitStatus() != 0 {
		t.Errorf("the stop that was cut short ended with %d", status.ExitStatus())
	}
	if status := reader.join(2*time.Second, "the reader"); status.ExitStatus() != 0 {
		t.Errorf("the reader ended with %d", status.ExitStatus())
	}
}

// The context of a flush or a read ends when its caller is interrupted.
func TestAWaiterEndsAtOnceWhenInterrupted(t *testing.T) {
	h, _ := home(t)
	ready(t, h, "x")
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGKILL, unix.SIGTERM} {
		for what, script := range map[string]string{
			"wait/stopped":            `exec cat "$1"/boxes/x/wait/stopped`,
			"wait/exit":               `exec cat "$1"/boxes/x/wait/exit`,
			"wait/log":                `exec cat "$1"/boxes/x/wait/log`,
			"wait/event of the box":   `exec cat "$1"/boxes/x/wait/event`,
			"wait/event of the whole": `exec cat "$1"/wait/event`,
			"a close of ctl":          `exec /bin/echo "stop 1h" >"$1"/boxes/x/ctl`,
			"a builtin's close":       `echo "stop 1h" >"$1"/boxes/x/ctl; exit 0`,
		} {
			p := spawn(t, script, h.Mount)
			if strings.Contains(script, "stop 1h") {
				h.AwaitFile("x", "status", "stopping") // or it may wait for its open yet
			}
			p.blocked()
			p.signal(sig)
			if status := p.join(time.Second, what+" after "+sig.String()); status.Exited() && status.ExitStatus() == 0 {
				t.Errorf("%s: ended well after %s", what, sig)
			}
		}
		// The work goes on.
		if got := h.MustRead("boxes", "x", "status"); got != "stopping\n" {
			t.Errorf("status %q after %s", got, sig)
		}
	}
	h.MustPut("x", "ctl", "kill\n")
}

func TestTimeoutEndsAWait(t *testing.T) {
	h, _ := home(t)
	h.MustRun("x", sleeper)
	for _, f := range []string{"boxes/x/wait/stopped", "boxes/x/wait/exit", "boxes/x/wait/log", "boxes/x/wait/event", "wait/event"} {
		within(t, 2*time.Second, f, func() {
			if _, said, code := h.Run("timeout", "0.1", "cat", h.In(f)); code != 124 {
				t.Errorf("timeout cat %s: status %d, %s", f, code, said)
			}
		})
	}
	h.MustPut("x", "ctl", "kill\n")
}

// A read that waits disturbs nobody, however many there are.
func TestManyBlockedReadersSlowNobody(t *testing.T) {
	// Not in parallel: it measures.
	h := daemon.New(t)
	d := h.Start()
	h.MustRun("x", sleeper)
	const readers, reads = 2000, 200
	median := func() time.Duration {
		var times []time.Duration
		err := h.Call("reads of status", func() error {
			for range reads {
				began := time.Now()
				if text, err := daemon.ReadAll(h.Box("x", "status")); err != nil || text != "running\n" {
					return fmt.Errorf("status %q: %w", text, err)
				}
				times = append(times, time.Since(began))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(times)
		if slowest := times[reads-1]; slowest > daemon.Bound/2 { // one that hangs
			t.Errorf("a read of status took %s", slowest)
		}
		return times[reads/2]
	}
	before, memory := median(), resident(t, d.PID)
	answers := make([]string, readers)
	done := make([]<-chan error, readers)
	opened := make(chan struct{}, readers)
	for i := range readers {
		done[i] = daemon.Go(func() (err error) {
			fd, err := unix.Open(h.Box("x", "wait", "stopped"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			opened <- struct{}{}
			if err != nil {
				return err
			}
			answers[i], err = daemon.ReadFD(fd)
			if cerr := unix.Close(fd); err == nil {
				err = cerr
			}
			return err
		})
	}
	for range readers {
		<-opened
	}
	mounts, err := daemon.Mounts(h.Mount)
	if err != nil || len(mounts) != 1 {
		t.Fatal(mounts, err)
	}
	daemon.Await(t, "all readers to block", func() bool {
		n, err := daemon.Waiting(mounts[0].Minor)
		if err != nil {
			t.Fatal(err) // it will not come right by waiting
		}
		return n >= readers
	})
	during := median()
	t.Logf("%d blocked readers: %d KiB each in the daemon; median read of status %s before, %s during",
		readers, (resident(t, d.PID)-memory)/readers, before, during)
	if during > 10*before+time.Millisecond {
		t.Errorf("the median read of status took %s before and %s beside %d blocked readers", before, during, readers)
	}
	// In the daemon's own time: a machine that is busy with other things gives it less.
	spent := processorTime(t, d.PID)
	within(t, time.Minute, "to wake all", func() {
		h.MustPut("x", "ctl", "kill\n")
		for i := range readers {
			select {
			case err := <-done[i]:
				if err != nil || answers[i] != "137\n" {
					t.Fatalf("reader %d: %q, %v", i, answers[i], err)
				}
			case <-time.After(daemon.Bound):
				t.Fatalf("reader %d does not wake", i)
			}
		}
	})
	if spent = processorTime(t, d.PID) - spent; spent > 5*time.Second {
		t.Errorf("to wake %d readers took the daemon %s", readers, spent)
	}
	t.Logf("woken in %s of the daemon's time", spent)
}

// processorTime is what a process has had of the processors.
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil { // see clock_getcpuclockid(3)
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// resident returns the resident memory of a process in KiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestReadsThroughOneDescriptorAreOneSnapshot(t *testing.T) {
	h, _ := home(t)
	h.MustBox("x", sleeper)
	files := map[string]int{}
	first := map[string]string{}
	for _, f := range []string{"status", "events", "info.json", "config.yaml", "pid", "stats"} {
		first[f] = h.MustRead("boxes", "x", f)
		files[f] = open(t, h, h.Box("x", f), unix.O_RDONLY)
	}
	piece := func(fd int, off int64, n int) string {
		buf := make([]byte, n)
		if err := h.Call("pread", func() (err error) {
			n, err = unix.Pread(fd, buf, off)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	got := map[string]string{}
	for f, fd := range files {
		got[f] = piece(fd, 0, 2)
	}
	h.MustPut("x", "config.yaml", "command: [sleep, '1000']\n")
	h.MustPut("x", "ctl", "start\n")
	for f, fd := range files {
		for {
			next := piece(fd, int64(len(got[f])), 5)
			if next == "" {
				break
			}
			got[f] += next
		}
		if got[f] != first[f] {
			t.Errorf("%s: two states in one open: %q, not %q", f, got[f], first[f])
		}
		if err := shut(h, fd); err != nil {
			t.Error(err)
		}
	}
	h.MustPut("x", "ctl", "kill\n")
}

// The page cache would give nothing where the size is 0, and cut where it is old.
func TestEveryToolReadsTheWholeFile(t *testing.T) {
	h, _ := home(t)
	h.MustRun("x", `command: [sh, -c, "i=0; while [ $i -lt 3000 ]; do echo a line of the log number $i; i=$((i+1)); done"]`+"\n")
	h.AwaitFile("x", "status", "stopped")
	for _, f := range []string{"version", "features", "events", "last_error", "boxes/x/status", "boxes/x/config.yaml", "boxes/x/log", "boxes/x/events", "boxes/x/info.json", "boxes/x/exit_code"} {
		path := h.In(f)
		want := h.MustRead(f)
		if !strings.HasSuffix(want, "\n") || strings.HasSuffix(want, "\n\n") {
			t.Errorf("%s does not end in one newline: %q", f, want[max(0, len(want)-20):])
		}
		for _, script := range []string{
			`cat "$1"`, `head -c 1000000 "$1"`, `dd if="$1" bs=7 2>/dev/null`, `dd if="$1" bs=1M 2>/dev/null`, `cp "$1" "$2" && cat "$2"`,
			`grep "" "$1"`, `tail -n +1 "$1"`, `tail -c 1000000 "$1"`, `sed "" "$1"`, `tac "$1" | tac`, `sort -s -k1,1 "$1" | cat >/dev/null; cat "$1"`,
			`exec python3 -c 'import sys; sys.stdout.write(open(sys.argv[1]).read())' "$1"`,
			`exec perl -pe 1 "$1"`, `busybox cat "$1"`, `tar -cf - -C / "${1#/}" 2>/dev/null | tar -xOf -`, `rsync "$1" "$2" && cat "$2"`,
		} {
			if out, said, code := h.Sh(script, path, h.Dir+"/copy"); code != 0 || out != want {
				t.Errorf("%s of %s: status %d, %d bytes, not %d: %s", script, f, code, len(out), len(want), said)
			}
		}
		for _, script := range []string{`wc -c <"$1"`, `stat -c %s "$1"`, `find "$1" -printf '%s\n'`, `du -b "$1"`} {
			out, said, code := h.Sh(script, path)
			if words := strings.Fields(out); code != 0 || len(words) == 0 || words[0] != strconv.Itoa(len(want)) {
				t.Errorf("%s of %s: %q, not %d: %s", script, f, out, len(want), said)
			}
		}
	}
}

// grep -r opens with O_NONBLOCK. What blocks lives in wait/ alone.
func TestReadingTheWholeTreeEnds(t *testing.T) {
	h, _ := home(t)
	h.MustRun("x", sleeper)
	h.MustBox("y", "")
	out, said, _ := h.Sh(`grep -r running "$1"`, h.Mount)
	if !strings.Contains(out, "boxes/x/status:running") {
		t.Errorf("grep -r finds %q", out)
	}
	if !strings.Contains(said, "wait/stopped: Resource temporarily unavailable") {
		t.Errorf("grep -r says %q", said)
	}
	if out, said, code := h.Sh(`for f in "$1"/boxes/*/*; do case $f in */ctl | */wait | */exec) ;; *) cat "$f" || exit 1 ;; esac; done`, h.Mount); code != 0 || !strings.Contains(out, "running\n") {
		t.Errorf("cat boxes/*/*: %s", said)
	}
	for _, f := range []string{"stopped", "exit", "log", "event"} {
		fd := open(t, h, h.Box("x", "wait", f), unix.O_RDONLY|unix.O_NONBLOCK)
		err := h.Call("read", func() error {
			_, err := daemon.ReadFD(fd)
			return err
		})
		errno(t, "a read of wait/"+f+" that may not block", err, unix.EAGAIN)
		if err := shut(h, fd); err != nil {
			t.Error(err)
		}
	}
	h.MustPut("x", "ctl", "kill\n")
}

// An inode number that is used again would make a handle on a removed box one on
// its successor.
func TestADescriptorThatOutlivesItsBox(t *testing.T) {
	h, _ := home(t)
	h.MustRun("x", "command: [echo, hello]\n")
	h.AwaitFile("x", "status", "stopped")
	files := map[string]int{}
	for _, f := range []string{"status", "pid", "info.json", "config.yaml", "log", "events", "stats", "wait/running", "wait/event"} {
		if f == "wait/running" {
			continue // it has its answer, ECANCELED, in any case
		}
		files[f] = open(t, h, h.Box("x", f), unix.O_RDONLY)
	}
	ctl := open(t, h, h.Box("x", "ctl"), unix.O_WRONLY)
	config := open(t, h, h.Box("x", "config.yaml"), unix.O_WRONLY)
	dir := open(t, h, h.Box("x"), unix.O_RDONLY|unix.O_DIRECTORY)
	if err := h.Rmdir("x"); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		for f, fd := range files {
			if f == "wait/event" {
				continue // it gives the removal, then ends
			}
			err := h.Call("read", func() error { _, err := unix.Pread(fd, make([]byte, 10), 0); return err })
			errno(t, "read of "+f, err, unix.ENODEV)
			var st unix.Stat_t
			errno(t, "stat of "+f, h.Call("fstat", func() error { return unix.Fstat(fd, &st) }), unix.ENODEV)
		}
		for what, fd := range map[string]int{"ctl": ctl, "config.yaml": config} {
			err := h.Call("write", func() error { _, err := unix.Write(fd, []byte("kill\n")); return err })
			errno(t, "write of "+what, err, unix.ENODEV)
		}
		err := h.Call("openat", func() error {
			fd, err := unix.Openat(dir, "status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		})
		// The kernel may have the name still, and ask for its attributes before it
		// opens it, which looks like a stat of the descriptor.
		if !errors.Is(err, unix.ENODEV) {
			errno(t, "a name in a removed directory", err, unix.ENOENT)
		}
	}
	check()
	_, err := h.Read("boxes", "x", "status")
	errno(t, "a path of a removed box", err, unix.ENOENT)
	text := ""
	if err := h.Call("read", func() (err error) { text, err = daemon.ReadFD(files["wait/event"]); return err }); err != nil || !strings.Contains(text, "removed") {
		t.Errorf("wait/event of a removed box: %q, %v", text, err)
	}
	h.MustBox("x", sleeper)
	check()
	if got := h.MustRead("boxes", "x", "status"); got != "configured\n" {
		t.Errorf("the successor is %q", got)
	}
	for _, fd := range files {
		if err := shut(h, fd); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	for _, fd := range []int{ctl, config, dir} {
		_ = shut(h, fd) // the config was not closed well, which may be said
	}
	if got := h.MustRead("boxes", "x", "config.yaml"); got != sleeper {
		t.Errorf("the successor's config is %q", got)
	}
}

// go-fuse answers POLL with ENOSYS on purpose.
func TestPollSaysReady(t *testing.T) {
	h, _ := home(t)
	h.MustRun("x", sleeper)
	for _, f := range []string{"status", "log", "wait/stopped", "wait/event"} {
		fd := open(t, h, h.Box("x", f), unix.O_RDONLY)
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n := 0
		if err := h.Call("poll", func() (err error) { n, err = unix.Poll(fds, 5000); return err }); err != nil || n != 1 || fds[0].Revents&unix.POLLIN == 0 {
			t.Errorf("poll of %s: %d ready, %x, %v", f, n, fds[0].Revents, err)
		}
		if err := shut(h, fd); err != nil {
			t.Error(err)
		}
	}
	h.MustPut("x", "ctl", "kill\n")
}
