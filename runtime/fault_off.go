//go:build !faults

package runtime

// Fault marks a point at which a test build can end the daemon; see fault_on.go.
// Here it is nothing, and leaves nothing in the program.
func Fault(string, ...string) {}

func faultIn(string, ...string) {}
