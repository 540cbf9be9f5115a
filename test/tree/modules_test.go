// Package tree tests what is of the tree as a whole and of no package.
package tree

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// root is the top of the tree.
const root = "../.."

// Each direct dependency has its reason on its line in go.mod.
func TestEachDependencyHasItsReason(t *testing.T) {
	text, err := os.ReadFile(root + "/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	const enough = 20 // letters: less is no reason
	direct := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		module, comment, _ := strings.Cut(strings.TrimPrefix(line, "require "), "//")
		words := strings.Fields(module)
		comment = strings.TrimSpace(comment)
		if len(words) != 2 || !strings.HasPrefix(words[1], "v") || strings.HasPrefix(comment, "indirect") {
			continue
		}
		direct++
		if len(comment) < enough {
			t.Errorf("go.mod does not say what %s is for: %q", words[0], comment)
		}
	}
	if direct < 10 {
		t.Errorf("go.mod has %d direct dependencies, and once had over 10", direct)
	}
}

// Its line in go.mod says that x/sys is all that the shim links.
func TestTheShimLinksNothingButSys(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", root+"/cmd/boxlite-shim").Output()
	if err != nil {
		t.Fatal(err)
	}
	for module := range strings.FieldsSeq(string(out)) {
		if module != "golang.org/x/sys" && module != "github.com/boxlitefs/boxlite" {
			t.Errorf("the shim links %s", module)
		}
	}
}

// What each shim links is paid once a box. These bring the poller, a resolver or reflection that is used.
func TestTheShimLinksNothingHeavy(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", root+"/cmd/boxlite-shim").Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		switch pkg {
		case "os", "io/fs", "context", "internal/poll", "net", "fmt", "encoding/json":
			t.Errorf("the shim links %s", pkg)
		}
	}
}
