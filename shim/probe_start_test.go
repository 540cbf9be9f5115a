package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

func TestProbeThatCannotBeStarted(t *testing.T) {
	dir := t.TempDir()
	locked := filepath.Join(dir, "locked")
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755), os.Mkdir(locked, 0o700)); err != nil {
		t.Fatal(err)
	}
	file := func(name, content string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), mode)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	file("a/plain", "x", 0o644)
	file("a/both", "x", 0o644)
	file("b/both", "#!/bin/sh\nexit 9\n", 0o755)
	file("b/private", "#!/bin/sh\n", 0o700)
	file("b/noline", "echo hi\n", 0o755)
	noInterpreter := file("b/nointerp", "#!/no/such/thing\n", 0o755)
	file("locked/inside", "#!/bin/sh\n", 0o755)
	search := "PATH=" + dir + "/a:" + locked + ":/no/such:" + dir + "/b"
	for name, c := range map[string]struct {
		argv string
		want wire.ProbeResult
	}{
		"not found":       {"foo", wire.ProbeResult{Code: 127, Reason: wire.Cut(`command "foo" not found in PATH `+search[5:]+" (step lookup)", reasonRoom)}},
		"out of reach":    {"inside", wire.ProbeResult{Code: 127, Reason: wire.Cut(`command "inside" not found in PATH `+search[5:]+" (step lookup)", reasonRoom)}},
		"no such file":    {"/no/such", wire.ProbeResult{Code: 127, Reason: `command "/no/such" not found (step lookup)`}},
		"below a file":    {"/etc/passwd/x", wire.ProbeResult{Code: 127, Reason: `command "/etc/passwd/x" not found (step lookup)`}},
		"no interpreter":  {noInterpreter, wire.ProbeResult{Code: 127, Reason: `command "` + noInterpreter + `" not found (step lookup)`}},
		"not executable":  {"plain", wire.ProbeResult{Code: 126, Reason: dir + `/a/plain is not executable for user 1234: permission denied (step exec)`}},
		"private":         {"private", wire.ProbeResult{Code: 126, Reason: dir + `/b/private is not executable for user 1234: permission denied (step exec)`}},
		"no #! line":      {"noline", wire.ProbeResult{Code: 126, Reason: "cannot run " + dir + "/b/noline: exec format error (is the #! line missing?) (step exec)"}},
		"the second is":   {"both", wire.ProbeResult{Code: 9}},
		"a directory":     {dir, wire.ProbeResult{Code: 126, Reason: dir + ` is not executable for user 1234: permission denied (step exec)`}},
		"longest of PATH": {strings.Repeat("x", 250), wire.ProbeResult{Code: 127, Reason: `command "` + strings.Repeat("x", reasonRoom-9)}},
	} {
		t.Run(name, func(t *testing.T) {
			b := probed(t, c.argv)
			b.spec.UID, b.spec.GID, b.spec.Env = 1234, 1234, []string{search, b.tag}
			b.mustStart()
			l := b.line()
			for range 2 {
				expectResult(t, l.probe(), c.want)
			}
		})
	}
	t.Run("it comes and goes", func(t *testing.T) {
		program := filepath.Join(dir, "program")
		l := probed(t, program).mustStart().line()
		absent := wire.ProbeResult{Code: 127, Reason: `command "` + program + `" not found (step lookup)`}
		expectResult(t, l.probe(), absent)
		file("program", "#!/bin/sh\nexit 8\n", 0o644)
		expectResult(t, l.probe(), wire.ProbeResult{Code: 126, Reason: program + " is not executable: permission denied (step exec)"})
		if err := os.Chmod(program, 0o755); err != nil {
			t.Fatal(err)
		}
		expectResult(t, l.probe(), wire.ProbeResult{Code: 8})
		if err := os.Remove(program); err != nil {
			t.Fatal(err)
		}
		expectResult(t, l.probe(), absent)
	})
	t.Run("no workdir any more", func(t *testing.T) {
		b := probed(t, "/bin/true")
		b.spec.Workdir = filepath.Join(dir, "w")
		if err := os.Mkdir(b.spec.Workdir, 0o755); err != nil {
			t.Fatal(err)
		}
		b.mustStart()
		l := b.line()
		expectResult(t, l.probe(), wire.ProbeResult{})
		if err := os.Remove(b.spec.Workdir); err != nil {
			t.Fatal(err)
		}
		expectResult(t, l.probe(), wire.ProbeResult{Code: 125, Reason: "cannot chdir to " + b.spec.Workdir + ": no such file or directory (step workdir)"})
	})
}

// A probe that hangs before it is executed, here on a file system that does not
// answer, holds up nobody. It still has the shim's descriptors then, one of which
// leads out of the box: the box's root may see it, and must not look into it.
func TestTheBoxCannotLookIntoAProbeThatHasNotBegun(t *testing.T) {
	inSharedNamespace(t)
	b := probed(t, "/bin/true")
	b.spec.Workdir = t.TempDir()
	b.spec.Capabilities = 1 << unix.CAP_CHOWN
	b.spec.Argv = []string{"/usr/bin/python3", "-c", `
import os, time
print("ready", flush=True)
while True:
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) not in (1, os.getpid()):
            try:
                with open("/proc/%s/status" % pid) as f:
                    status = dict(l.split(":", 1) for l in f)
                if status["State"].split()[0] != "D": continue
                print("caps", status["CapPrm"].strip(), flush=True)
                print("it has", os.readlink("/proc/%s/fd/5" % pid), flush=True)
            except PermissionError:
                print("denied", flush=True)
            except (FileNotFoundError, ProcessLookupError):
                pass
    time.sleep(0.01)
`}
	b.mustStart()
	b.awaitLog("ready")
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	if err := unix.Mount("boxlite", b.spec.Workdir, "fuse.boxlite", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fd)); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(b.spec.Workdir, unix.MNT_DETACH) }()
	l := b.line()
	l.begin()
	l.quiet()
	b.awaitLog(fmt.Sprintf("caps %016x\n", 1<<unix.CAP_CHOWN))
	b.awaitLog("denied")
	if strings.Contains(b.log(), "it has") {
		t.Errorf("%s", b.log())
	}
	l.close()
	until(t, "it is gone", func() bool { return len(b.children()) == 1 })
}
