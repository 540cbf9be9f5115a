package runtime

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// published reports whether an expression is a snapshot that was published: a call of
// Snapshot, or of Load of a field snap.
func published(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	if sel.Sel.Name == "Snapshot" {
		return true
	}
	of, ok := sel.X.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "Load" && of.Sel.Name == "snap"
}

// root returns what a chain of selectors and indexes begins with.
func root(e ast.Expr) ast.Expr {
	for {
		switch x := e.(type) {
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		default:
			return e
		}
	}
}

// writesToPublished returns the places in a file where a part of a published snapshot is
// assigned to: everybody reads them without a lock.
func writesToPublished(fset *token.FileSet, f *ast.File) (places []string) {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		// The variables of the function that point to one.
		vars := map[string]bool{}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			if a, ok := n.(*ast.AssignStmt); ok && len(a.Lhs) == len(a.Rhs) {
				for i, r := range a.Rhs {
					if id, ok := a.Lhs[i].(*ast.Ident); ok && published(r) {
						vars[id.Name] = true
					}
				}
			}
			return true
		})
		places = append(places, assigned(fset, fn.Body, vars)...)
	}
	return places
}

// assigned returns the places below a node where a part of one of the variables, or of a
// published snapshot, is assigned to.
func assigned(fset *token.FileSet, below ast.Node, vars map[string]bool) (places []string) {
	check := func(e ast.Expr) {
		r := root(e)
		if id, ok := r.(*ast.Ident); r != e && (published(r) || ok && vars[id.Name]) {
			places = append(places, fset.Position(e.Pos()).String())
		}
	}
	ast.Inspect(below, func(n ast.Node) bool {
		switch s := n.(type) {
		case *ast.FuncLit:
			inner := maps.Clone(vars)
			for _, p := range s.Type.Params.List {
				for _, name := range p.Names {
					delete(inner, name.Name) // another of that name
				}
			}
			places = append(places, assigned(fset, s.Body, inner)...)
			return false
		case *ast.AssignStmt:
			for _, l := range s.Lhs {
				check(l)
			}
		case *ast.IncDecStmt:
			check(s.X)
		}
		return true
	})
	return places
}

func TestNothingWritesToAPublishedSnapshot(t *testing.T) {
	fset := token.NewFileSet()
	files := 0
	for _, dir := range []string{".", "../fsapi"} {
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		must(t, err)
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			text, err := os.ReadFile(path)
			must(t, err)
			f, err := parser.ParseFile(fset, path, text, 0)
			must(t, err)
			files++
			for _, place := range writesToPublished(fset, f) {
				t.Errorf("%s writes to a snapshot that was published", place)
			}
		}
	}
	if files < 40 {
		t.Errorf("only %d files were read", files)
	}
	// That it would be seen.
	f, err := parser.ParseFile(fset, "x.go", `package x
func a(e *E) { e.snap.Load().Changed = 1 }
func b(b *B) { s := b.Snapshot(); s.owners["x"]++ }
func c(b *B) { s := *b.Snapshot(); s.owners = nil; old := b.snap.Load(); old = nil }
func d(b *B) { s := b.Snapshot(); b.publish(func(s *S) { s.x = 1 }); b.update(func(t *tx) { s.x = 2 }) }
`, 0)
	must(t, err)
	if places := writesToPublished(fset, f); len(places) != 3 {
		t.Errorf("of three writes are seen: %v", places)
	}
}
