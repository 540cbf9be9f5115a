package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// attackerName is the name under which the test program tries what an unpacker must not
// do, with the filter of one if its argument is "filtered". See TestMain.
const attackerName = "attacker"

// attack tries system calls, and says what came of each, by name: 0, or an errno.
func attack(filtered bool) int {
	if filtered {
		if err := filterCalls(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	result := map[string]int{}
	try := func(name string, err error) {
		var errno unix.Errno
		if err != nil && !errors.As(err, &errno) {
			errno = unix.EINVAL
		}
		result[name] = int(errno)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	try("socket", err)
	if err == nil {
		try("close", unix.Close(fd))
	}
	try("mount", unix.Mount("none", "/proc", "tmpfs", 0, ""))
	try("unshare", unix.Unshare(unix.CLONE_NEWNS))
	try("chroot", unix.Chroot("/"))
	try("ptrace", unix.PtraceSeize(os.Getppid()))
	_, err = unix.KeyctlInt(unix.KEYCTL_GET_KEYRING_ID, unix.KEY_SPEC_PROCESS_KEYRING, 1, 0, 0)
	try("keyctl", err)
	_, err = unix.PidfdOpen(os.Getppid(), 0)
	try("pidfd_open", err)
	try("kill", unix.Kill(os.Getppid(), 0))
	_, err = os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
	try("process", err)
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		return 1
	}
	return 0
}

func attacks(t *testing.T, how string) map[string]int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Args = []string{attackerName, how}
	// What is mounted is mounted for nobody.
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Unshareflags: unix.CLONE_NEWNS}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	result := map[string]int{}
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	return result
}

func TestAnUnpackerHasNoCallsButThoseThatMakeFiles(t *testing.T) {
	// Each is to be had without the filter.
	for name, errno := range attacks(t, "") {
		if errno != 0 {
			t.Errorf("%s without the filter: %v", name, unix.Errno(errno))
		}
	}
	for name, errno := range attacks(t, "filtered") {
		if unix.Errno(errno) != unix.EPERM {
			t.Errorf("%s with it: %v", name, unix.Errno(errno))
		}
	}
}

func TestTheCallsOfAnUnpackerHaveNamesOnEachArchitecture(t *testing.T) {
	// One call has two names.
	for a, other := range map[*arch.Info]string{arch.X86_64: "fstatat", arch.AARCH64: "newfstatat"} {
		for _, name := range unpackCalls {
			if _, ok := a.SyscallNames[name]; !ok && name != other {
				t.Errorf("%s has no %s", a.Name, name)
			}
		}
		if len(callsOf(a)) != len(unpackCalls)-1 {
			t.Errorf("%s has %d of %d", a.Name, len(callsOf(a)), len(unpackCalls))
		}
	}
}

func TestAnUnpackerIsConfined(t *testing.T) {
	// As whoever starts the daemon may leave one open.
	inherited, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	c := newCell(t)
	in, w, err := os.Pipe() // a layer that never comes
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer in.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := unpack(ctx, in, order{Dir: c.dir, Limits: defaultLimits})
		ended <- err
	}()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(c.dir + "/layer"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the unpacker does not begin")
		}
	}
	proc := "/proc/" + strconv.Itoa(unpackerIn(t, c.dir))
	if score, err := os.ReadFile(proc + "/oom_score_adj"); err != nil || string(score) != "500\n" {
		t.Errorf("oom_score_adj is %q, %v: it has the daemon's rank", score, err)
	}
	threads, err := filepath.Glob(proc + "/task/*/status")
	if err != nil || len(threads) < 2 {
		t.Fatalf("%q %v", threads, err)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			switch key {
			case "CapInh", "CapAmb":
				if strings.Trim(value, "0") != "" {
					t.Errorf("%s: %s is %s", path, key, value)
				}
			case "CapPrm", "CapEff", "CapBnd":
				set, err := strconv.ParseUint(value, 16, 64)
				if err != nil || set&^unpackCaps != 0 {
					t.Errorf("%s: %s is %s", path, key, value)
				}
			case "NoNewPrivs":
				if value != "1" {
					t.Errorf("%s: %s is %s", path, key, value)
				}
			case "Seccomp":
				if value != "2" {
					t.Errorf("%s: %s is %s", path, key, value)
				}
			}
		}
	}
	fds, err := filepath.Glob(proc + "/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil || to != layerRoot && !strings.HasPrefix(to, "pipe:") && !strings.HasPrefix(to, "anon_inode:[event") && !strings.HasPrefix(to, "/cpu.") { // Go's own
			t.Errorf("it has %s: %s %v", fd, to, err)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
