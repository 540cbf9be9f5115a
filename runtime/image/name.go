package image

import "strings"

// The name of an image is BASE@DIGITS. It is shown as the name of a directory, and kept in
// the image's record. What may be a name is said once, by the function that makes them:
// what is written can be read back.

// Of a name.
const (
	baseMax   = 128
	digitsMin = 12
)

// nameOf makes the name of an image out of any text, and of the first digits of its digest.
func nameOf(base, digest string, digits int) string {
	return safeBase(base) + "@" + hexOf(digest)[:digits]
}

// validName reports whether nameOf has made a name for a digest.
func validName(name, digest string) bool {
	base, digits, ok := strings.Cut(name, "@")
	hex := hexOf(digest)
	return ok && len(digits) >= digitsMin && len(digits) <= len(hex) && name == nameOf(base, digest, len(digits))
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// safeBase makes any text fit for the name of a directory that is no option and not
// hidden.
func safeBase(s string) string {
	b := []byte(s)
	for i, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', (c == '-' || c == '.') && i > 0:
		default:
			b[i] = '_'
		}
	}
	if len(b) == 0 {
		return "image"
	}
	return string(b[:min(len(b), baseMax)])
}
