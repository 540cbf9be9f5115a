package oci

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/boxlitefs/boxlite/runtime/config"
)

// The page tells the capabilities of the profiles, and what of /proc and /sys is hidden.
func TestTheSecurityPageHasTheProfilesAndTheMaskedPaths(t *testing.T) {
	page, err := os.ReadFile("../boxlite-security.7.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, profile := range []string{config.ProfileDefault, config.ProfileStrict} {
		want := config.ProfileCapabilities(profile)
		_, section, ok := strings.Cut(string(page), "\n### "+profile+"\n")
		if !ok {
			t.Errorf("the page has no section of the profile %s", profile)
		}
		section, _, _ = strings.Cut(section, "\n#")
		got := regexp.MustCompile(`\b[A-Z]+_?[A-Z_]*\b`).FindAllString(section, -1)
		slices.Sort(got)
		if want = slices.Sorted(slices.Values(want)); !slices.Equal(got, want) {
			t.Errorf("profile %s: the page has %q, and the profile %q", profile, got, want)
		}
	}
	spec := newSpec(&config.Config{}, nil, 0)
	for _, path := range slices.Concat(spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths) {
		if !strings.Contains(string(page), "`"+path+"`") {
			t.Errorf("the page does not name %s", path)
		}
	}
}
