package runtime

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The threat model is kept true by the tests that it names.

var (
	namedTest = regexp.MustCompile("`([^` ]+): ([^`]+)`")
	batsTitle = regexp.MustCompile(`(?m)^@test "(.*)" \{`)
)

// cannots returns the statements of boxlite-security(7) of what somebody cannot do.
func cannots(t *testing.T) []string {
	page, err := os.ReadFile("boxlite-security.7.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "\n## WHAT EACH PARTY CANNOT DO\n")
	section, _, ends := strings.Cut(section, "\n## ")
	if !ok || !ends {
		t.Fatal("the page has no section WHAT EACH PARTY CANNOT DO, or nothing follows it")
	}
	var all []string
	for part := range strings.SplitSeq(section, "\n### ") {
		all = append(all, strings.Split(part, "\n- ")[1:]...)
	}
	if len(all) < 30 {
		t.Fatalf("the section has %d statements, and once had over 30", len(all))
	}
	return all
}

// testsIn returns the titles of a suite, or the test functions of a package, both by
// their path in the repository.
func testsIn(t *testing.T, path string) (names []string) {
	if strings.HasSuffix(path, ".bats") {
		text, err := os.ReadFile(filepath.Join("..", path))
		if err != nil {
			t.Error(err)
		}
		for _, m := range batsTitle.FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
		return names
	}
	files, err := filepath.Glob(filepath.Join("..", path, "*_test.go"))
	if err != nil {
		t.Error(err)
	}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Error(err)
		}
		for _, m := range function.FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

func TestEachCannotNamesATestThatExists(t *testing.T) {
	there := map[string][]string{}
	for _, statement := range cannots(t) {
		what, tests, _ := strings.Cut(statement, "\n  Tests: ")
		named := namedTest.FindAllStringSubmatch(tests, -1)
		if len(named) == 0 {
			t.Errorf("no test is named for: %s", what)
		}
		// Nothing but tests is said there.
		if rest := strings.Trim(namedTest.ReplaceAllString(tests, ""), ",. \n"); rest != "" {
			t.Errorf("%q stands among the tests of: %s", rest, what)
		}
		for _, n := range named {
			if there[n[1]] == nil {
				there[n[1]] = testsIn(t, n[1])
			}
			if !slices.Contains(there[n[1]], n[2]) {
				t.Errorf("%s has no test %q, which shows: %s", n[1], n[2], what)
			}
		}
	}
}

func TestEachTestOfTheThreatModelIsNamed(t *testing.T) {
	all := strings.Join(cannots(t), "\n")
	for _, suite := range []string{"test/threat.bats", "test/users.bats"} {
		titles := testsIn(t, suite)
		if len(titles) < 10 {
			t.Errorf("%s has %d tests, and once had over 10", suite, len(titles))
		}
		for _, title := range titles {
			if !strings.Contains(all, "`"+suite+": "+title+"`") {
				t.Errorf("boxlite-security(7) names no statement that %s shows: %s", suite, title)
			}
		}
	}
}
