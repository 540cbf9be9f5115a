package wire

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
)

// Version is the first byte of everything that daemon and shim send each
// other. They are different programs, of which one may have been upgraded while
// the other runs.
const Version = 1

var errMalformed = errors.New("malformed message")

// The codec is the plainest there can be: little-endian integers of fixed size,
// strings and lists with a 32-bit length before them, all fields, in order.
// Every value has one encoding, so that decoding and encoding again gives the
// same bytes (which is what the fuzzers check).

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendU32(b []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(b, v) }
func appendU64(b []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(b, v) }
func appendI64(b []byte, v int64) []byte  { return appendU64(b, uint64(v)) }

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// decoder takes values off the front of buf. After the first thing that is
// wrong it stays bad and gives zero values, so that callers check once.
type decoder struct {
	buf []byte
	bad bool
}

// take returns the next n bytes, or nil.
func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.buf) {
		d.bad = true
		return nil
	}
	b := d.buf[:n]
	d.buf = d.buf[n:]
	return b
}

func (d *decoder) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) i64() int64 { return int64(d.u64()) }

func (d *decoder) bool() bool {
	v := d.u8()
	if v > 1 {
		d.bad = true
	}
	return v == 1
}

// length reads the number of elements of a list whose elements take at least
// each bytes. The bound keeps a lie from costing memory.
func (d *decoder) length(each int) int {
	n := d.u32()
	if uint64(n)*uint64(each) > uint64(len(d.buf)) {
		d.bad = true
	}
	if d.bad {
		return 0
	}
	return int(n)
}

// string reads a string. None that travels here may hold a NUL: they all end up
// as C strings in system calls.
func (d *decoder) string() string {
	b := d.take(d.length(1))
	if len(b) == 0 {
		return ""
	}
	s := string(b)
	if strings.IndexByte(s, 0) >= 0 {
		d.bad = true
		return ""
	}
	return s
}

// bytes reads bytes of any value, and copies them.
func (d *decoder) bytes() []byte {
	b := d.take(d.length(1))
	if len(b) == 0 {
		return nil
	}
	return append([]byte(nil), b...)
}

// natural reads a number that is an int everywhere.
func (d *decoder) natural() int {
	n := d.u32()
	if n > math.MaxInt32 {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *decoder) port() uint16 {
	n := d.u32()
	if n > math.MaxUint16 {
		d.bad = true
	}
	return uint16(n)
}

func (d *decoder) strings() []string {
	n := d.length(4)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = d.string()
	}
	return list
}

// end reports whether everything was there and nothing is left.
func (d *decoder) end() error {
	if d.bad || len(d.buf) != 0 {
		return errMalformed
	}
	return nil
}
