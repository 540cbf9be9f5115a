package wire

// The descriptors that a shim inherits; see package shim.
const (
	FDNull = iota
	_      // stdout
	FDStderr
	FDSpec
	FDReport
	FDDir
	FDListen
	FDHold
)

// MaxConns bounds the connections that a shim keeps open at once, of which each watcher
// of the log has one. Twice as many may wait to be accepted.
const MaxConns = 64
