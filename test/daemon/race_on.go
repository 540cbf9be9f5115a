//go:build race

package daemon

// Race says that the tests, and so the daemon, look for data races.
const Race = true
