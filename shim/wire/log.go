package wire

import (
	"strconv"
	"strings"
)

// A box's log is one stream of bytes, kept in files that are named by their
// place in it: the file LogName(base) begins at byte base. The newest file is
// the one being written. When it has Spec.LogMax bytes the next one is begun
// and all but the one before it are removed. So an offset into the log stays
// good for as long as its bytes are kept, no file is ever renamed under a
// reader, and the log takes at most twice LogMax.

const logPrefix = "log."

// MinLogMax is the least Spec.LogMax that is taken, in bytes.
const MinLogMax = 4096

// LogName returns the name, in a box's directory, of the log file that begins
// after the first base bytes of the log.
func LogName(base int64) string {
	digits := strconv.FormatInt(base, 10)
	return logPrefix + "00000000000000000000"[:20-len(digits)] + digits
}

// ParseLogName is the inverse of LogName; ok is false for any other name.
func ParseLogName(name string) (base int64, ok bool) {
	digits, ok := strings.CutPrefix(name, logPrefix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	base, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || base < 0 || LogName(base) != name {
		return 0, false
	}
	return base, true
}
