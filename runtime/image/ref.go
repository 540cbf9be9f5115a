package image

import (
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
	remote name.Reference // of a registry
}

// String gives back what was parsed.
func (r Ref) String() string { return r.text }

// key is equal for references that mean the same.
func (r Ref) key() string {
	switch {
	case r.remote != nil:
		return schemeRegistry + r.remote.Name()
	case r.tag != "":
		return r.scheme + r.path + ":" + r.tag
	}
	return r.scheme + r.path
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
	layoutTag      = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}$`)
	printable      = regexp.MustCompile(`^[\x21-\x7e\x{a0}-\x{10ffff}]+$`)
)

const refMax = 4096 // bytes, as of a path

// ParseRef parses oci:/DIR[:TAG], docker-archive:/FILE and
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
	r.path = rest
	if r.scheme == schemeLayout {
		// A colon in the name of a directory above is part of that.
		if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
			r.path, r.tag = rest[:i], rest[i+1:]
			if !layoutTag.MatchString(r.tag) {
				return Ref{}, errorf(ErrRef, "image %q: the tag %q must be letters, digits, '_', '.', '+' and '-'", s, r.tag)
			}
		}
	}
	r.path = filepath.Clean(r.path)
	if r.path == "/" {
		return Ref{}, errorf(ErrRef, "image %q: / is no image: give the path of one", s)
	}
	return r, nil
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
