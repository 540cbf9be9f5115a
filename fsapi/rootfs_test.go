package fsapi

import (
	"path"
	"strings"
	"syscall"
	"testing"
)

func TestLinksAreShownWithoutAWayOut(t *testing.T) {
	for text, want := range map[string]string{
		"f": "f", "d/f": "d/f", "./f": "./f", "d//f/": "d//f/",
		"/": ".@/", "/etc/x": ".@/etc/x", "//x": ".@//x", "/../x": ".@/..@/x",
		"..": "..@", "../x": "..@/x", "a/../../b": "a/..@/..@/b", "./..": "./..@",
		"...": "...", "..x": "..x", "a\n/..": "a\n/..@", "\xff/..": "\xff/..@",
	} {
		got, errno := showLink(text)
		if got != want || errno != 0 {
			t.Errorf("%q is shown as %q (%v), not as %q", text, got, errno, want)
		}
		if back := readLink(got); back != text {
			t.Errorf("%q, shown as %q, is read back as %q", text, got, back)
		}
	}
	for text, want := range map[string]syscall.Errno{
		".@": syscall.ELOOP, "a/..@/b": syscall.ELOOP, "/.@": syscall.ELOOP,
		"": syscall.ENAMETOOLONG, strings.Repeat("../", 1300): syscall.ENAMETOOLONG,
	} {
		if got, errno := showLink(text); errno != want {
			t.Errorf("%q is shown as %q (%v), not refused with %v", text, got, errno, want)
		}
	}
}

func FuzzShownLink(f *testing.F) {
	for _, s := range []string{"/", "../x", "a/../../..", ".@/..", "//..//", "..@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		shown, errno := showLink(text)
		if errno != 0 {
			return
		}
		if strings.HasPrefix(shown, "/") {
			t.Errorf("%q is shown as %q, which is absolute", text, shown)
		}
		for _, name := range strings.Split(shown, "/") {
			if name == ".." {
				t.Errorf("%q is shown as %q, which goes up", text, shown)
			}
		}
		if back := readLink(shown); back != text {
			t.Errorf("%q, shown as %q, is read back as %q", text, shown, back)
		}
		// Walked name by name, it comes to where the box comes to.
		at := "a/b/c"
		for _, name := range strings.Split(shown, "/") {
			if name != "" && name != "." {
				at = below(at, name)
			}
		}
		want := text
		if !strings.HasPrefix(text, "/") {
			want = "/a/b/c/" + text
		}
		if want = strings.TrimPrefix(path.Clean(want), "/"); at != want {
			t.Errorf("%q, shown as %q, leads to %q, not to %q", text, shown, at, want)
		}
	})
}
