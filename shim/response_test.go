//go:build linux && (amd64 || arm64)

package shim

import (
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/boxlitefs/boxlite/shim/wire"
)

// heard gives what a probe makes of a response that comes in pieces of n bytes, and
// whether it has ended by it.
func heard(text string, n int) (result wire.ProbeResult, output string, over bool) {
	p := &probe{out: make([]byte, 0, wire.MaxProbeOutput), deadline: math.MaxInt64}
	for len(text) > 0 && !p.over {
		n := min(n, len(text))
		p.take([]byte(text[:n]))
		text = text[n:]
	}
	p.result.Duration = 0
	return p.result, string(p.out), p.over
}

func TestResponses(t *testing.T) {
	const chunked = "HTTP/1.1 200 OK\r\nServer: x\r\nTRANSFER-Encoding:  gzip, Chunked \r\n\r\n"
	long := strings.Repeat("0123456789abcdef", 200)
	for name, c := range map[string]struct {
		text   string
		result wire.ProbeResult
		output string
		over   bool
	}{
		"plain":             {"HTTP/1.1 200 OK\r\n\r\nhello", wire.ProbeResult{}, "hello", false},
		"chunks":            {chunked + "2\r\nok\r\n3 \r\nay!\r\n0\r\n\r\n", wire.ProbeResult{}, "okay!", true},
		"extended chunks":   {chunked + "2;a=b\r\nok\r\n0;c\r\nX: y\r\n\r\n", wire.ProbeResult{}, "ok", true},
		"a long chunk":      {chunked + "c80\r\n" + long + "\r\n0\r\n\r\n", wire.ProbeResult{}, long[:wire.MaxProbeOutput], true},
		"no chunk":          {chunked + "zz\r\n", wire.ProbeResult{}, "", true},
		"an endless size":   {chunked + strings.Repeat("f", 100), wire.ProbeResult{}, "", true},
		"a lie":             {chunked + "2\r\nokay\r\n", wire.ProbeResult{}, "ok", true},
		"a chunk cut":       {chunked + "5\r\nok", wire.ProbeResult{}, "ok", false},
		"not chunked":       {"HTTP/1.1 200 OK\r\nX-Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", wire.ProbeResult{}, "2\r\nok\r\n", false},
		"hints before it":   {"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n\r\n", wire.ProbeResult{Code: 1, Reason: "HTTP status 503"}, "", false},
		"hints and no more": {"HTTP/1.1 103 Early Hints\r\n\r\n", wire.ProbeResult{}, "", false},
		"another protocol":  {"HTTP/1.1 101 Switching\r\n\r\n", wire.ProbeResult{Code: 1, Reason: "HTTP status 101"}, "", false},
		"upgrade":           {"HTTP/1.1 426 Upgrade Required\r\n\r\n", wire.ProbeResult{Code: 1, Reason: "HTTP status 426"}, "", false},
		"endless hints":     {strings.Repeat("HTTP/1.1 103 x\r\n\r\n", maxHead/18+2), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}, "", true},
		"junk after hints":  {"HTTP/1.1 103 x\r\n\r\njunk", wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}, "", true},
	} {
		for _, n := range []int{1, 7, 1 << 20} {
			result, output, over := heard(c.text, n)
			if !reflect.DeepEqual(result, c.result) || output != c.output || over != c.over {
				t.Errorf("%s in pieces of %d: %+v %.60q %v; want %+v %.60q %v", name, n, result, output, over, c.result, c.output, c.over)
			}
		}
	}
}

// What a response is does not depend on how it comes.
func FuzzResponse(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 3)
	f.Add("HTTP/1.1 103 x\r\n\r\nHTTP/1.0 204 x\n\nbody", 1)
	f.Fuzz(func(t *testing.T, text string, n int) {
		n = 1 + n&0xff
		r1, o1, v1 := heard(text, n)
		r2, o2, v2 := heard(text, math.MaxInt)
		if !reflect.DeepEqual(r1, r2) || o1 != o2 || v1 != v2 {
			t.Errorf("in pieces of %d: %+v %q %v; whole: %+v %q %v", n, r1, o1, v1, r2, o2, v2)
		}
	})
}
