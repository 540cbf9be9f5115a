package procfs

import "strings"

// Status is the text of /proc/PID/status.
type Status string

// Status reads /proc/PID/status.
func (p Process) Status() (Status, error) {
	text, err := p.readAll("status", -1)
	return Status(text), err
}

// Field returns the value of a field, as of "Tgid", without the space around it; "" if there
// is none.
func (s Status) Field(name string) string {
	for line := range strings.Lines(string(s)) {
		if v, ok := strings.CutPrefix(line, name); ok && strings.HasPrefix(v, ":") {
			return strings.TrimSpace(v[1:])
		}
	}
	return ""
}
