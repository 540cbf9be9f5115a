package wire

import (
	"errors"
	"strings"
)

// specVersion is the first byte of a Spec. That only goes from a daemon to the
// shim it has just started, so it may change without cutting a new daemon off
// from the shims of an old one, as a change of Version would.
const specVersion = 5

// MaxSpec bounds an encoded Spec, in bytes. A config is 64 KiB at most; what the daemon
// adds to it (PATH, resolved names) is small.
const MaxSpec = 1 << 20

// SpecLengthSize is the size of what a Spec has before it in its pipe, in bytes.
const SpecLengthSize = 4

// AppendSpecLength encodes what is sent before an encoded Spec: its size in bytes.
func AppendSpecLength(b []byte, n int) []byte { return appendU32(b, uint32(n)) }

// DecodeSpecLength is the inverse of AppendSpecLength. It refuses more than MaxSpec.
func DecodeSpecLength(b [SpecLengthSize]byte) (int, error) {
	d := decoder{buf: b[:]}
	n := d.u32()
	if n > MaxSpec {
		return 0, errMalformed
	}
	return int(n), nil
}

// Append appends the spec as the shim reads it.
func (s *Spec) Append(b []byte) []byte {
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

// DecodeSpec is the inverse of Append. It also refuses what no shim could
// act on.
func DecodeSpec(b []byte) (*Spec, error) {
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
	_, addrOK := ParseAddress(p.Addr)
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
