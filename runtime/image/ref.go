package image

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/google/go-containerregistry/pkg/name"
)

// The kinds of references, as they begin.
const (
	schemeLayout   = "oci:"
	schemeArchive  = "docker-archive:"
	schemeRegistry = "docker://"
)

// Ref is a reference to an image. The zero Ref is none.
type Ref struct {
	text   string
	scheme string
	path   string         // of a layout or an archive
	tag    string         // of a layout; may be ""
	names  []layoutName   // what a reference to a layout may mean, the longest path first
	remote name.Reference // of a registry
}

// layoutName is an image in a layout. Names may have colons, and so may directories: which
// colon is between them only the disk can tell.
type layoutName struct{ path, tag string }

func (n layoutName) String() string {
	switch {
	case n.tag != "":
		return n.path + ":" + n.tag
	case strings.Contains(filepath.Base(n.path), ":"):
		return n.path + "/" // and not an image with that tag
	}
	return n.path
}

// String gives back what was parsed.
func (r Ref) String() string { return r.text }

// key is equal for references that mean the same. It is that of the text, and the same
// whatever the disk has: the next daemon knows nothing but the text.
func (r Ref) key() string {
	if r.remote != nil {
		return schemeRegistry + r.remote.Name()
	}
	if r.scheme != schemeLayout {
		return r.scheme + r.path
	}
	first := r.names[0].String()
	key := r.scheme + first
	for _, n := range r.names[1:] {
		// What is one path can be two tags: /a:b//c and /a:b/c.
		if other := n.String(); other != first {
			key += " " + other
		}
	}
	return key
}

// located returns the reference to a layout as the disk has it: the longest path that is
// one. The text, by which it is known, stays.
func (r Ref) located() Ref {
	for _, n := range r.names {
		if fi, err := os.Stat(filepath.Join(n.path, "index.json")); err == nil && fi.Mode().IsRegular() {
			r.path, r.tag = n.path, n.tag
			break
		}
	}
	return r
}

// pinned returns the digest that the reference asks for, or "".
func (r Ref) pinned() string {
	if d, ok := r.remote.(name.Digest); ok {
		return d.DigestStr()
	}
	return ""
}

// base is what an image of this reference is named after.
func (r Ref) base() string {
	if r.remote != nil {
		return path.Base(r.remote.Context().RepositoryStr())
	}
	return filepath.Base(r.path)
}

var (
	repositoryPart = regexp.MustCompile(`^[a-z0-9]+([._-]+[a-z0-9]+)*$`)
	layoutTag      = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._+:@/-]{0,510}[A-Za-z0-9._+-])?$`)
	printable      = regexp.MustCompile(`^[\x21-\x7e\x{a0}-\x{10ffff}]+$`)
)

const refMax = 4096 // bytes, as of a path

// ParseRef parses oci:/DIR[:NAME], docker-archive:/FILE and
// docker://REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST]. The error is an ErrRef: one
// sentence that says what to write instead.
func ParseRef(s string) (Ref, error) {
	r := Ref{text: s}
	if len(s) > refMax || !utf8.ValidString(s) || !printable.MatchString(s) {
		return Ref{}, errorf(ErrRef, "image %.64q: must be of at most %d printable characters without spaces", s, refMax)
	}
	rest, ok := "", false
	for _, r.scheme = range []string{schemeLayout, schemeArchive, schemeRegistry} {
		if rest, ok = strings.CutPrefix(s, r.scheme); ok {
			break
		}
	}
	switch {
	case !ok:
		hint := "docker://" + s
		if strings.HasPrefix(s, "/") {
			hint = "oci:" + s
		} else if i := strings.Index(s, "://"); i >= 0 {
			hint = "docker" + s[i:]
		}
		return Ref{}, errorf(ErrRef, "image %q: must begin with docker://, oci:/ or docker-archive:/ (did you mean %s?)", s, hint)
	case r.scheme == schemeRegistry:
		return r, r.parseRemote(rest)
	case !strings.HasPrefix(rest, "/"):
		return Ref{}, errorf(ErrRef, "image %q: the path must be absolute, as in %s/path", s, r.scheme)
	}
	if r.scheme == schemeArchive {
		r.path = filepath.Clean(rest)
		return r, r.checkPath()
	}
	var names []layoutName
	last := strings.LastIndexByte(rest, ':')
	if last < strings.LastIndexByte(rest, '/') {
		names = append(names, layoutName{filepath.Clean(rest), ""})
	}
	for i := last; i > 0; i = strings.LastIndexByte(rest[:i], ':') {
		if layoutTag.MatchString(rest[i+1:]) {
			names = append(names, layoutName{filepath.Clean(rest[:i]), rest[i+1:]})
		}
	}
	if len(names) == 0 {
		return Ref{}, errorf(ErrRef, "image %q: the tag %q must be letters, digits, '_', '.', '+', '-', ':', '@' and '/'", s, rest[last+1:])
	}
	r.path, r.tag, r.names = names[0].path, names[0].tag, names
	return r, r.checkPath()
}

func (r *Ref) checkPath() error {
	if r.path == "/" {
		return errorf(ErrRef, "image %q: / is no image: give the path of one", r.text)
	}
	return nil
}

func (r *Ref) parseRemote(s string) (err error) {
	// The tag beside a digest says nothing that the digest does not.
	r.remote, err = name.ParseReference(s)
	if err != nil {
		return errorf(ErrRef, "image %q: must be docker://REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST], in lower case: %v", r.text, err)
	}
	for part := range strings.SplitSeq(r.remote.Context().RepositoryStr(), "/") {
		if !repositoryPart.MatchString(part) {
			return errorf(ErrRef, "image %q: must be docker://REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST], and %q is no part of a repository's name", r.text, part)
		}
	}
	if d := r.pinned(); d != "" && !strings.HasPrefix(d, "sha256:") {
		return errorf(ErrRef, "image %q: the digest must be a sha256", r.text)
	}
	return nil
}
