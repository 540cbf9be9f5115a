package shim

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

func TestCredentials(t *testing.T) {
	const chown, netBind = 1 << 0, 1 << unix.CAP_NET_BIND_SERVICE
	// What there is to give away: a root in a container has less than all.
	full := must(strconv.ParseUint(field(string(must(os.ReadFile("/proc/self/status"))), "CapPrm"), 16, 64))
	hex := func(v uint64) string { return fmt.Sprintf("%016x", v) }
	for name, c := range map[string]struct {
		set  func(*wire.Spec)
		want map[string]string
	}{
		"root, all": {func(*wire.Spec) {}, map[string]string{"Uid": "0\t0\t0\t0", "Gid": "0\t0\t0\t0", "Groups": "", "CapBnd": hex(full), "CapEff": hex(full), "CapPrm": hex(full), "CapInh": hex(0), "CapAmb": hex(0), "NoNewPrivs": "0"}},
		"root, some": {func(s *wire.Spec) { s.Capabilities, s.NoNewPrivs = chown|netBind, true },
			map[string]string{"CapBnd": hex(chown | netBind), "CapEff": hex(chown | netBind), "CapPrm": hex(chown | netBind), "CapInh": hex(0), "NoNewPrivs": "1"}},
		"root, none": {func(s *wire.Spec) { s.Capabilities = 0 }, map[string]string{"CapBnd": hex(0), "CapEff": hex(0), "CapPrm": hex(0)}},
		"user": {func(s *wire.Spec) { s.UID, s.GID, s.Groups = 1234, 2345, []uint32{7, 9} },
			map[string]string{"Uid": "1234\t1234\t1234\t1234", "Gid": "2345\t2345\t2345\t2345", "Groups": "7 9", "CapBnd": hex(full), "CapEff": hex(0), "CapPrm": hex(0), "CapInh": hex(0), "CapAmb": hex(0)}},
		"user, ambient": {func(s *wire.Spec) {
			s.UID, s.GID, s.Capabilities, s.CapAmbient, s.NoNewPrivs = 1234, 1234, chown|netBind, netBind, true
		}, map[string]string{"CapBnd": hex(chown | netBind), "CapEff": hex(netBind), "CapPrm": hex(netBind), "CapInh": hex(netBind), "CapAmb": hex(netBind), "NoNewPrivs": "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "/usr/bin/cat", "/proc/self/status")
			c.set(&b.spec)
			got := map[string]string{}
			for line := range strings.Lines(b.output()) {
				key, value, _ := strings.Cut(line, ":")
				got[key] = strings.TrimSpace(value)
			}
			for key, want := range c.want {
				expect(t, key, got[key], want)
			}
		})
	}
}

func TestTheShimKeepsItsOwnCredentialsAndLimits(t *testing.T) {
	b := newBox(t, "/bin/sleep", "1000")
	b.spec.UID, b.spec.GID, b.spec.Capabilities, b.spec.NoNewPrivs, b.spec.Workdir = 1234, 1234, 0, true, "/tmp"
	b.spec.Rlimits = []wire.Rlimit{{Resource: unix.RLIMIT_NPROC, Soft: 5, Hard: 5}, {Resource: unix.RLIMIT_CPU, Soft: 3, Hard: 4}, {Resource: unix.RLIMIT_AS, Soft: 1 << 28, Hard: 1 << 28}, {Resource: unix.RLIMIT_CORE, Soft: 0, Hard: 0}}
	b.mustStart()
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	shim, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.h.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"Uid", "Gid", "Groups", "CapBnd", "CapEff", "NoNewPrivs"} {
		expect(t, key, field(string(shim), key), field(string(own), key))
	}
	for _, res := range []int{unix.RLIMIT_NPROC, unix.RLIMIT_CPU, unix.RLIMIT_AS, unix.RLIMIT_CORE} {
		var ours, its unix.Rlimit
		if err := errors.Join(unix.Prlimit(0, res, nil, &ours), unix.Prlimit(b.h.PID, res, nil, &its)); err != nil || ours != its {
			t.Errorf("rlimit %s: %v, ours %v (%v)", rlimitName(res), its, ours, err)
		}
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", b.h.PID)); err != nil || cwd != "/" {
		t.Errorf("cwd %q, %v", cwd, err)
	}
	if adj, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", b.h.PID)); err != nil || string(adj) != string(must(os.ReadFile("/proc/self/oom_score_adj"))) {
		t.Errorf("oom_score_adj %q, %v", adj, err)
	}
}

func TestRlimits(t *testing.T) {
	b := newBox(t, "/usr/bin/grep", "-E", "^Max (open files|core file|processes)", "/proc/self/limits")
	b.spec.Rlimits = []wire.Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 100, Hard: 200}, {Resource: unix.RLIMIT_CORE, Soft: 0, Hard: 0}, {Resource: unix.RLIMIT_NPROC, Soft: 50, Hard: 60}}
	out := strings.Join(strings.Fields(b.output()), " ")
	expect(t, "limits", out, "Max core file size 0 0 bytes Max processes 50 60 processes Max open files 100 200 files")
}

func TestNofileIsNotTheRaisedOneOfTheShim(t *testing.T) {
	b := sh(t, "ulimit -S -n")
	n, err := strconv.Atoi(strings.TrimSpace(b.output()))
	if err != nil || n > 1024 {
		t.Errorf("soft limit %d, %v", n, err)
	}
}

func TestNamesAndPlace(t *testing.T) {
	b := sh(t, "uname -n; pwd; read c </proc/1/comm; echo $c $PPID; read pid comm s pp pg sid rest </proc/self/stat; test $sid = $$ && echo own session; set -- /proc/[0-9]*; echo $#")
	b.spec.Hostname, b.spec.Workdir = "in-the-box", "/usr"
	expect(t, "output", b.output(), "in-the-box\n/usr\nboxlite-shim 1\nown session\n2\n")
	if h := must(os.Hostname()); h == "in-the-box" {
		t.Error("the host was renamed")
	}
}

func TestPrivateNet(t *testing.T) {
	b := sh(t, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; python3 -c 'import socket;s=socket.socket();s.bind((\"127.0.0.1\",0));s.listen();c=socket.create_connection(s.getsockname());print(\"connected\")'")
	b.spec.PrivateNet = true
	expect(t, "output", b.output(), "lo\nconnected\n")
}

func TestMounts(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	put := func(p, s string) string {
		if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	put(filepath.Join(src, "f"), "from src\n")
	target := put(filepath.Join(t.TempDir(), "file"), "below\n")
	rw, ro := filepath.Join(dst, "rw"), filepath.Join(dst, "ro")
	for _, d := range []string{rw, ro} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, readonly := range []bool{false, true} {
		t.Run(fmt.Sprint("readonly root ", readonly), func(t *testing.T) {
			b := sh(t, fmt.Sprintf(`cat %[1]s/f %[2]s/f %[3]s
				echo new >%[1]s/new && echo rw
				echo new >%[2]s/new2 || echo ro
				echo x >%[4]s/probe && echo root writable
				echo x >/dev/null && echo dev writable
				mkdir /dev/shm/$$ && rmdir /dev/shm/$$ && echo shm writable
				echo 5 >/proc/self/oom_score_adj && echo proc writable
				exec 2>/dev/null; true`, rw, ro, target, dst))
			b.spec.Mounts = []wire.Mount{{Source: src, Target: rw}, {Source: src, Target: ro, ReadOnly: true}, {Source: filepath.Join(src, "f"), Target: target}}
			b.spec.ReadonlyRoot = readonly
			out := b.output()
			for _, line := range []string{"rw\n", "ro\n", "dev writable\n", "shm writable\n", "proc writable\n"} {
				if !strings.Contains(out, "\n"+line) {
					t.Errorf("no %q in %s", line, out)
				}
			}
			if !strings.HasPrefix(out, "from src\nfrom src\nfrom src\n") {
				t.Errorf("contents: %s", out)
			}
			if strings.Contains(out, "root writable") == readonly {
				t.Errorf("root: %s", out)
			}
		})
	}
	if data := must(os.ReadFile(target)); string(data) != "below\n" {
		t.Error("the mount is seen on the host")
	}
}

func TestMask(t *testing.T) {
	secret := t.TempDir()
	inner := filepath.Join(secret, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inner, "f"), []byte("kept\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	place := t.TempDir()
	b := newBoxIn(t, secret, "/bin/sh", "-c", fmt.Sprintf(`ls -A %[1]s | wc -l; touch %[1]s/x 2>/dev/null || echo ro; cat %[2]s/f; stat -c %%a %[1]s`, secret, place))
	b.spec.Mask = []string{secret, "/no/such/path"}
	b.spec.Mounts = []wire.Mount{{Source: inner, Target: place}}
	expect(t, "output", b.output(), "0\nro\nkept\n0\n")
}

// TestMaskHolds is what a restart of the daemon does: the host unmounts and
// mounts at the masked place while the box lives, and propagation carries both
// into the box. It runs under a mount namespace that is shared, as that of a
// host is, so that the machine's own stays as it is.
func TestMaskHolds(t *testing.T) {
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprint("mounted before ", before), func(t *testing.T) {
			inSharedNamespace(t)
			place := t.TempDir()
			mount := func(name string) {
				if err := unix.Mount(name, place, "tmpfs", 0, ""); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(place, name), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			unmount := func() {
				if err := unix.Unmount(place, unix.MNT_DETACH); err != nil {
					t.Fatal(err)
				}
			}
			if before {
				mount("first")
			}
			b := sh(t, "exec sleep 1000")
			b.spec.Mask = []string{place}
			b.mustStart()
			look := func(when string) {
				t.Helper()
				seen, err := os.ReadDir(fmt.Sprintf("/proc/%d/root%s", b.h.PID, place))
				if err != nil || len(seen) != 0 {
					t.Errorf("%s the box sees %v (%v)", when, seen, err)
				}
			}
			look("at first")
			if before {
				unmount()
				look("after the unmount")
			}
			for i := range 3 {
				mount(fmt.Sprint("again", i))
				look(fmt.Sprint("after mount ", i))
				unmount()
				look(fmt.Sprint("after unmount ", i))
			}
		})
	}
}

// TestMaskAsksNoFUSEServer masks the mount of a server that is dead, and of one
// that never answers, where any request would wait for ever.
func TestMaskAsksNoFUSEServer(t *testing.T) {
	for _, dead := range []bool{true, false} {
		t.Run(fmt.Sprint("dead ", dead), func(t *testing.T) {
			inSharedNamespace(t)
			place := t.TempDir()
			fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			server := os.NewFile(uintptr(fd), "/dev/fuse")
			defer closeFile(server)
			if err := unix.Mount("boxlite", place, "fuse.boxlite", unix.MS_NOSUID|unix.MS_NODEV,
				fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fd)); err != nil {
				t.Fatal(err)
			}
			// First, so that a request which waits all the same ends with the test.
			defer func() { _ = unix.Unmount(place, unix.MNT_DETACH) }()
			if dead {
				_ = server.Close()
				if _, err := os.Stat(place); !errors.Is(err, unix.ENOTCONN) {
					t.Fatalf("the mount is not dead: %v", err)
				}
			}
			b := newBox(t, "/bin/ls", "-A", place)
			b.spec.Mask = []string{place}
			expect(t, "ls", b.output(), "")
		})
	}
}

// TestUnmountOfTheHostReachesTheBox is why the box's mounts are slaves.
func TestUnmountOfTheHostReachesTheBox(t *testing.T) {
	inSharedNamespace(t)
	place := t.TempDir()
	if err := unix.Mount("x", place, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	b := sh(t, "exec sleep 1000").mustStart()
	seen := func() bool {
		return strings.Contains(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", b.h.PID)))), " "+place+" ")
	}
	if !seen() {
		t.Fatal("the box does not have the mount")
	}
	if err := unix.Unmount(place, 0); err != nil {
		t.Fatal(err)
	}
	if seen() {
		t.Error("the box still has the mount")
	}
}

func TestDaemonSeesNothingOfTheBoxesMounts(t *testing.T) {
	inSharedNamespace(t)
	before := must(os.ReadFile("/proc/thread-self/mountinfo"))
	b := sh(t, "exec sleep 1000")
	b.spec.Mask = []string{t.TempDir()}
	b.spec.ReadonlyRoot = true
	b.mustStart()
	if after := must(os.ReadFile("/proc/thread-self/mountinfo")); !bytes.Equal(before, after) {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}
