package main

// The exit codes of boxlited. Scripts and service managers may rely on them.
const (
	exitOK    = 0 // ended as asked
	exitOther = 1 // an error that has no code of its own
	exitUsage = 2 // the command line is wrong
	exitLock  = 3 // another boxlited uses the state directory
	exitMount = 4 // the mount point is in use, or the mount failed or was taken away
	exitState = 5 // the state directory cannot be used
	exitShim  = 6 // the shim's binary is missing
)
