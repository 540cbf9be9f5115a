package fsapi

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	boxes "github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/config"
)

// The pages of the manual that lie here say what the tree has, no less and no more.

const (
	treePage   = "boxlite.7.md"
	execPage   = "boxlite-exec.7.md"
	rootPage   = "boxlite-root.7.md"
	imagesPath = "../runtime/image/boxlite-images.7.md"
)

// pageEntry is what a page says under a heading of the third rank.
type pageEntry struct{ page, head, text string }

// manual returns the entries of a section of a page.
func manual(t *testing.T, page, section string) (out []pageEntry) {
	t.Helper()
	text, err := os.ReadFile(page)
	must(t, err)
	_, rest, ok := strings.Cut(string(text), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("%s has no section %s", page, section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	for _, e := range strings.Split(rest, "\n### ")[1:] {
		head, said, _ := strings.Cut(e, "\n")
		out = append(out, pageEntry{page, head, said})
	}
	return out
}

func heads(entries []pageEntry) (out []string) {
	for _, e := range entries {
		out = append(out, e.head)
	}
	return out
}

// shownTree returns the mode of every file of a mounted tree that has a box X, an exec E
// and an image NAME; directories end in a slash.
func shownTree(t *testing.T, private bool) map[string]string {
	t.Helper()
	f, rt := open(t)
	if private {
		f.KeepPrivate()
	}
	mnt := mounted(t, f, rt)
	img, release := pulled(t, rt, layoutOf(t, "some", v1.Config{}))
	defer release()
	b, err := rt.Create("X")
	must(t, err)
	client(t, "mkdir", filepath.Join(mnt, "boxes/X/exec/E"))
	modes := map[string]string{}
	for line := range strings.Lines(client(t, "find", mnt, "-mindepth", "1", "-printf", "%y %m %P\n")) {
		word := strings.Fields(strings.ReplaceAll(line, img.Name, "NAME"))
		path := word[2]
		if word[0] == "d" {
			path += "/"
		}
		modes[path] = "0" + word[1]
	}
	// It is not listed, and there only while a container runs.
	modes["boxes/X/root/"] = fmt.Sprintf("%04o", (&rootTree{fs: f, box: b}).topInfo().Mode&0o7777)
	return modes
}

func TestTheManualHasEachFileWithItsMode(t *testing.T) {
	plain, private := shownTree(t, false), shownTree(t, true)
	said := map[string]bool{toRoot: true, toParent: true} // names that are in the page, but in no listing
	for _, page := range []string{treePage, execPage, rootPage, imagesPath} {
		for _, e := range manual(t, page, "FILES") {
			path, mode, _ := strings.Cut(e.head, " ")
			if page == imagesPath && !strings.HasPrefix(path, "images/") {
				continue
			}
			said[path] = true
			want, there := plain[path]
			switch {
			case path == toRoot || path == toParent:
				continue
			case !there:
				t.Errorf("%s has the file %s, which is not in the tree", page, path)
				continue
			case mode != "("+want+")" && (page != imagesPath || !strings.Contains(e.text, want)):
				t.Errorf("%s says %q, and the mode of %s is %s", page, e.head, path, want)
			}
			if closed := private[path]; closed != want && (!strings.Contains(e.text, "--private") || !strings.Contains(e.text, closed)) {
				t.Errorf("%s does not say that %s has the mode %s with --private", page, path, closed)
			} else if closed == want && strings.Contains(e.text, "--private") {
				t.Errorf("%s says that --private changes %s", page, path)
			}
		}
	}
	for _, path := range slices.Sorted(maps.Keys(plain)) {
		if !said[path] {
			t.Errorf("no page has the file %s (%s)", path, plain[path])
		}
	}
}

// kernelErrnos are those that no request is answered with: the kernel gives them.
var kernelErrnos = []string{
	"ECONNABORTED", "ENOTCONN", // the daemon was killed
	"ENXIO", // the open of a socket, which a FIFO in root/ looks like
}

func TestTheManualHasEachErrno(t *testing.T) {
	known := map[string]bool{"EOPNOTSUPP": true}
	for _, name := range kernelErrnos {
		known[name] = true
	}
	sources, err := filepath.Glob("*.go")
	must(t, err)
	// What a client gets is spelled by package syscall.
	errno := regexp.MustCompile(`\bsyscall\.(E[A-Z0-9]+)\b`)
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		must(t, err)
		for _, m := range errno.FindAllSubmatch(text, -1) {
			if name := string(m[1]); name != "ENOTSUP" { // EOPNOTSUPP by another name
				known[name] = true
			}
		}
	}
	tree, all := map[string]bool{}, map[string]bool{}
	for _, page := range []string{treePage, execPage, rootPage} {
		for _, name := range heads(manual(t, page, "ERRORS")) {
			all[name] = true
			if page == treePage {
				tree[name] = true
			}
			if !known[name] {
				t.Errorf("%s has %s, which no client gets", page, name)
			}
		}
	}
	for _, e := range errnos {
		if name := unix.ErrnoName(e.errno); !tree[name] {
			t.Errorf("%s has not %s, for %q", treePage, name, e.err)
		}
	}
	for _, e := range []syscall.Errno{toErrno(&config.Error{}), toErrno(errors.New("unheard of"))} {
		if name := unix.ErrnoName(e); !tree[name] {
			t.Errorf("%s has not %s", treePage, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if !all[name] {
			t.Errorf("no page has %s", name)
		}
	}
}

func TestTheManualHasEachCommand(t *testing.T) {
	for page, verbs := range map[string]string{treePage: verbList, execPage: execVerbs} {
		said, want := heads(manual(t, page, "COMMANDS")), strings.Split(verbs, ", ")
		if slices.Sort(said); !slices.Equal(said, slices.Sorted(slices.Values(want))) {
			t.Errorf("%s has the commands %q, and ctl takes %q", page, said, want)
		}
	}
}

func TestTheManualHasEachKeyOfCmd(t *testing.T) {
	var want []string
	for f := range fields(reflect.TypeFor[config.Exec]()) {
		want = append(want, strings.ToLower(f.Name))
	}
	said := heads(manual(t, execPage, "THE COMMAND"))
	if !slices.Equal(said, want) {
		t.Errorf("%s has the keys %q, and cmd takes %q", execPage, said, want)
	}
	for _, key := range said {
		text := "command: [a]\n"
		if key != "command" {
			text += key + ": {}\n"
		}
		if _, err := config.ParseExec("x", []byte(text)); err != nil && strings.Contains(err.Error(), "unknown key") {
			t.Error(err)
		}
	}
}

func fields(of reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range of.NumField() {
			if !yield(of.Field(i)) {
				return
			}
		}
	}
}

// The keys of the configuration in it are boxlite.yaml(5)'s.
func TestTheManualHasEachKeyOfInfo(t *testing.T) {
	text, err := os.ReadFile(treePage)
	must(t, err)
	_, section, _ := strings.Cut(string(text), "\n## INFO.JSON\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var keys []string
	for _, m := range regexp.MustCompile("(?m)^- ((?:`[a-z_]+`(?:, )?)+): ").FindAllStringSubmatch(section, -1) {
		keys = append(keys, strings.Split(strings.Trim(m[1], "`"), "`, `")...)
	}
	var want []string
	for f := range fields(reflect.TypeFor[boxes.Info]()) {
		want = append(want, f.Tag.Get("json"))
		in := f.Type
		if in.Kind() == reflect.Pointer {
			in = in.Elem()
		}
		if in.Kind() != reflect.Struct || in.Implements(reflect.TypeFor[encoding.TextMarshaler]()) || want[len(want)-1] == "config" {
			continue
		}
		for f := range fields(in) {
			if key := f.Tag.Get("json"); !strings.Contains(section, "`"+key+"`") {
				t.Errorf("%s has not the key %s of %s", treePage, key, want[len(want)-1])
			}
		}
	}
	if slices.Sort(keys); !slices.Equal(keys, slices.Sorted(slices.Values(want))) {
		t.Errorf("%s has the keys %q, and info.json %q", treePage, keys, want)
	}
}

func TestTheManualHasTheBounds(t *testing.T) {
	for _, c := range []struct {
		page, says string
		is         int
	}{
		{treePage, "at most %s bytes; more is E2BIG", maxCommands},
		{treePage, "At most %s wait for one open", maxQueue},
		{treePage, "It holds at most %s KiB", config.MaxSize >> 10},
		{treePage, "if that takes more than %s s", int(boxes.KillBound.Seconds())},
		{execPage, "At most %s KiB are taken", config.MaxSize >> 10},
		{execPage, "A box has at most %s execs", boxes.MaxExecs},
		{execPage, "if that takes more than %s s", int(boxes.KillBound.Seconds())},
		{rootPage, "deeper than %s levels", maxDepth},
		{rootPage, "is kept, for %s ms", int(rootAttrTime.Milliseconds())},
		{rootPage, "and that a directory is one, for %s ms", int(rootNameTime.Milliseconds())},
	} {
		number := strconv.Itoa(c.is)
		if len(number) > 3 {
			number = number[:len(number)-3] + "," + number[len(number)-3:]
		}
		text, err := os.ReadFile(c.page)
		must(t, err)
		want := fmt.Sprintf(c.says, number)
		if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), want) {
			t.Errorf("%s does not say %q", c.page, want)
		}
	}
}
