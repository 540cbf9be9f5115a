// Package wire is what a box's supervisor and the daemon have in common: what they say to
// each other, and the names and numbers that both rely on.
//
//   - [Spec] and the report of how a start went travel by the pipes that a shim inherits
//     ([FDSpec], [FDReport]).
//   - A [Request] and its [Reply] are packets on the control socket, [SocketName] in the
//     box's directory. A connection answers one request and is closed, but for those that
//     watch and for the line.
//   - [LineCall] and [LineAnswer] are packets on the line: see [LineOp].
//   - [ExitRecord] and the files of the log, [LogName], lie in the box's directory, and an
//     [ExecSpec] in that of an exec.
//
// The two ends are different programs, of which one may have been upgraded while the other
// runs: each message begins with its version.
//
// The package makes no system call, and what decodes trusts nothing: each decoder has a
// fuzz target. It is linked into the shim, so it imports none of net, fmt, encoding/json and os.
package wire
