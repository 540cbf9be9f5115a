package tree

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const readmeLines = 150 // at most: the rest is in the pages

var relativeLink = regexp.MustCompile(`\]\(([^():#]+)\)`)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheReadmeIsShort(t *testing.T) {
	if n := strings.Count(readme(t), "\n"); n > readmeLines {
		t.Errorf("README.md has %d lines, and at most %d belong there", n, readmeLines)
	}
}

// The README leads to each page of the manual, and nowhere else.
func TestTheReadmeHasEachPage(t *testing.T) {
	var links []string
	for _, m := range relativeLink.FindAllStringSubmatch(readme(t), -1) {
		links = append(links, m[1])
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Errorf("README.md has a link to %s: %v", m[1], err)
		}
	}
	page := regexp.MustCompile(`\.[1-9]\.md$`)
	pages := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") && d.IsDir() && path != root {
			return filepath.SkipDir
		}
		path, err = filepath.Rel(root, path)
		if err == nil && page.MatchString(path) {
			pages++
			if !slices.Contains(links, path) {
				t.Errorf("README.md has no link to %s", path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if pages < 2 {
		t.Errorf("there are %d pages, and once were more", pages)
	}
}

// The layout in the README is that of the tree.
func TestTheReadmeHasTheLayout(t *testing.T) {
	_, section, ok := strings.Cut(readme(t), "\n## The tree\n")
	if !ok {
		t.Fatal("README.md has no section The tree")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	top, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range top {
		if d.IsDir() && !strings.HasPrefix(d.Name(), ".") && !strings.Contains(section, "`"+d.Name()) {
			t.Errorf("the layout does not name %s", d.Name())
		}
	}
	for _, m := range regexp.MustCompile("`([a-z/-]+)`").FindAllStringSubmatch(section, -1) {
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Errorf("the layout names %s: %v", m[1], err)
		}
	}
}
