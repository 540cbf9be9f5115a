//go:build linux && (amd64 || arm64)

package shim

import (
	"github.com/boxlitefs/boxlite/shim/wire"
)

const (
	// maxHead bounds the head of an HTTP response, in bytes.
	maxHead = 64 << 10
	// statusLen is the length of "HTTP/1.1 200".
	statusLen = 12
	// maxChunk bounds the size of a chunk: more digits make no sense.
	maxChunk = 1 << 40
)

// response is what is known of an HTTP response. The head is looked through and not kept.
type response struct {
	head    int // bytes of it, with those of interim responses
	begin   int // where the head that is being read begins
	status  [statusLen]byte
	lines   int  // whole lines of the head
	blank   bool // the line of the head that is being read is empty so far
	field   match
	coding  match
	chunked bool
	chunk   chunk
}

// take goes on in the response with b.
func (p *probe) take(b []byte) {
	r := &p.resp
	for i, c := range b {
		if p.decided {
			p.over = !p.takeBody(b[i:])
			return
		}
		at := r.head - r.begin
		if at < statusLen {
			r.status[at] = c
		}
		if at <= statusLen && !statusByte(at, c) || r.head == maxHead {
			p.finish(wire.ProbeResult{Code: 1, Reason: reasonNotHTTP})
			return
		}
		r.head++
		r.header(c)
		if c != '\n' {
			r.blank = r.blank && c == '\r'
			continue
		}
		if r.blank && r.interim() {
			*r = response{head: r.head, begin: r.head}
			continue
		}
		if r.blank {
			p.decided = true
			p.decide(r.verdict())
			p.deadline = min(p.deadline, monotonic()+bodyWaitNs)
		}
		r.lines++
		r.blank = true
	}
}

// takeBody keeps the beginning of the body, without what frames its chunks, and reports
// whether more of it is wanted.
func (p *probe) takeBody(b []byte) bool {
	c := &p.resp.chunk
	for len(b) > 0 && len(p.out) < cap(p.out) {
		n := len(b)
		if p.resp.chunked {
			var ok bool
			if n, ok = c.frame(b[0]); !ok {
				return false
			}
			if n == 0 {
				b = b[1:]
				continue
			}
			n = min(n, len(b))
			c.left -= n
		}
		p.out = append(p.out, b[:min(n, cap(p.out)-len(p.out))]...)
		b = b[n:]
	}
	return len(p.out) < cap(p.out)
}

// chunk is where in a chunked body one is.
type chunk struct {
	left    int // bytes of the chunk that are still to come
	size    int // of the next one, as far as its line was read
	sized   bool
	extra   bool // in the line, after the size
	between bool // after a chunk, before its line has ended
}

// frame returns how many bytes of a chunk begin with the next byte c; 0 says that it
// frames a chunk. It reports false at the end of the body, or if it makes no sense.
func (k *chunk) frame(c byte) (int, bool) {
	switch {
	case k.left > 0:
		return k.left, true
	case k.between:
		k.between = c != '\n'
		return 0, c == '\r' || c == '\n'
	case c == '\n':
		left, ok := k.size, k.sized
		*k = chunk{left: left, between: left > 0}
		return 0, ok && left > 0
	case k.extra || c == ';' || c == '\r' || c == ' ':
		k.extra = true
		return 0, true
	}
	digit := hexDigit(c)
	if digit < 0 || k.size >= maxChunk {
		return 0, false
	}
	k.size, k.sized = k.size<<4|digit, true
	return 0, true
}

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// header looks for "Transfer-Encoding: chunked".
func (r *response) header(c byte) {
	if c == '\n' {
		r.field, r.coding = 0, 0
		return
	}
	const field = "transfer-encoding:"
	if !r.field.whole(field) {
		r.field.next(field, c)
		return
	}
	const coding = "chunked"
	if r.coding == missed {
		r.coding = 0 // there may be others before it
	}
	r.coding.next(coding, c)
	r.chunked = r.chunked || r.coding.whole(coding)
}

// match is how many bytes of a word were met.
type match int

const missed match = -1

func (m *match) whole(word string) bool { return int(*m) == len(word) }

// next takes the next byte, in small or capital letters.
func (m *match) next(word string, c byte) {
	if 'A' <= c && c <= 'Z' {
		c |= 0x20
	}
	if *m == missed || m.whole(word) || word[*m] != c {
		*m = missed
		return
	}
	*m++
}

// interim reports whether another response follows: 1xx, but for 101, which ends HTTP.
func (r *response) interim() bool {
	code := string(r.status[statusLen-3:])
	return code[0] == '1' && code != "101"
}

// statusByte reports whether c may be the byte numbered i of a status line.
func statusByte(i int, c byte) bool {
	const line = "HTTP/0.0 000 "
	switch line[i] {
	case '0':
		return '0' <= c && c <= '9'
	case ' ':
		return c == ' ' || i == statusLen && (c == '\r' || c == '\n')
	}
	return c == line[i]
}

// verdict is what the status of a response says.
func (r *response) verdict() wire.ProbeResult {
	code := r.status[statusLen-3:]
	if code[0] == '2' || code[0] == '3' {
		return wire.ProbeResult{}
	}
	return wire.ProbeResult{Code: 1, Reason: "HTTP status " + string(code)}
}
