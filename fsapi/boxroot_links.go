package fsapi

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Symbolic links make a box's files dangerous. Their text is the box's, and it is the client
// that follows them, from its own root and through its own "..". So no text that could lead
// out is ever shown. In every directory below root/ there are two names that are not listed,
// and that lead to directories of the box as it sees them itself:
//
//	.@   its root
//	..@  the parent of this directory, which for its root is its root
//
// The text of a link is shown with these names: /etc/x as .@/etc/x, ../x as ..@/x. Such a text
// is relative and has no "..". So a client that follows it can only go down from a directory
// below root/, by names that are looked up here. The box can change what the client finds
// meanwhile, but not that. Each shown text stands for one text, and a link that is made through
// root/ gets that. So copies within a box are exact, and so are copies from one box to the next
// by way of an archive. A link that was copied to the host leads nowhere there.
const (
	toRoot   = ".@"
	toParent = "..@"
)

// showLink gives the text that is shown for a link's text.
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

// readLink gives the text that a shown one stands for.
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
