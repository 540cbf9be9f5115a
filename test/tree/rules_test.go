package tree

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

const module = "github.com/boxlitefs/boxlite"

// depguardRule is a rule of .golangci.yml on who may import what.
type depguardRule struct {
	Files []string
	Allow []string
	Deny  []struct{ Pkg, Desc string }
}

// A rule that names what is not there, or not there any more, guards nothing.
func TestTheImportRulesNameWhatIsThere(t *testing.T) {
	text, err := os.ReadFile(root + "/.golangci.yml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Linters struct {
			Settings struct {
				Depguard struct{ Rules map[string]depguardRule }
			}
		}
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	files, rules := goFiles(t), config.Linters.Settings.Depguard.Rules
	if len(rules) < 15 {
		t.Errorf("only %d rules were found", len(rules))
	}
	for name, rule := range rules {
		if len(rule.Files) == 0 || len(rule.Deny) == 0 {
			t.Errorf("the rule %s is of no file, or forbids nothing", name)
		}
		for _, pattern := range rule.Files {
			if !slices.ContainsFunc(files, filePattern(pattern)) {
				t.Errorf("the rule %s names files %s, and there are none", name, pattern)
			}
		}
		packages := rule.Allow
		for _, d := range rule.Deny {
			packages = append(packages, d.Pkg)
			if d.Desc == "" {
				t.Errorf("the rule %s does not say why %s is forbidden", name, d.Pkg)
			}
		}
		for _, p := range packages {
			if dir, ours := strings.CutPrefix(strings.TrimSuffix(p, "$")+"/", module+"/"); ours && !slices.ContainsFunc(files, func(f string) bool { return strings.HasPrefix(f, dir) }) {
				t.Errorf("the rule %s names the package %s, which is not there", name, p)
			}
		}
	}
}

// filePattern reports which files of the tree a pattern of a rule is of: **/DIR/** is of all below
// DIR at the top of the tree, **/NAME of all files of that name.
func filePattern(pattern string) func(file string) bool {
	pattern = strings.TrimPrefix(strings.TrimPrefix(pattern, "!"), "**/")
	switch {
	case strings.HasPrefix(pattern, "$"): // $test, $all
		return func(string) bool { return true }
	case !strings.Contains(pattern, "/"):
		return func(file string) bool {
			ok, err := path.Match(pattern, path.Base(file))
			return ok && err == nil
		}
	}
	words := strings.NewReplacer(`\*\*/`, `(.*/)?`, `\*\*`, `.*`, `\*`, `[^/]*`).Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile("^" + words + "$").MatchString
}

// goFiles returns the Go files of the tree, by their paths from its top.
func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root:
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go":
			return nil
		}
		path, err = filepath.Rel(root, path)
		files = append(files, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
