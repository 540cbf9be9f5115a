package rootfs

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
)

func TestTheCommandIsTheOldestChild(t *testing.T) {
	boot, err := reaper.BootID()
	must(t, err)
	self, err := reaper.Identify(boot, os.Getpid())
	must(t, err)
	_, err = FindCommand(boot, self, HostIDs)
	fails(t, "without a child", err, ErrNoProcess)
	var pids []int
	for range 3 {
		c := exec.Command("sleep", "60")
		must(t, c.Start())
		t.Cleanup(func() {
			must(t, c.Process.Kill())
			_ = c.Wait() // it was killed
		})
		pids = append(pids, c.Process.Pid)
		// A tick of the clock that start times are counted in.
		for began := time.Now(); time.Since(began) < 11*time.Millisecond; {
		}
	}
	fd, err := FindCommand(boot, self, HostIDs)
	must(t, err)
	status, err := readProc(fd, "status")
	must(t, err)
	if !strings.Contains(status, "\nPid:\t"+strconv.Itoa(pids[0])+"\n") {
		t.Errorf("the command is not %d but %s", pids[0], status)
	}
	must(t, unix.Close(fd))
	other := self
	other.StartTicks++
	_, err = FindCommand(boot, other, HostIDs)
	fails(t, "with a pid that is another's now", err, ErrNoProcess)
	other = self
	if other.Inode++; self.Inode != 0 {
		_, err = FindCommand(boot, other, HostIDs)
		fails(t, "with another's inode", err, ErrNoProcess)
	}
}

// What an OCI runtime leaves between the shim and the command is not the command.
func TestTheCommandOfABoxWithIdsOfItsOwn(t *testing.T) {
	boot, err := reaper.BootID()
	must(t, err)
	self, err := reaper.Identify(boot, os.Getpid())
	must(t, err)
	start := func(script string) {
		c := exec.Command("sh", "-c", "echo; "+script)
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		ready, err := c.StdoutPipe()
		must(t, err)
		must(t, c.Start())
		t.Cleanup(func() {
			must(t, unix.Kill(-c.Process.Pid, unix.SIGKILL))
			_ = c.Wait() // it was killed
		})
		_, err = ready.Read(make([]byte, 1))
		must(t, err)
	}
	ids := IDs{Base: 300000, Size: 65536}
	start("sleep 60")
	_, err = FindCommand(boot, self, ids)
	fails(t, "with a child that has the host's ids", err, ErrNoProcess)
	name := func() string {
		end := time.Now().Add(5 * time.Second)
		for {
			fd, err := FindCommand(boot, self, ids)
			if err == nil {
				text, err := readProc(fd, "cmdline")
				must(t, err)
				fails(t, "the root of a process that has the host's files", rootOf(ids).attach(fd), ErrNoProcess)
				must(t, unix.Close(fd))
				if strings.HasPrefix(text, "sleep") { // and not the unshare that becomes it
					return strings.ReplaceAll(text, "\x00", " ")
				}
			}
			if time.Now().After(end) {
				t.Fatal("the command is not found: ", err)
			}
		}
	}
	start("exec sleep 61 & wait")
	start("exec unshare -U sleep 62")
	if got := name(); got != "sleep 62 " {
		t.Errorf("the command is %q", got)
	}
}

func TestTheCommandBelowItsRuntime(t *testing.T) {
	boot, err := reaper.BootID()
	must(t, err)
	// The first child has the program of the shim, as the init of a container has.
	c := exec.Command("sh", "-c", "unshare -U sh -c 'sleep 61; :' & bash -c 'unshare -U sleep 60; :'; :")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, c.Start())
	defer func() {
		must(t, unix.Kill(-c.Process.Pid, unix.SIGKILL))
		_ = c.Wait() // it was killed
	}()
	shim, err := reaper.Identify(boot, c.Process.Pid)
	must(t, err)
	for end := time.Now().Add(5 * time.Second); ; {
		name := ""
		fd, err := FindCommand(boot, shim, IDs{Base: 300000, Size: 65536})
		if err == nil {
			if ourUsers(fd) {
				t.Error("the command has the host's ids")
			}
			name, err = readProc(fd, "cmdline")
			must(t, err)
			must(t, unix.Close(fd))
			if name == "sleep\x0060\x00" { // and not an unshare that becomes it, or the init
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("the command is not found but %q: %v", name, err)
		}
	}
}

// readProc reads a file of /proc/PID.
func readProc(dir int, name string) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/%s", dir, name))
	return string(text), err
}
