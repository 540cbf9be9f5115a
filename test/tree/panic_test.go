package tree

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// recovers are the functions that may recover a panic: they end the daemon, where a library
// would go on with a lock held. See fsapi.FS.OnPanic.
var recovers = []string{"endOnPanic", "dieOnPanic"}

// yamlImport is a library that panics on some texts. What calls it may recover that: the text is a
// client's, and nothing but its tree is half done.
const yamlImport = `"gopkg.in/yaml.v3"`

func TestNothingSwallowsAPanic(t *testing.T) {
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == yamlImport }) {
			return nil
		}
		for _, decl := range file.Decls {
			name := "a variable"
			if f, ok := decl.(*ast.FuncDecl); ok {
				name = f.Name.Name
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if f, ok := call.Fun.(*ast.Ident); !ok || f.Name != "recover" {
					return true
				}
				if found[name] = true; !slices.Contains(recovers, name) {
					t.Errorf("%s: %s recovers panics", path, name)
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range recovers {
		if !found[name] {
			t.Errorf("%s recovers nothing", name)
		}
	}
}
