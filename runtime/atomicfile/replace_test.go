package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestReplaceLeavesTheOldOnFailure(t *testing.T) {
	dir, err := os.OpenRoot(t.TempDir())
	must(t, err)
	defer dir.Close()
	for _, d := range []Durability{None, BestEffort, Atomic, Synced} {
		must(t, Replace(dir, "f", []byte("old"), d))
		// Directories where the temporary file may go: it cannot be opened.
		for _, tmp := range []string{".f.tmp", ".f.new"} {
			if err := dir.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			must(t, dir.Mkdir(tmp, 0o700))
		}
		if err := Replace(dir, "f", []byte("new"), d); err == nil {
			t.Fatal("no error")
		}
		got, err := dir.ReadFile("f")
		must(t, err)
		if string(got) != "old" {
			t.Fatalf("got %q", got)
		}
		must(t, dir.RemoveAll(".f.tmp"))
		must(t, dir.RemoveAll(".f.new"))
	}
}

// What is overwritten may have been longer, and of what was replaced with Synced nothing is left:
// a configuration may hold secrets.
func TestReplaceGivesTheNewBytesOnly(t *testing.T) {
	for _, d := range []Durability{None, BestEffort, Atomic, Synced} {
		path := t.TempDir()
		dir, err := os.OpenRoot(path)
		must(t, err)
		for _, text := range []string{"one", "two, which is longer", "three", "", "four"} {
			must(t, Replace(dir, "f", []byte(text), d))
			got, err := dir.ReadFile("f")
			must(t, err)
			if string(got) != text {
				t.Errorf("durability %d: got %q, not %q", d, got, text)
			}
		}
		must(t, dir.Close())
		files, err := os.ReadDir(path)
		must(t, err)
		if len(files) > 2 || (d == Synced || d == BestEffort) && len(files) > 1 {
			t.Errorf("durability %d: left %v", d, files)
		}
	}
}
