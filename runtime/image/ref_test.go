package image

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestReferences(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for s, want := range map[string]struct{ key, base string }{
		"oci:/a/b":                                    {"oci:/a/b", "b"},
		"oci:/a/b:1.2":                                {"oci:/a/b:1.2", "b"},
		"oci:/a:b/c":                                  {"oci:/a:b/c", "c"},
		"oci:/a/../b//c/":                             {"oci:/b/c", "c"},
		"oci:/a/b:x/":                                 {"oci:/a/b:x/", "b:x"},
		"oci:/a/b:r.example/c:1":                      {"oci:/a/b:r.example/c:1", "c"},
		"oci:/a/b:c@d":                                {"oci:/a/b:c@d", "b"},
		"docker-archive:/x/file.tar":                  {"docker-archive:/x/file.tar", "file.tar"},
		"docker-archive:/x/file:1.tar":                {"docker-archive:/x/file:1.tar", "file:1.tar"},
		"docker://busybox":                            {"docker://index.docker.io/library/busybox:latest", "busybox"},
		"docker://docker.io/library/busybox":          {"docker://index.docker.io/library/busybox:latest", "busybox"},
		"docker://127.0.0.1:5000/a/b:1":               {"docker://127.0.0.1:5000/a/b:1", "b"},
		"docker://[::1]:5000/a/b:1":                   {"docker://[::1]:5000/a/b:1", "b"},
		"docker://r.example/a:1@" + digest:            {"docker://r.example/a@" + digest, "a"},
		"docker://r.example/a@" + digest:              {"docker://r.example/a@" + digest, "a"},
		"docker://r.example:443/deep/er/name_1.x-y:T": {"docker://r.example:443/deep/er/name_1.x-y:T", "name_1.x-y"},
	} {
		ref, err := ParseRef(s)
		if err != nil || ref.key() != want.key || ref.base() != want.base || ref.String() != s {
			t.Errorf("%s: %q %q %q %v", s, ref.key(), ref.base(), ref.String(), err)
		}
	}
	for s, want := range map[string]string{
		"":                        "printable characters",
		"a b":                     "printable characters",
		"docker://a\n":            "printable characters",
		strings.Repeat("a", 5000): "printable characters",
		"busybox":                 "did you mean docker://busybox?",
		"https://r.example/a":     "did you mean docker://r.example/a?",
		"/layout":                 "did you mean oci:/layout?",
		"oci:layout":              "the path must be absolute, as in oci:/path",
		"oci:/":                   "/ is no image",
		"oci:/a:b:c":              "", // a colon in the name
		"oci:/a:-":                "the tag \"-\"",
		"docker-archive:x":        "the path must be absolute",
		"docker://":               "must be docker://REGISTRY/REPOSITORY",
		"docker://UPPER/Case":     "in lower case",
		"docker://a@sha256:12":    "must be docker://REGISTRY/REPOSITORY",
		"docker://a/b@sha512:" + strings.Repeat("0", 128): "must be a sha256",
		"docker://a/../b": "must be docker://REGISTRY",
	} {
		ref, err := ParseRef(s)
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", s, err)
			}
			continue
		}
		if !errors.Is(err, ErrRef) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.100q: %v %v", s, ref, err)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"oci:/a/b:1", "docker-archive:/f.tar", "docker://r.example/a/b:1@sha256:" + strings.Repeat("0", 64), "docker://[::1]:5/a", "docker://UPPER", "oci:/a/-x", "oci:/a/.x", "oci:/a@b/c"} {
		f.Add(s)
	}
	digest := "sha256:" + strings.Repeat("0", 64)
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseRef(s)
		if err != nil {
			if !errors.Is(err, ErrRef) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		again, err := ParseRef(ref.String())
		if err != nil || again.key() != ref.key() || ref.String() != s {
			t.Errorf("%q: %q %v", s, again.key(), err)
		}
		// What is kept of it is found again by the next daemon.
		kept := &record{Version: recordVersion, Name: nameOf(ref.base(), digest, digitsMin), Digest: digest, Refs: []string{ref.text}}
		text, err := kept.encode()
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		read, err := decodeRecord(text)
		if err != nil || read.Name != kept.Name || !slices.Equal(read.Refs, kept.Refs) {
			t.Errorf("%q: %+v was kept, and is read as %+v, %v", s, kept, read, err)
		}
		if strings.ContainsAny(kept.Name, "/\x00\n ") || strings.HasPrefix(kept.Name, "-") || strings.HasPrefix(kept.Name, ".") {
			t.Errorf("%q gives the name %q", s, kept.Name)
		}
	})
}

// FuzzRecordRoundTrip: what an image says of itself is read back as it was written.
func FuzzRecordRoundTrip(f *testing.F) {
	f.Add("busybox", "A=b", "label", "value", int64(0))
	f.Add("-x", "\xff\x00", "\u2028", "<&>", int64(1)<<40)
	f.Add("a@b@c", "", "", "", int64(-1)<<60)
	digest := "sha256:" + strings.Repeat("0a", 32)
	f.Fuzz(func(t *testing.T, base, env, label, value string, created int64) {
		for _, text := range []*string{&base, &env, &label, &value} {
			*text = strings.ToValidUTF8(*text, "?") // as JSON was read
		}
		cfg := configFile{Created: v1.Time{Time: time.Unix(created, 0)}}
		cfg.Config.Env, cfg.Config.Cmd, cfg.Config.Labels = []string{env}, []string{value}, map[string]string{label: value}
		r := newRecord(nameOf(base, digest, digitsMin), digest, "oci:/a", &cfg, nil)
		text, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		read, err := decodeRecord(text)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := read.encode(); err != nil || !bytes.Equal(again, text) {
			t.Errorf("written was %s, and then %s, %v", text, again, err)
		}
		if read.Name != r.Name || !read.Created.Equal(r.Created) {
			t.Errorf("written was %+v, and read %+v", r, read)
		}
	})
}
