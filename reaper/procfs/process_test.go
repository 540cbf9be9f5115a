package procfs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper starts a process that does nothing, and ends it with the test.
func sleeper(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func open(t *testing.T, pid int) int {
	t.Helper()
	fd, err := unix.Open(filepath.Join("/proc", strconv.Itoa(pid)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func TestAProcessByItsPidAndByItsDirectory(t *testing.T) {
	pid := sleeper(t)
	for name, p := range map[string]Process{"pid": Of(pid), "directory": At(open(t, pid))} {
		s, err := p.Stat()
		if err != nil || s.PID != pid || s.Parent != os.Getpid() || s.Threads != 1 || s.StartTicks == 0 || s.State == "" || s.State == "Z" {
			t.Errorf("%s: stat %+v, %v", name, s, err)
		}
		if comm, err := p.Comm(); comm != "sleep" || err != nil {
			t.Errorf("%s: comm %q, %v", name, comm, err)
		}
		status, err := p.Status()
		if err != nil || status.Field("Tgid") != strconv.Itoa(pid) || status.Field("Name") != "sleep" || status.Field("TracerPid") != "0" {
			t.Errorf("%s: status %q, %v", name, status, err)
		}
		if children, err := p.Children(); len(children) > 0 || err != nil {
			t.Errorf("%s: children %v, %v", name, children, err)
		}
		if p.SameProgram(Self) || !p.SameProgram(Of(pid)) {
			t.Errorf("%s: its program is taken for another", name)
		}
		if n, err := p.PrivateMemory(); n <= 0 || n > 1<<30 || err != nil {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
	if children, err := Self.Children(); !slices.Contains(children, pid) || err != nil {
		t.Errorf("the children of the test are %v, %v", children, err)
	}
}

func TestAProcessThatIsGone(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := At(open(t, cmd.Process.Pid))
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func() error{
		"stat":     func() error { _, err := p.Stat(); return err },
		"comm":     func() error { _, err := p.Comm(); return err },
		"status":   func() error { _, err := p.Status(); return err },
		"children": func() error { _, err := p.Children(); return err },
		"memory":   func() error { _, err := p.PrivateMemory(); return err },
		"mounts":   func() error { _, err := p.Mounts(-1); return err },
	} {
		if err := read(); !Gone(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p.SameProgram(p) {
		t.Error("what is gone has a program")
	}
}

func TestPidfdPID(t *testing.T) {
	pid := sleeper(t)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if got, err := PidfdPID(fd); got != pid || err != nil {
		t.Errorf("the pidfd of %d is of %d, %v", pid, got, err)
	}
	if got, err := PidfdPID(open(t, pid)); got != 0 || err != nil {
		t.Errorf("a directory is a pidfd of %d, %v", got, err)
	}
	if _, err := PidfdPID(1 << 20); !errors.Is(err, unix.ENOENT) {
		t.Errorf("what is not open: %v", err)
	}
}

// A process chooses its name.
func TestStatOfAHostileName(t *testing.T) {
	rest := "S 1 2 3 0 -1 64 0 0 0 0 7 8 9 10 20 0 3 0 5000" + strings.Repeat(" 0", 29) + " 256 0 0 0 0 0 0 137"
	for _, name := range []string{"a", "", ") Z 9 9 (", "a b c", "(((", ")))", "\n) Z"} {
		s, err := parseStat([]byte("42 (" + name + ") " + rest + "\n"))
		want := Stat{
			PID: 42, State: "S", Parent: 1, Flags: 64, UserTime: 70 * time.Millisecond, SystemTime: 80 * time.Millisecond,
			ReapedUserTime: 90 * time.Millisecond, ReapedSystemTime: 100 * time.Millisecond, Threads: 3, StartTicks: 5000, ExitStatus: 256,
		}
		if err != nil || s != want {
			t.Errorf("%q: %+v, %v", name, s, err)
		}
	}
	for _, text := range []string{"", "42", "42 (a", "42 (a) S 1", "x (a) " + rest, "42 (a) " + strings.Replace(rest, "5000", "x", 1)} {
		if s, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q is %+v", text, s)
		}
	}
}

func TestMountsOfALine(t *testing.T) {
	const text = `21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
36 21 0:44 / /mnt/a\040b\134c rw master:1 propagate_from:2 - fuse.boxlite boxlite rw
37 21 0:45 /x /y rw - tmpfs tmpfs rw
not one
38 21 0:46 / /z rw
x 21 0:46 / /z rw - tmpfs t rw
39 21 0:47 / /cut rw - tmpfs t rw`
	got := slices.Collect(parseMounts(text))
	want := []Mount{{21, "8:1", "/", "ext4"}, {36, "0:44", `/mnt/a b\c`, "fuse.boxlite"}, {37, "0:45", "/y", "tmpfs"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestMounts(t *testing.T) {
	all, err := Self.Mounts(-1)
	if err != nil {
		t.Fatal(err)
	}
	mounts := slices.Collect(all)
	i := slices.IndexFunc(mounts, func(m Mount) bool { return m.Point == "/proc" && m.Type == "proc" })
	if i < 0 {
		t.Fatalf("no /proc in %+v", mounts)
	}
	// More than the buffer has at first.
	if all, err := Self.readAll("smaps", -1); err != nil || len(all) < 8<<10 || !strings.HasSuffix(all, "\n") {
		t.Errorf("%d bytes of smaps, %v", len(all), err)
	}
	few, err := Self.Mounts(10)
	if err != nil {
		t.Fatal(err)
	}
	for m := range few {
		t.Errorf("in 10 bytes is %+v", m)
	}
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("42 (a) S 1 2"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseStat(b) })
}

func FuzzMounts(f *testing.F) {
	f.Add("21 1 8:1 / /a\\040b rw - ext4 /dev/sda1 rw\n")
	f.Fuzz(func(t *testing.T, text string) {
		for m := range parseMounts(text) {
			if m.Point == "" || m.Type == "" {
				t.Errorf("%q has %+v", text, m)
			}
		}
	})
}
