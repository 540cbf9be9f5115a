package fsapi

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	boxes "github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/image"
)

// What images/ shows and takes is in boxlite-images(7), and nothing else is.

func imagesPage(t *testing.T, from, to string) string {
	t.Helper()
	page, err := os.ReadFile("../runtime/image/boxlite-images.7.md")
	must(t, err)
	_, rest, ok := strings.Cut(string(page), "\n"+from+"\n")
	section, _, ends := strings.Cut(rest, "\n"+to)
	if !ok || !ends {
		t.Fatalf("the page has no section %q, or no %q after it", from, to)
	}
	return section
}

// listed returns the first groups of all matches.
func listed(pattern, text string) (all []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

func TestTheImagesPageHasEachKeyOfInfo(t *testing.T) {
	var keys []string
	info := reflect.TypeFor[boxes.ImageInfo]()
	for i := range info.NumField() {
		keys = append(keys, info.Field(i).Tag.Get("json"))
	}
	said := listed("(?m)^- `([a-z_]+)`: ", imagesPage(t, "### images/NAME/info.json", "### "))
	if !slices.Equal(said, keys) {
		t.Errorf("the page has the keys %q, and info.json of an image %q", said, keys)
	}
}

func TestTheImagesPageHasEachCommand(t *testing.T) {
	want := []string{"pull REFERENCE", "prune", "prune all"}
	if got := strings.Join([]string{want[0], want[1] + " [all]"}, ", "); got != imagesVerbs {
		t.Fatalf("images/ctl takes %q, and this test knows %q", imagesVerbs, got)
	}
	if said := listed("(?m)^### (p[a-zA-Z ]+)$", imagesPage(t, "## COMMANDS", "## ")); !slices.Equal(said, want) {
		t.Errorf("the page has the commands %q, and there are %q", said, want)
	}
}

func TestTheImagesPageHasEachFile(t *testing.T) {
	want := []string{""}
	for _, e := range (&imagesDir{}).entries() {
		want = append(want, e.name)
	}
	for _, e := range (&imageDir{}).entries() {
		want = append(want, "NAME/"+e.name)
	}
	if said := listed("(?m)^### images/(.*)$", imagesPage(t, "## FILES", "## ")); !slices.Equal(said, want) {
		t.Errorf("the page has the files %q of images/, and there are %q", said, want)
	}
}

func TestTheImagesPageHasEachErrnoOfTheStore(t *testing.T) {
	said := listed("(?m)^- (E[A-Z0-9]+)", imagesPage(t, "## ERRORS", "## "))
	for _, err := range []error{image.ErrInUse, image.ErrNotFound, image.ErrClosed, image.ErrRef, image.ErrCorrupt, image.ErrTooBig, image.ErrPlatform, image.ErrConfig} {
		if name := unix.ErrnoName(toErrno(err)); !slices.Contains(said, name) {
			t.Errorf("%v is %s, which the page has not", err, name)
		}
	}
}
