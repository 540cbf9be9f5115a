package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// variants holds what Variant has built, each once for all tests of a package.
var variants struct {
	sync.Mutex
	built map[string]error
}

// Variant returns the path of a boxlited built with other arguments of go build,
// without a look for data races. Its name is its file's too.
func Variant(t testing.TB, name string, args ...string) string {
	t.Helper()
	boxlited, _ := Binaries(t)
	path := filepath.Join(filepath.Dir(boxlited), name)
	variants.Lock()
	defer variants.Unlock()
	err, done := variants.built[name]
	if !done {
		words := append(append([]string{"build", "-o", path}, args...), "github.com/boxlitefs/boxlite/cmd/boxlited")
		cmd := exec.Command("go", words...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			t.Logf("%q: %s", words, out)
		}
		if variants.built == nil {
			variants.built = map[string]error{}
		}
		variants.built[name] = err
	}
	if err != nil {
		t.Fatalf("%s was not built: %v", name, err)
	}
	return path
}

// StartAnyhow runs boxlited and returns when it is ready or has ended.
func (h *Home) StartAnyhow(args ...string) *Daemon {
	h.T.Helper()
	d, _ := h.launch(args)
	return d
}

// Users returns the processes that hold a file of the state directory: shims, and
// the daemon.
func (h *Home) Users() []int { return users(h.State) }
