package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// prefix is that of every directory a test makes.
const prefix = "boxlite-test."

// built holds the binaries, made once for all tests of a package.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// Main is what a package's TestMain gives to os.Exit: it runs the tests, removes
// the binaries, and fails the run when a child of this process is left.
func Main(m *testing.M) int {
	if path := os.Getenv(refuseEnv); path != "" {
		return refused(path)
	}
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, "remove the binaries:", err)
			code = max(code, 1)
		}
	}
	children, err := Children(os.Getpid())
	if err != nil {
		fmt.Fprintln(os.Stderr, "children of the tests:", err)
		code = max(code, 1)
	}
	for _, pid := range children {
		fmt.Fprintf(os.Stderr, "left behind: process %d %s in state %s\n", pid, Comm(pid), State(pid))
		code = max(code, 1)
	}
	return code
}

// Binaries returns the paths of boxlited and boxlite-shim, built from this tree.
// With -race the daemon looks for races too; the shim, which is no place for the
// race detector's threads, never does.
func Binaries(t testing.TB) (boxlited, shim string) {
	t.Helper()
	built.once.Do(func() { built.dir, built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "boxlited"), filepath.Join(built.dir, "boxlite-shim")
}

func build() (string, error) {
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return "", err
	}
	const module = "github.com/boxlitefs/boxlite"
	commands := [][]string{
		{"CGO_ENABLED=0", "go", "build", "-o", dir + "/", module + "/cmd/boxlite-shim"},
		{"CGO_ENABLED=0", "go", "build", "-o", dir + "/", module + "/cmd/boxlited"},
	}
	if Race {
		commands[1] = []string{"CGO_ENABLED=1", "go", "build", "-race", "-o", dir + "/", module + "/cmd/boxlited"}
	}
	for _, c := range commands {
		cmd := exec.Command(c[1], c[2:]...)
		cmd.Env = append(os.Environ(), c[0])
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("%s: %w\n%s", strings.Join(c, " "), err, out)
		}
	}
	return dir, nil
}

// Children returns the pids of a process's children, zombies too.
func Children(pid int) ([]int, error) {
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if gone(err) {
			continue // a thread that has ended
		}
		if err != nil {
			return nil, err
		}
		for _, word := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				return nil, err
			}
			out = append(out, child)
		}
	}
	return out, nil
}
