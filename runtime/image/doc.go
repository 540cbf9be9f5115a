// Package image keeps OCI images: it takes them from registries, layouts and
// archives, verifies them, and unpacks each of their layers once, into a directory
// that serves as a lower layer of overlayfs. It runs nothing.
//
// The unpacking is done by a process of its own, see RunUnpacker, which can reach no
// file but those of its layer: a hostile image can neither write elsewhere nor take the
// daemon's memory.
package image
