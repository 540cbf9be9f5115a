package wire

import (
	"net/netip"
	"testing"
)

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"", "127.0.0.1", "1.2.3", "1.2.3.4.5", "01.2.3.4", "256.0.0.1", "::", "::1", "1::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8",
		"1::2::3", ":::", "1:", ":1", "12345::", "::ffff:1.2.3.4", "1.2.3.4::", "1:2:3:4:5:6:7:1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "::1.2.3.4:5", "fe80::1%lo", "::g", "::+1", "1.2.3.4:5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, err := netip.ParseAddr(s)
		got, ok := ParseAddress(s)
		if ok != (err == nil && want.Zone() == "") {
			t.Fatalf("%q: %v, but netip says %v", s, ok, err)
		}
		if !ok {
			return
		}
		if got.V4 != want.Is4() || got.V4 && [4]byte(got.Bytes[:4]) != want.As4() || !got.V4 && got.Bytes != want.As16() {
			t.Fatalf("%q is %v, not %v", s, got, want)
		}
	})
}
