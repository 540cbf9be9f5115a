package image

import (
	"errors"
	"fmt"
)

// The kinds of refusal and failure. Compare with errors.Is.
var (
	// ErrRef: the reference cannot be one.
	ErrRef = errors.New("no image reference")
	// ErrNotFound: there is no such image, here or where it was asked for.
	ErrNotFound = errors.New("not found")
	// ErrInUse: the image is used by a box.
	ErrInUse = errors.New("in use")
	// ErrCorrupt: what was got is not what its digest says.
	ErrCorrupt = errors.New("corrupt")
	// ErrTooBig: the image breaks one of the limits.
	ErrTooBig = errors.New("too big")
	// ErrPlatform: the image is not for this host.
	ErrPlatform = errors.New("not for this platform")
	// ErrConfig: the registry configuration is wrong.
	ErrConfig = errors.New("registry configuration")
	// ErrClosed: the store is closed.
	ErrClosed = errors.New("the image store is closed")
)

// kindError is a sentence of its own that is of a kind.
type kindError struct {
	kind error
	text string
	err  error // the cause, or nil
}

func (e *kindError) Error() string { return e.text }

func (e *kindError) Unwrap() []error {
	if e.err == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.err}
}

func errorf(kind error, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &kindError{kind: kind, text: err.Error(), err: errors.Unwrap(err)}
}

// InUseError says who uses an image. It is an ErrInUse.
type InUseError struct {
	Name string // of the image
	By   string // who uses it, as "box \"web\""
}

// Error names the image and its user.
func (e *InUseError) Error() string { return fmt.Sprintf("image %s is in use by %s", e.Name, e.By) }

// Is makes it a kind of ErrInUse.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }
