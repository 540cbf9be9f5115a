package fsapi

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Symbolic links are what makes a box's files dangerous: it is the client's kernel that
// follows them, from the client's root and through the client's "..", and their text
// is the box's. So no text that could lead out is ever shown. In every directory below
// root/ there are two names that are not listed, and that lead to directories of the box
// as it sees them itself:
//
//	.@   its root
//	..@  the parent of this directory, which for its root is its root
//
// What a link says is shown in these words: /etc/x as .@/etc/x, ../x as ..@/x. Shown
// texts are relative and have no "..". Whoever follows one can therefore only go down from
// a directory below root/, by names that are looked up here; what the box does at the
// same time changes what he finds, but not that. And the words are one to one: a link made
// through root/ gets the text that they stand for, so that copies within a box, and
// from one to the next by way of an archive, are exact. A link that was copied to the
// host leads nowhere there.
const (
	toRoot   = ".@"
	toParent = "..@"
)

// showLink gives what is shown of a link's text.
func showLink(text string) (string, syscall.Errno) {
	names := strings.Split(text, "/")
	for i, name := range names {
		switch {
		case name == "" && i == 0:
			names[i] = toRoot
		case name == "..":
			names[i] = toParent
		case name == toRoot || name == toParent:
			return "", syscall.ELOOP // a file of that name can't be reached here
		}
	}
	shown := strings.Join(names, "/")
	if text == "" || len(shown) >= unix.PathMax {
		return "", syscall.ENAMETOOLONG
	}
	return shown, 0
}

// readLink gives the text that was meant by one that was shown.
func readLink(shown string) string {
	names := strings.Split(shown, "/")
	for i, name := range names {
		switch {
		case name == toRoot && i == 0 && len(names) == 1:
			return "/"
		case name == toRoot && i == 0:
			names[i] = ""
		case name == toParent:
			names[i] = ".."
		}
	}
	return strings.Join(names, "/")
}

// below gives the path of a name in the directory dir of the box.
func below(dir, name string) string {
	switch {
	case name == toRoot:
		return ""
	case name == toParent:
		return dir[:max(strings.LastIndexByte(dir, '/'), 0)]
	case dir == "":
		return name
	}
	return dir + "/" + name
}
