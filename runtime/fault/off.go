//go:build !faults

package fault

// Point marks a point at which a build with the tag faults can end the daemon.
func Point(string, ...string) {}

// PointIn is Point in the middle of deleting a directory.
func PointIn(string, ...string) {}

// RootOfHost says whether the files of boxes of engine host are offered too.
const RootOfHost = false
