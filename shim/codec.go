package shim

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
)

// wireVersion is the first byte of everything that daemon and shim send each
// other. They are different programs, of which one may have been upgraded while
// the other runs.
const wireVersion = 1

// specVersion is the first byte of a Spec. That only goes from a daemon to the
// shim it has just started, so it may change without cutting a new daemon off
// from the shims of an old one, as a change of wireVersion would.
const specVersion = 5

// maxSpec bounds an encoded Spec. A config is 64 KiB at most; what the daemon
// adds to it (PATH, resolved names) is small.
const maxSpec = 1 << 20

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

// appendSpec encodes s.
func appendSpec(b []byte, s *Spec) []byte {
	b = append(b, specVersion)
	b = appendString(b, s.Box)
	b = appendString(b, s.Run)
	b = appendStrings(b, s.Argv)
	b = appendStrings(b, s.Env)
	b = appendString(b, s.Workdir)
	b = appendU32(b, s.UID)
	b = appendU32(b, s.GID)
	b = appendU32(b, uint32(len(s.Groups)))
	for _, g := range s.Groups {
		b = appendU32(b, g)
	}
	b = appendString(b, s.Hostname)
	b = appendBool(b, s.PrivateNet)
	b = appendU32(b, uint32(len(s.Mounts)))
	for _, m := range s.Mounts {
		b = appendString(b, m.Source)
		b = appendString(b, m.Target)
		b = appendBool(b, m.ReadOnly)
	}
	b = appendStrings(b, s.Mask)
	b = appendBool(b, s.ReadonlyRoot)
	b = appendU32(b, uint32(len(s.Rlimits)))
	for _, r := range s.Rlimits {
		b = appendI64(b, int64(r.Resource))
		b = appendU64(b, r.Soft)
		b = appendU64(b, r.Hard)
	}
	b = appendBool(b, s.NoNewPrivs)
	b = appendU64(b, s.Capabilities)
	b = appendU64(b, s.CapAmbient)
	b = appendU32(b, uint32(s.StopSignal))
	b = appendI64(b, s.StopGraceNs)
	b = appendI64(b, s.LogMax)
	b = appendU32(b, uint32(s.OOMScore))
	b = appendBool(b, s.DieWithDaemon)
	b = appendStrings(b, s.Cgroups)
	b = appendString(b, s.Freezer)
	b = appendString(b, s.Thaw)
	b = append(b, byte(s.Probe.Kind))
	b = appendStrings(b, s.Probe.Argv)
	b = appendString(b, s.Probe.Addr)
	b = appendU32(b, uint32(s.Probe.Port))
	b = appendString(b, s.Probe.Request)
	b = appendI64(b, s.Probe.TimeoutNs)
	b = appendBool(b, s.Container != nil)
	if c := s.Container; c != nil {
		b = appendStrings(b, c.Runtime)
		b = appendString(b, string(c.Config))
		b = appendStrings(b, c.Layers)
		b = appendString(b, c.Upper)
		b = appendU32(b, uint32(len(c.Files)))
		for _, f := range c.Files {
			b = appendString(b, f.Name)
			b = appendString(b, string(f.Data))
		}
		b = appendU32(b, c.Owner)
		b = appendU32(b, c.FirstID)
		b = appendU32(b, c.IDs)
		b = appendBool(b, c.Init)
		b = appendBool(b, c.PrivateNet)
		b = appendString(b, string(c.Probe))
		b = appendStrings(b, c.Detach)
	}
	return b
}

// decodeSpec is the inverse of appendSpec. It also refuses what no shim could
// act on.
func decodeSpec(b []byte) (*Spec, error) {
	d := decoder{buf: b}
	if d.u8() != specVersion {
		return nil, errors.New("the spec is of another version of boxlite")
	}
	s := new(Spec)
	s.Box = d.string()
	s.Run = d.string()
	s.Argv = d.strings()
	s.Env = d.strings()
	s.Workdir = d.string()
	s.UID = d.u32()
	s.GID = d.u32()
	if n := d.length(4); n > 0 {
		s.Groups = make([]uint32, n)
		for i := range s.Groups {
			s.Groups[i] = d.u32()
		}
	}
	s.Hostname = d.string()
	s.PrivateNet = d.bool()
	if n := d.length(9); n > 0 {
		s.Mounts = make([]Mount, n)
		for i := range s.Mounts {
			s.Mounts[i] = Mount{Source: d.string(), Target: d.string(), ReadOnly: d.bool()}
		}
	}
	s.Mask = d.strings()
	s.ReadonlyRoot = d.bool()
	if n := d.length(24); n > 0 {
		s.Rlimits = make([]Rlimit, n)
		for i := range s.Rlimits {
			s.Rlimits[i] = Rlimit{Resource: int(d.i64()), Soft: d.u64(), Hard: d.u64()}
		}
	}
	s.NoNewPrivs = d.bool()
	s.Capabilities = d.u64()
	s.CapAmbient = d.u64()
	s.StopSignal = d.signal()
	s.StopGraceNs = d.i64()
	s.LogMax = d.i64()
	s.OOMScore = d.natural()
	s.DieWithDaemon = d.bool()
	s.Cgroups = d.strings()
	s.Freezer = d.string()
	s.Thaw = d.string()
	s.Probe = Probe{Kind: ProbeKind(d.u8()), Argv: d.strings(), Addr: d.string(), Port: d.port(), Request: d.string(), TimeoutNs: d.i64()}
	if d.bool() {
		c := &Container{Runtime: d.strings(), Config: d.bytes(), Layers: d.strings(), Upper: d.string()}
		if n := d.length(8); n > 0 {
			c.Files = make([]File, n)
			for i := range c.Files {
				c.Files[i] = File{Name: d.string(), Data: d.bytes()}
			}
		}
		c.Owner, c.FirstID, c.IDs, c.Init, c.PrivateNet, c.Probe, c.Detach = d.u32(), d.u32(), d.u32(), d.bool(), d.bool(), d.bytes(), d.strings()
		s.Container = c
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Spec) check() error {
	switch {
	case len(s.Argv) == 0 || s.Argv[0] == "":
		return errors.New("the spec has no command")
	case !strings.HasPrefix(s.Workdir, "/"):
		return errors.New("the spec's workdir is not absolute")
	case s.StopSignal == 0:
		return errors.New("the spec has no stop signal")
	case s.StopGraceNs < 0:
		return errors.New("the spec's stop grace is negative")
	case s.LogMax < MinLogMax:
		return errors.New("the spec's bound of the log is too small")
	}
	if s.Container != nil {
		if err := s.Container.check(); err != nil {
			return err
		}
	}
	return s.Probe.check()
}

func (c *Container) check() error {
	switch {
	case len(c.Runtime) == 0 || !strings.HasPrefix(c.Runtime[0], "/"):
		return errors.New("the spec's runtime has no absolute path")
	case len(c.Layers) == 0 || c.Upper == "" && len(c.Layers) > 1:
		return errors.New("the spec's container has no root")
	case c.IDs == 0:
		return errors.New("the spec's container has no ids")
	}
	return nil
}

func (p *Probe) check() error {
	_, addrOK := parseAddr(p.Addr)
	switch {
	case p.Kind == ProbeNone:
		return nil
	case p.Kind > ProbeHTTP:
		return errors.New("the spec's probe is of an unknown kind")
	case p.TimeoutNs <= 0:
		return errors.New("the spec's probe has no timeout")
	case p.Kind == ProbeCommand:
		if len(p.Argv) == 0 || p.Argv[0] == "" {
			return errors.New("the spec's probe has no command")
		}
	case p.Port == 0:
		return errors.New("the spec's probe has no port")
	case p.Addr != "" && !addrOK:
		return errors.New("the spec's probe has no IP address")
	case p.Kind == ProbeHTTP && p.Request == "":
		return errors.New("the spec's probe has no request")
	}
	return nil
}
