package measured

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/test/daemon"
)

// A descriptor of /dev/fuse that a child inherits keeps the clients of a killed
// daemon hanging for as long as the child lives.
func TestClientsOfAKilledDaemonGetENOTCONNAtOnce(t *testing.T) {
	h, d := home(t)
	ready(t, h, "x")
	inside := daemon.InNamespace(daemon.Namespace(t, h.Records()["x"].Identity.PID))
	if len(inside) < 2 {
		t.Fatalf("the box has only the processes %v", inside)
	}
	for _, pid := range inside {
		files, err := daemon.Files(pid)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(slices.Collect(maps.Values(files)), "/dev/fuse") {
			t.Errorf("process %d %s of the box holds /dev/fuse", pid, daemon.Comm(pid))
		}
	}
	files, err := daemon.Files(d.PID)
	if err != nil || !slices.Contains(slices.Collect(maps.Values(files)), "/dev/fuse") {
		t.Fatalf("the daemon itself does not hold /dev/fuse: %v, %v", files, err)
	}
	reader := spawn(t, `exec cat "$1"`, h.Box("x", "wait", "stopped"))
	reader.blocked()
	closer := spawn(t, `exec /bin/echo "stop 1h" >"$1"`, h.Box("x", "ctl"))
	closer.blocked()
	held := open(t, h, h.Box("x", "status"), unix.O_RDONLY)

	d.Kill()
	within(t, prompt, "a path of a dead mount", func() {
		_, err := h.Read("boxes", "x", "status")
		errno(t, "read", err, unix.ENOTCONN)
		errno(t, "mkdir", h.Mkdir("y"), unix.ENOTCONN)
	})
	if status := reader.join(2*time.Second, "a blocked reader"); status.ExitStatus() == 0 {
		t.Error("a blocked reader ended well when the daemon was killed")
	}
	if status := closer.join(2*time.Second, "a blocked close"); status.ExitStatus() == 0 {
		t.Error("a blocked close ended well when the daemon was killed")
	}
	err = h.Call("read of an open file", func() error {
		_, err := daemon.ReadFD(held)
		return err
	})
	if !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("read of an open file of a dead mount: %v", err)
	}
	_ = shut(h, held) // whatever it says
	if !daemon.Alive(inside[0]) {
		t.Error("the box did not outlive the daemon")
	}
}

// as runs a script as another user.
func as(t *testing.T, uid uint32, script string, args ...string) (said string, ok bool) {
	t.Helper()
	cmd := exec.Command("/usr/bin/timeout", append([]string{"10", "/bin/sh", "-c", script, "sh"}, args...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return string(out), err == nil
}

// allow_other without default_permissions checks nothing at all.
func TestModesHoldForOtherUsers(t *testing.T) {
	h, _ := home(t)
	h.MustBox("x", sleeper)
	const nobody = 65534
	denied := func(what, script string, args ...string) {
		t.Helper()
		said, ok := as(t, nobody, script, args...)
		if ok || !strings.Contains(said, "ermission denied") && !strings.Contains(said, "not permitted") {
			t.Errorf("another user may %s: %q", what, said)
		}
	}
	denied("write ctl", `echo start >"$1"`, h.Box("x", "ctl"))
	denied("read ctl", `cat "$1"`, h.Box("x", "ctl"))
	denied("read config.yaml", `cat "$1"`, h.Box("x", "config.yaml"))
	denied("write config.yaml", `echo "command: [id]" >"$1"`, h.Box("x", "config.yaml"))
	denied("make a box", `mkdir "$1"`, h.Box("y"))
	denied("remove a box", `rmdir "$1"`, h.Box("x"))
	denied("write status", `echo x >"$1"`, h.Box("x", "status"))
	denied("take ctl", `chown 65534 "$1"`, h.Box("x", "ctl"))
	if got := h.MustRead("boxes", "x", "status"); got != "configured\n" {
		t.Errorf("status %q", got)
	}
	for _, file := range []string{"status", "health", "pid", "exit_code", "last_error", "info.json", "stats", "log", "events"} {
		if said, ok := as(t, nobody, `cat "$1"`, h.Box("x", file)); !ok {
			t.Errorf("another user may not read %s: %s", file, said)
		}
	}
	// Delegation: what was given away works for its new owner.
	if err := h.Call("chown", func() error { return unix.Chown(h.Box("x", "ctl"), nobody, nobody) }); err != nil {
		t.Fatal(err)
	}
	if said, ok := as(t, nobody, `exec /bin/echo start >"$1"`, h.Box("x", "ctl")); !ok {
		t.Errorf("the new owner of ctl may not write it: %s", said)
	}
	if got := h.MustRead("boxes", "x", "status"); got != "running\n" {
		t.Errorf("status %q", got)
	}
	h.MustPut("x", "ctl", "kill\n")
}

// Without a Getattr directories show mode 0000 to others.
func TestEveryFileShowsItsMode(t *testing.T) {
	h, _ := home(t)
	h.MustBox("x", sleeper)
	modes := map[string]string{
		"": "755", "boxes": "755", "images": "755", "wait": "755", "boxes/x": "755", "boxes/x/wait": "755", "boxes/x/exec": "755",
		"version": "444", "features": "444", "events": "444", "metrics": "444", "last_error": "444", "images/ctl": "200", "images/last_error": "444", "wait/event": "444",
		"boxes/x/config.yaml": "640", "boxes/x/ctl": "200",
	}
	for _, f := range []string{"status", "health", "pid", "exit_code", "last_error", "info.json", "stats", "log", "events", "wait/running", "wait/healthy", "wait/exit", "wait/stopped", "wait/log", "wait/event"} {
		modes["boxes/x/"+f] = "444"
	}
	for path, mode := range modes {
		said, ok := as(t, 65534, `stat -c "%a %u %g" "$1"`, h.In(path))
		if !ok || strings.TrimSpace(said) != mode+" 0 0" {
			t.Errorf("stat of %q: %q, not %q", path, strings.TrimSpace(said), mode+" 0 0")
		}
	}
	out, said, code := h.Sh(`cd / && find "$1" -printf '%P\n'`, h.Mount)
	if code != 0 {
		t.Errorf("find: %s", said)
	}
	for line := range strings.Lines(out) {
		if _, ok := modes[strings.TrimSpace(line)]; !ok {
			t.Errorf("the tree has %q, which is in no table", line)
		}
	}
	if n := strings.Count(out, "\n"); n != len(modes) {
		t.Errorf("the tree has %d entries, not %d:\n%s", n, len(modes), out)
	}
}

// A truncation that arrives after the open, without a handle, leaves old tails.
func TestTruncatingOpenLeavesNoOldTail(t *testing.T) {
	h, _ := home(t)
	h.MustBox("x", sleeper+"# "+strings.Repeat("long ", 1000)+"\n")
	for _, c := range []string{
		`exec /bin/echo "command: [id]" >"$1"`,
		`echo "command: [id]" | dd of="$1" 2>/dev/null`,
		`echo "command: [id]" | tee "$1" >/dev/null`,
		`echo "command: [id]" >"$2" && cp "$2" "$1"`,
		`cat >"$1" <<E
command: [id]
E`,
	} {
		h.MustPut("x", "config.yaml", sleeper+"# "+strings.Repeat("long ", 1000)+"\n")
		if _, said, code := h.Sh(c, h.Box("x", "config.yaml"), h.Dir+"/copy"); code != 0 {
			t.Errorf("%s: %s", c, said)
		}
		if got := h.MustRead("boxes", "x", "config.yaml"); got != "command: [id]\n" {
			t.Errorf("after %s: %q", c, got[:min(len(got), 80)])
		}
	}
	// Without a truncation what is there stays.
	if _, said, code := h.Sh(`exec /bin/echo "hostname: y" >>"$1"`, h.Box("x", "config.yaml")); code != 0 {
		t.Errorf("append: %s", said)
	}
	if got := h.MustRead("boxes", "x", "config.yaml"); got != "command: [id]\nhostname: y\n" {
		t.Errorf("after an append: %q", got)
	}
}

// shells are those that people have, as words before a script.
var shells = map[string][]string{
	"bash": {"bash", "-c"}, "dash": {"dash", "-c"}, "busybox": {"busybox", "sh", "-c"},
}

func shell(h *daemon.Home, name, script string, args ...string) (out, said string, code int) {
	return h.Run(append(append(append([]string{}, shells[name]...), script, "sh"), args...)...)
}

// Without Setattr a redirect fails with ENOTSUP.
func TestRedirectsWork(t *testing.T) {
	h, _ := home(t)
	for name := range shells {
		h.MustBox(name, "")
		for _, c := range []string{
			`echo "command: [sleep, infinity]" >"$1/config.yaml"`, `echo start >"$1/ctl"`, `echo running >"$1/../../events" && exit 9; true`,
			`cat "$1/wait/running"`, `echo pause >>"$1/ctl"`, `printf 'resume\n' >"$1/ctl"`, `printf kill >"$1/ctl"`,
		} {
			if _, said, code := shell(h, name, c, h.Box(name)); code != 0 {
				t.Errorf("%s: %s: %s", name, c, said)
			}
		}
		h.AwaitFile(name, "status", "stopped")
		for _, event := range []string{"configured", " start\n", " pause\n", " resume\n", " kill\n"} {
			if !strings.Contains(h.MustRead("boxes", name, "events")+"\n", event) {
				t.Errorf("%s: no event %q in:\n%s", name, event, h.MustRead("boxes", name, "events"))
			}
		}
	}
}

// go-fuse's own Unlink and Rmdir succeed, its Rename and others say ENOSYS or
// ENOTSUP, and an opcode that was answered ENOSYS is never sent again: so each
// refusal is asked for thrice.
func TestWhatIsNotOfferedIsRefusedEachTime(t *testing.T) {
	h, _ := home(t)
	h.MustBox("x", sleeper)
	h.MustBox("y", "")
	in, x := h.In, func(f string) string { return h.Box("x", f) }
	outside := h.File("outside", "x")
	calls := map[string]struct {
		errno unix.Errno
		call  func() error
	}{
		"unlink of a file":        {unix.EPERM, func() error { return unix.Unlink(x("status")) }},
		"unlink of config.yaml":   {unix.EPERM, func() error { return unix.Unlink(x("config.yaml")) }},
		"unlink at the root":      {unix.EPERM, func() error { return unix.Unlink(in("version")) }},
		"unlink in wait":          {unix.EPERM, func() error { return unix.Unlink(x("wait/exit")) }},
		"unlink of nothing":       {unix.ENOENT, func() error { return unix.Unlink(x("nothing")) }},
		"rmdir of wait":           {unix.EPERM, func() error { return unix.Rmdir(x("wait")) }},
		"rmdir of boxes":          {unix.EPERM, func() error { return unix.Rmdir(in("boxes")) }},
		"rmdir of a file":         {unix.ENOTDIR, func() error { return unix.Rmdir(x("status")) }},
		"rmdir of no box":         {unix.ENOENT, func() error { return unix.Rmdir(h.Box("nothing")) }},
		"rename of a box":         {unix.EPERM, func() error { return unix.Rename(h.Box("x"), h.Box("z")) }},
		"rename over a box":       {unix.EPERM, func() error { return unix.Rename(h.Box("x"), h.Box("y")) }},
		"rename of a file":        {unix.EPERM, func() error { return unix.Rename(x("status"), x("status.old")) }},
		"rename over config.yaml": {unix.EPERM, func() error { return unix.Rename(x("status"), x("config.yaml")) }},
		"rename into wait":        {unix.EPERM, func() error { return unix.Rename(x("status"), x("wait/status")) }},
		"rename of boxes":         {unix.EPERM, func() error { return unix.Rename(in("boxes"), in("crates")) }},
		"exchange": {unix.EPERM, func() error {
			return unix.Renameat2(unix.AT_FDCWD, x("status"), unix.AT_FDCWD, x("pid"), unix.RENAME_EXCHANGE)
		}},
		"rename from outside":     {unix.EXDEV, func() error { return unix.Rename(outside, x("new")) }},
		"create in a box":         {unix.EPERM, func() error { return create(x("new")) }},
		"create in boxes":         {unix.EPERM, func() error { return create(in("boxes/new")) }},
		"create at the root":      {unix.EPERM, func() error { return create(in("new")) }},
		"create in wait":          {unix.EPERM, func() error { return create(in("wait/new")) }},
		"mkdir at the root":       {unix.EPERM, func() error { return unix.Mkdir(in("new"), 0o755) }},
		"mkdir in a box":          {unix.EPERM, func() error { return unix.Mkdir(x("new"), 0o755) }},
		"mkdir in wait":           {unix.EPERM, func() error { return unix.Mkdir(x("wait/new"), 0o755) }},
		"mkdir of a box again":    {unix.EEXIST, func() error { return unix.Mkdir(h.Box("x"), 0o755) }},
		"mkdir of a bad name":     {unix.EINVAL, func() error { return unix.Mkdir(h.Box(".x"), 0o755) }},
		"symlink":                 {unix.EPERM, func() error { return unix.Symlink("status", x("link")) }},
		"symlink in boxes":        {unix.EPERM, func() error { return unix.Symlink("x", h.Box("link")) }},
		"link":                    {unix.EPERM, func() error { return unix.Link(x("status"), x("link")) }},
		"mknod of a fifo":         {unix.EPERM, func() error { return unix.Mknod(x("fifo"), unix.S_IFIFO|0o644, 0) }},
		"mknod of a file":         {unix.EPERM, func() error { return unix.Mknod(h.Box("file"), unix.S_IFREG|0o644, 0) }},
		"truncate of config.yaml": {unix.EPERM, func() error { return unix.Truncate(x("config.yaml"), 0) }},
		"truncate of the log":     {unix.EPERM, func() error { return unix.Truncate(x("log"), 0) }},
		"chmod of config.yaml":    {unix.EPERM, func() error { return unix.Chmod(x("config.yaml"), 0o666) }},
		"chmod of the root":       {unix.EPERM, func() error { return unix.Chmod(in(), 0o777) }},
		"chmod of boxes":          {unix.EPERM, func() error { return unix.Chmod(in("boxes"), 0o777) }},
		"chown of version":        {unix.EPERM, func() error { return unix.Chown(in("version"), 1, 1) }},
		"write of status":         {unix.EACCES, func() error { return write(x("status"), "running\n") }},
		"write of the log":        {unix.EACCES, func() error { return write(x("log"), "x\n") }},
		"write in wait":           {unix.EACCES, func() error { return write(x("wait/exit"), "x\n") }},
		"read of ctl":             {unix.EACCES, func() error { _, err := daemon.ReadAll(x("ctl")); return err }},
		"start without a config":  {unix.ENODATA, func() error { return write(h.Box("y", "ctl"), "start\n") }},
		"pause without a process": {unix.ESRCH, func() error { return write(x("ctl"), "pause\n") }},
		"no command":              {unix.EINVAL, func() error { return write(x("ctl"), "frobnicate\n") }},
		"no command at all":       {unix.EINVAL, func() error { return write(x("ctl"), "\n") }},
		"too many commands":       {unix.E2BIG, func() error { return write(x("ctl"), strings.Repeat("stop\n", 1000)) }},
		"no signal":               {unix.EINVAL, func() error { return write(x("ctl"), "signal FROB\n") }},
		"no duration":             {unix.EINVAL, func() error { return write(x("ctl"), "stop soon\n") }},
		"a bad config":            {unix.EINVAL, func() error { return write(x("config.yaml"), early) }},
		"a late bad config":       {unix.EINVAL, func() error { return write(x("config.yaml"), late) }},
		"too big a config":        {unix.EFBIG, func() error { return write(x("config.yaml"), sleeper+"# "+strings.Repeat("x", 64<<10)) }},
		"a name of a file below":  {unix.ENOENT, func() error { _, err := daemon.ReadAll(x("nothing")); return err }},
		"a box that is not there": {unix.ENOENT, func() error { _, err := daemon.ReadAll(h.Box("nothing", "status")); return err }},
	}
	for range 3 {
		for what, c := range calls {
			errno(t, what, h.Call(what, c.call), c.errno)
		}
	}
	if got := h.MustRead("boxes", "x", "config.yaml"); got != sleeper {
		t.Errorf("config.yaml is %q after the refusals", got)
	}
	// People meet them through tools, whose words should be right too.
	out, said, code := h.Sh(`mv "$1" "$2"; rm -rf "$1"; ls "$1" | wc -l`, h.Box("x"), h.Box("z"))
	if code != 0 || strings.TrimSpace(out) != "13" || strings.Count(said, "Operation not permitted") < 2 || strings.Contains(said, "subdirectory of itself") {
		t.Errorf("mv and rm -rf of a box: %q, %s", out, said)
	}
}

func create(path string) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

func write(path, text string) error {
	err, closed := daemon.Write(path, text)
	if err != nil {
		return err
	}
	return closed
}

// Names and attributes are cached for long: a change must drop them before
// anybody can learn of it.
func TestNothingIsEverStale(t *testing.T) {
	h, _ := home(t)
	// A probe changes info.json between a stat and a read.
	h.MustRun("x", sleeper+"health_check: {disabled: true}\n")
	files := []string{"status", "events", "info.json", "config.yaml", "last_error", "pid"}
	last := map[string]int64{}
	check := func(step string) error {
		for _, f := range files {
			var st unix.Stat_t
			if err := unix.Stat(h.Box("x", f), &st); err != nil {
				return fmt.Errorf("stat %s: %w", f, err)
			}
			text, err := daemon.ReadAll(h.Box("x", f))
			if err != nil {
				return fmt.Errorf("read %s: %w", f, err)
			}
			if st.Size != int64(len(text)) {
				return fmt.Errorf("after %s: size of %s is %d, but it has %d bytes: %q", step, f, st.Size, len(text), text[:min(len(text), 200)])
			}
			if st.Mtim.Nano() < last[f] {
				return fmt.Errorf("after %s: mtime of %s went back", step, f)
			}
			last[f] = st.Mtim.Nano()
			// The read has made the kernel doubt the time of access, and with it
			// all it held: this asks again, and is what the next change must drop.
			if err := unix.Stat(h.Box("x", f), &st); err != nil {
				return fmt.Errorf("stat %s: %w", f, err)
			}
		}
		return nil
	}
	moved := func(step string, fs ...string) error {
		before := map[string]int64{}
		for f, at := range last {
			before[f] = at
		}
		if err := check(step); err != nil {
			return err
		}
		for _, f := range fs {
			if last[f] == before[f] {
				return fmt.Errorf("after %s: mtime of %s has not moved", step, f)
			}
		}
		return nil
	}
	err := h.CallWithin(60*time.Second, "500 changes", func() error {
		if err := check("the start"); err != nil {
			return err
		}
		for i := range 125 {
			steps := []struct {
				file, text string
				err        unix.Errno
				moved      []string
			}{
				{"ctl", "pause\n", 0, []string{"status", "events", "info.json"}},
				{"config.yaml", sleeper + "labels: {a: " + strings.Repeat("b", i+1) + "}\n", 0, []string{"config.yaml", "events", "info.json"}},
				{"ctl", "resume\n", 0, []string{"status", "events", "info.json"}},
				{"ctl", strings.Repeat("z", i+1), unix.EINVAL, []string{"last_error", "info.json"}},
			}
			for _, s := range steps {
				if err := write(h.Box("x", s.file), s.text); s.err == 0 && err != nil || s.err != 0 && !errors.Is(err, s.err) {
					return fmt.Errorf("write of %q to %s: %w", s.text, s.file, err)
				}
				if err := moved(s.text, s.moved...); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	h.MustPut("x", "ctl", "kill\n")
}

// Nobody asks for this change, so no reply to a request brings the news of it.
func TestTheEndOfABoxIsNeverStale(t *testing.T) {
	h, _ := home(t)
	h.MustBox("x", "command: [sleep, '0.001']\n")
	err := h.CallWithin(60*time.Second, "100 runs", func() error {
		for i := range 100 {
			fd, err := unix.Open(h.Box("x", "wait", "event"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			if err := write(h.Box("x", "ctl"), "start\n"); err != nil {
				return err
			}
			for events := ""; !strings.Contains(events, "to=stopped"); {
				buf := make([]byte, 4096)
				n, err := unix.Read(fd, buf)
				if err != nil {
					return err
				}
				events += string(buf[:n])
				var st unix.Stat_t
				if err := unix.Stat(h.Box("x", "status"), &st); err != nil {
					return err
				}
				if strings.Contains(events, "to=stopped") && st.Size != int64(len("stopped\n")) {
					return fmt.Errorf("run %d: size of status is %d after the event of its end", i, st.Size)
				}
			}
			if err := unix.Close(fd); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestABoxThatRemovesItselfIsNotListed(t *testing.T) {
	h, _ := home(t)
	err := h.CallWithin(60*time.Second, "50 boxes", func() error {
		for i := range 50 {
			name := "box" + strconv.Itoa(i)
			if err := unix.Mkdir(h.Box(name), 0o755); err != nil {
				return err
			}
			if err := write(h.Box(name, "config.yaml"), "command: [sleep, '0.001']\nremove_on_exit: true\n"); err != nil {
				return err
			}
			fd, err := unix.Open(h.Box(name, "wait", "event"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			if _, err := os.ReadDir(h.In("boxes")); err != nil { // for the kernel to remember
				return err
			}
			if err := write(h.Box(name, "ctl"), "start\n"); err != nil {
				return err
			}
			events, err := daemon.ReadFD(fd)
			if err == nil {
				err = unix.Close(fd)
			}
			if err != nil || !strings.Contains(events, "removed") {
				return fmt.Errorf("wait/event: %q, %w", events, cause(err))
			}
			var st unix.Stat_t
			if err := unix.Stat(h.Box(name), &st); !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("stat of box %d after the event of its removal: %w", i, cause(err))
			}
			list, err := os.ReadDir(h.In("boxes"))
			if err != nil || len(list) != 0 {
				return fmt.Errorf("ls boxes: %v, %w", list, cause(err))
			}
			if err := unix.Stat(h.In("boxes"), &st); err != nil || st.Nlink != 2 {
				return fmt.Errorf("boxes has %d links: %w", st.Nlink, cause(err))
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// cause names the lack of an error where that is what is wrong.
func cause(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

// Every FUSE mount has the same statfs magic: the type in mountinfo tells them
// apart.
func TestMountinfoNamesTheMount(t *testing.T) {
	h, d := home(t)
	mounts, err := daemon.Mounts(h.Mount)
	if err != nil || len(mounts) != 1 || mounts[0].Type != "fuse.boxlite" {
		t.Fatalf("mounts: %v, %v", mounts, err)
	}
	for _, o := range []string{"default_permissions", "allow_other", "user_id=0", "max_read=16384"} {
		if !slices.Contains(strings.Split(mounts[0].Options, ","), o) {
			t.Errorf("options %s lack %s", mounts[0].Options, o)
		}
	}
	d.Stop()
}

// After a kill the mount is dead and in the way: an open gives ENOTCONN, mountinfo
// has the line. (stat and mountpoint may still be answered, from what the kernel
// remembers.)
func TestADeadMountIsClearedAtStart(t *testing.T) {
	h, d := home(t)
	h.MustBox("x", sleeper)
	for range 3 {
		d.Kill()
		_, err := h.Read("version")
		errno(t, "read of a dead mount", err, unix.ENOTCONN)
		if mounts, err := daemon.Mounts(h.Mount); err != nil || len(mounts) != 1 {
			t.Fatalf("mounts of a killed daemon: %v, %v", mounts, err)
		}
		d = h.Start()
		if mounts, err := daemon.Mounts(h.Mount); err != nil || len(mounts) != 1 {
			t.Errorf("mounts of the next daemon: %v, %v", mounts, err)
		}
		if got := h.MustRead("boxes", "x", "status"); got != "configured\n" {
			t.Errorf("status %q", got)
		}
	}
	// Also while somebody holds it open.
	fd := open(t, h, h.Box("x", "status"), unix.O_RDONLY)
	d.Kill()
	h.Start()
	if got := h.MustRead("boxes", "x", "status"); got != "configured\n" {
		t.Errorf("status %q", got)
	}
	if err := shut(h, fd); err != nil && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("close of a file of the dead mount: %v", err)
	}
}

// A second daemon would mount silently over the first.
func TestASecondDaemonIsRefused(t *testing.T) {
	h, d := home(t)
	h.MustRun("x", sleeper)
	pid := h.MustRead("boxes", "x", "pid")
	undisturbed := func() {
		t.Helper()
		if got := h.MustRead("boxes", "x", "pid"); got != pid {
			t.Errorf("pid %q, not %q", got, pid)
		}
		if mounts, err := daemon.Mounts(h.Dir); err != nil || len(mounts) != 1 {
			t.Errorf("mounts: %v, %v", mounts, err)
		}
	}
	// Of a flag that is given twice the last one counts.
	code, said := h.Refused("--mount", h.Dir+"/mnt2")
	if want := fmt.Sprintf("another boxlited (pid %d) is using %s", d.PID, h.State); code != 3 || !strings.Contains(said, want) {
		t.Errorf("the same state: %d, %s", code, said)
	}
	undisturbed()
	code, said = h.Refused("--state", h.Dir+"/state2")
	if code != 4 || !strings.Contains(said, h.Mount) || !strings.Contains(said, "in use") {
		t.Errorf("the same mount point: %d, %s", code, said)
	}
	undisturbed()
	code, _ = h.Refused()
	if code != 3 {
		t.Errorf("the same of both: %d", code)
	}
	undisturbed()
	if code, said := h.Refused("--state", h.Mount+"/state"); code != 2 || !strings.Contains(said, "--state") {
		t.Errorf("a state under the mount: %d, %s", code, said)
	}
	h.MustPut("x", "ctl", "kill\n")
}

func TestAForeignMountIsRefused(t *testing.T) {
	h, d := home(t)
	d.Stop()
	if err := unix.Mount("none", h.Mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.In("precious"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	code, said := h.Refused()
	if code != 4 || !strings.Contains(said, "tmpfs") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if _, err := os.Stat(h.In("precious")); err != nil {
		t.Errorf("the foreign mount was touched: %v", err)
	}
	if err := unix.Unmount(h.Mount, 0); err != nil {
		t.Fatal(err)
	}
	h.Start()
}

// An unmount with an open file is EBUSY. Stop checks the rest: exit 0, in time, no
// mount left.
func TestOpenFilesDoNotHoldUpTheEnd(t *testing.T) {
	h, d := home(t)
	ready(t, h, "x")
	held := open(t, h, h.Box("x", "status"), unix.O_RDONLY)
	config := open(t, h, h.Box("x", "config.yaml"), unix.O_WRONLY)
	clients := map[string]*process{}
	for _, f := range []string{"stopped", "exit", "log", "event"} {
		clients["wait/"+f] = spawn(t, `exec cat "$1"`, h.Box("x", "wait", f))
	}
	clients["the daemon's wait/event"] = spawn(t, `exec cat "$1"`, h.In("wait", "event"))
	clients["a directory"] = spawn(t, `cd "$1" && exec cat wait/stopped`, h.Box("x"))
	clients["a stop"] = spawn(t, `exec /bin/echo "stop 1h" >"$1"`, h.Box("x", "ctl"))
	for _, c := range clients {
		c.blocked()
	}
	d.Stop()
	for what, c := range clients {
		if status := c.join(2*time.Second, what); status.ExitStatus() == 0 {
			t.Errorf("%s ended well when the daemon did", what)
		}
	}
	for _, fd := range []int{held, config} {
		err := h.Call("read", func() error {
			_, err := daemon.ReadFD(fd)
			return err
		})
		if !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.EBADF) {
			t.Errorf("read of a file that outlived the daemon: %v", err)
		}
		_ = shut(h, fd) // whatever it says
	}
}

// The way out of a hung mount, which tests rely on.
func TestAbortFreesAHungMount(t *testing.T) {
	h, d := home(t)
	ready(t, h, "x")
	mounts, err := daemon.Mounts(h.Mount)
	if err != nil || len(mounts) != 1 {
		t.Fatal(mounts, err)
	}
	d.Signal(unix.SIGSTOP)
	daemon.Await(t, "the daemon to stand still", func() bool { return daemon.State(d.PID) == "T" })
	client := spawn(t, `exec cat "$1"`, h.Box("x", "status"))
	client.blocked()
	if err := daemon.Abort(mounts[0].Minor); err != nil {
		t.Fatal(err)
	}
	if status := client.join(2*time.Second, "a client of an aborted mount"); status.ExitStatus() == 0 {
		t.Error("a client of an aborted mount ended well")
	}
	d.Signal(unix.SIGCONT)
	select {
	case <-d.Exited():
	case <-time.After(5 * time.Second):
		t.Fatal("the daemon does not notice that its mount is gone")
	}
	if code := d.Code(); code != 4 {
		t.Errorf("exit code %d after the mount was taken away, not 4", code)
	}
	if mounts, err := daemon.Mounts(h.Mount); err != nil || len(mounts) > 0 {
		t.Errorf("mounts left: %v, %v", mounts, err)
	}
	h.Start()
	if got := h.MustRead("boxes", "x", "status"); got != "running\n" {
		t.Errorf("status %q", got)
	}
}
