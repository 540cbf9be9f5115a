package reaper

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tracerEnv makes the test binary a tracer of the pid it names.
const tracerEnv = "BOXLITE_TEST_TRACER"

// refuseEnv makes the test binary a process whose pidfd_open gives the errno it
// names, and which says whether it can have a net.
const refuseEnv = "BOXLITE_TEST_REFUSE"

func TestMain(m *testing.M) {
	if errno := os.Getenv(refuseEnv); errno != "" {
		os.Exit(refuse(errno))
	}
	if pid := os.Getenv(tracerEnv); pid != "" {
		os.Exit(trace(pid))
	}
	// Orphans of the tests come to this process, as they come to the init of a pid
	// namespace.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	code := m.Run()
	for _, pid := range children(os.Getpid()) {
		fmt.Fprintf(os.Stderr, "left behind: process %d %s in state %s\n", pid, comm(pid), State(pid))
		code = max(code, 1)
	}
	os.Exit(code)
}

// trace seizes a process and lets it go when it is told so: by waiting for it, or
// by its own end.
func trace(text string) int {
	runtime.LockOSThread()
	var pid int
	_, err := fmt.Sscan(text, &pid)
	if err == nil {
		_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0)
		if errno != 0 {
			err = errno
		}
	}
	if err != nil {
		fmt.Println("seize:", err)
		return 1
	}
	fmt.Println("seized")
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if strings.TrimSpace(line) == "wait" {
		if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != nil {
			fmt.Println("wait:", err)
			return 1
		}
	}
	return 0
}

// tracer holds a process under ptrace until let is called.
func tracer(t *testing.T, pid int) (let func(how string)) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", tracerEnv, pid))
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	if line != "seized\n" {
		t.Fatalf("the tracer says %q", line)
	}
	return func(how string) {
		t.Helper()
		_, err := fmt.Fprintln(in, how)
		must(t, err)
		must(t, in.Close())
		must(t, cmd.Wait())
	}
}

func refuse(text string) int {
	var errno uint32
	_, err := fmt.Sscan(text, &errno)
	if err == nil && errno != 0 {
		filter := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_PIDFD_OPEN},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		// For all threads: package os may ask on any.
		_, _, no := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
		if no != 0 {
			err = no
		}
	}
	if err != nil {
		fmt.Println("filter:", err)
		return 1
	}
	w, err := NewWatcher()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if _, err := NewNet(w, nil); err != nil {
		fmt.Println(err)
		return 0
	}
	fmt.Println("a net")
	return 0
}
