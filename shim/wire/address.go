package wire

import (
	"strconv"
	"strings"
)

// Address is an IP address. Package net, and net/netip as well, would add to what
// each shim keeps in memory.
type Address struct {
	// Bytes has an IPv6 address, or with V4 an IPv4 address in the first four.
	Bytes [16]byte
	V4    bool
}

// ParseAddress reads an IP address as net/netip does, but takes no zone.
func ParseAddress(s string) (a Address, ok bool) {
	if !strings.Contains(s, ":") {
		a.V4 = true
		return a, parseV4(s, a.Bytes[:4])
	}
	head, tail, gap := strings.Cut(s, "::")
	front, ok := parseGroups(head, a.Bytes[:], !gap)
	if !gap {
		return a, ok && front == 16
	}
	if !ok {
		return a, false
	}
	var end [16]byte
	back, ok := parseGroups(tail, end[:], true)
	// A gap stands for one group at least.
	if !ok || front+back > 14 {
		return a, false
	}
	copy(a.Bytes[16-back:], end[:back])
	return a, true
}

// parseGroups reads the groups of an IPv6 address on one side of its gap, and says
// how many bytes they are. With last an IPv4 address may be at the end.
func parseGroups(s string, b []byte, last bool) (n int, ok bool) {
	for more := s != ""; more; {
		var group string
		group, s, more = strings.Cut(s, ":")
		if last && !more && strings.Contains(group, ".") {
			return n + 4, n+4 <= len(b) && parseV4(group, b[n:n+4])
		}
		v, err := strconv.ParseUint(group, 16, 16)
		if err != nil || len(group) > 4 || n+2 > len(b) {
			return 0, false
		}
		b[n], b[n+1] = byte(v>>8), byte(v)
		n += 2
	}
	return n, true
}

func parseV4(s string, b []byte) bool {
	for i := range b {
		part, rest, more := strings.Cut(s, ".")
		v, err := strconv.ParseUint(part, 10, 8)
		if err != nil || len(part) > 1 && part[0] == '0' || more != (i < len(b)-1) {
			return false
		}
		b[i], s = byte(v), rest
	}
	return true
}
