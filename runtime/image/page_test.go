package image

import (
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// pageSection returns a section of boxlite-images(7).
func pageSection(t *testing.T, heading string) string {
	t.Helper()
	page, err := os.ReadFile("boxlite-images.7.md")
	if err != nil {
		t.Fatal(err)
	}
	level, _, _ := strings.Cut(heading, " ")
	_, section, ok := strings.Cut(string(page), "\n"+heading+"\n")
	section, _, ends := strings.Cut(section, "\n"+level+" ")
	if !ok || !ends {
		t.Fatalf("the page has no section %q, or nothing follows it", heading)
	}
	return section
}

// items returns the items of a list that are set between marks, and what is said of each.
func items(section, mark string) map[string]string {
	all := map[string]string{}
	for line := range strings.SplitSeq(section, "\n") {
		if item, ok := strings.CutPrefix(line, "- "+mark); ok {
			name, rest, _ := strings.Cut(item, mark)
			all[name] = strings.TrimPrefix(rest, ": ")
		}
	}
	return all
}

// limitItems are the limits as the page calls them.
var limitItems = map[string]string{
	"Manifest":  "A manifest, an index, a configuration",
	"Layers":    "Layers of an image",
	"Labels":    "Labels",
	"Env":       "Environment",
	"Args":      "Entrypoint and cmd together",
	"History":   "History",
	"Word":      "User, workdir, stop signal",
	"Archive":   "A compressed archive when it is decompressed",
	"Packed":    "A layer as it is fetched",
	"Unpacked":  "A layer, unpacked",
	"Entries":   "Entries of a layer",
	"Header":    "Names and attributes of one entry",
	"Headers":   "Names and attributes of all entries of a layer",
	"Implied":   "Directories without an entry in the layer, and targets of hard links without one",
	"Missing":   "The paths of those",
	"Whiteouts": "Whiteouts of all layers of an image",
	"ID":        "Ids of users and groups",
	"Memory":    "Memory of the process that unpacks",
}

// spelled are the ways in which the page may write a number.
func spelled(n int64) []string {
	digits := strconv.FormatInt(n, 10)
	commas := digits
	for i := len(commas) - 3; i > 0; i -= 3 {
		commas = commas[:i] + "," + commas[i:]
	}
	ways := []string{digits, commas}
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if size := int64(1) << (10 * (i + 1)); n >= size && n%size == 0 {
			ways = append(ways, fmt.Sprintf("%d %s", n/size, unit))
		}
	}
	return ways
}

func TestThePageHasTheLimits(t *testing.T) {
	said := items(pageSection(t, "## LIMITS"), "**")
	v := reflect.ValueOf(defaultLimits)
	for i := range v.NumField() {
		field := v.Type().Field(i).Name
		var n int64
		if f := v.Field(i); f.CanInt() {
			n = f.Int()
		} else {
			n = int64(f.Uint())
		}
		item := limitItems[field]
		text, ok := said[item]
		delete(said, item)
		right := false
		for _, way := range spelled(n) {
			right = right || text == way || strings.HasPrefix(text, way+" ")
		}
		if !ok || !right {
			t.Errorf("limit %s is %d, and the page says of %q: %q", field, n, item, text)
		}
	}
	for item := range said {
		t.Errorf("the page has a limit that there is not: %s", item)
	}
}

func TestThePageHasTheKeysOfTheRegistryConfiguration(t *testing.T) {
	section := pageSection(t, "### Credentials")
	said := items(section, "`")
	top, entry := jsonKeys(reflect.TypeFor[registryConfig]()), jsonKeys(reflect.TypeFor[authEntry]())
	for _, key := range top {
		if said[key] == "" {
			t.Errorf("the page does not say what %s is", key)
		}
		delete(said, key)
	}
	for key := range said {
		t.Errorf("the page has a key that there is not: %s", key)
	}
	for _, key := range entry {
		if !strings.Contains(section, "`"+key+"`") {
			t.Errorf("the page does not name %s, of an entry of auths", key)
		}
	}
}

func jsonKeys(s reflect.Type) (keys []string) {
	for i := range s.NumField() {
		f := s.Field(i)
		if f.Anonymous {
			keys = append(keys, jsonKeys(f.Type)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		keys = append(keys, name)
	}
	return keys
}

func TestThePageHasEachKindOfReference(t *testing.T) {
	section := pageSection(t, "## REFERENCES")
	for _, scheme := range []string{schemeLayout, schemeArchive, schemeRegistry} {
		if !strings.Contains(section, "\n### "+scheme) {
			t.Errorf("the page has no section of %s", scheme)
		}
	}
}

func TestThePageHasTheBoundsOfAPull(t *testing.T) {
	text := pageSection(t, "## PULLING")
	for what, want := range map[string]string{
		"stall": fmt.Sprintf("%d KiB in %d s", stallChunk>>10, int(stallBound.Seconds())),
		"tries": "asked for " + map[int]string{4: "four", 5: "five"}[fetchTries] + fmt.Sprintf(" times, with pauses of %d ms", fetchPause.Milliseconds()),
		"kept":  "kept for " + map[float64]string{24: "a day"}[keepInterrupted.Hours()] + ".",
		"at once": map[int]string{4: "four", 5: "five"}[fetchers] + " layers of an image are fetched at once, and " +
			map[int]string{2: "two", 3: "three"}[unpackers] + " layers are unpacked at once",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s: the page does not say %q", what, want)
		}
	}
	if want := fmt.Sprintf("It has %d s for its answer.", int(helperBound.Seconds())); !strings.Contains(pageSection(t, "## REGISTRIES"), want) {
		t.Errorf("the page does not say %q", want)
	}
}
