// Package userdb finds out who a user is, by his name or number: on this host, or in the
// root file system of a container.
//
// An error is never read as "nobody". A file that is not there, and a number that has no
// entry, say that there is nothing known of a user; a file that cannot be read, or makes
// no sense where it names him, says nothing, and is an error.
package userdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// User is who runs something.
type User struct {
	UID, GID uint32
	// Groups are all groups, GID the first. That is among them so that who drops it has
	// lost nothing else (CVE-2022-36109).
	Groups []uint32
	// Home is "/" where none is known.
	Home string
}

// ErrUnknown says that there is no user, or no group, of that name.
var ErrUnknown = errors.New("unknown")

// DB is where users are looked up.
type DB struct {
	open func(path string) (io.ReadCloser, error)
	// services are what else the host may know users by; nil for none.
	services *nameServices
	maxID    uint32
	// groupOf is the group of a uid that has no entry.
	groupOf func(uid uint32) uint32
}

const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
)

// Host returns the users of this host: those of its files, and then those of its name
// services (LDAP, SSSD and the like). The group of a uid without an entry is the same
// number.
func Host() *DB {
	return &DB{
		open:     func(path string) (io.ReadCloser, error) { return os.Open(path) },
		services: hostServices(),
		maxID:    1<<32 - 2, // -1 means "unchanged" to setresuid(2)
		groupOf:  func(uid uint32) uint32 { return uid },
	}
}

// In returns the users of a root, whose ids go up to maxID. The group of a uid without an
// entry is 0, as elsewhere.
func In(root *Root, maxID uint32) *DB {
	return &DB{open: root.open, maxID: maxID, groupOf: func(uint32) uint32 { return 0 }}
}

// Lookup returns the user of `user[:group]`, each by name or number. An empty user is 0. A
// group that is asked for replaces all others, as with su.
func (db *DB) Lookup(ctx context.Context, who string) (User, error) {
	name, group, _ := strings.Cut(who, ":")
	if name == "" {
		name = "0"
	}
	e, err := db.account(ctx, name)
	if err != nil {
		return User{}, err
	}
	u := User{UID: e.uid, GID: e.gid, Home: e.home}
	if group != "" {
		if u.GID, err = db.group(ctx, group); err != nil {
			return User{}, err
		}
		u.Groups = []uint32{u.GID}
	} else if u.Groups, err = db.groups(ctx, e); err != nil {
		return User{}, err
	}
	for _, id := range append([]uint32{u.UID}, u.Groups...) {
		if id > db.maxID {
			return User{}, fmt.Errorf("id %d is out of range: ids go from 0 to %d", id, db.maxID)
		}
	}
	return u, nil
}

// account is an entry of /etc/passwd.
type account struct {
	name     string // empty: there is no entry
	uid, gid uint32
	home     string
	foreign  bool // of the host's name services
}

// account finds a user.
func (db *DB) account(ctx context.Context, name string) (account, error) {
	uid, err := strconv.ParseUint(name, 10, 32)
	numeric := err == nil
	e, err := db.findAccount(name, uint32(uid), numeric)
	if err == nil && e.name == "" {
		var text string
		if text, err = db.services.ask(ctx, "passwd", name); text != "" {
			if e, err = parseAccount(strings.Split(text, ":")); err != nil {
				err = fmt.Errorf("getent passwd %s: %w", name, err)
			}
			e.foreign = true
		}
	}
	switch {
	case err != nil || e.name != "":
		return e, err
	case !numeric:
		return e, fmt.Errorf("%w user %q: %s has none of that name%s", ErrUnknown, name, passwdFile, db.services.neither())
	}
	return account{uid: uint32(uid), gid: db.groupOf(uint32(uid)), home: "/"}, nil
}

// findAccount looks for an entry in /etc/passwd.
func (db *DB) findAccount(name string, uid uint32, numeric bool) (e account, err error) {
	err = db.entries(passwdFile, func(fields []string) (bool, error) {
		var err error
		switch {
		case numeric:
			// An entry that makes no sense is nobody's.
			if got, perr := parseAccount(fields); perr == nil && got.uid == uid {
				e = got
			}
		case fields[0] == name:
			e, err = parseAccount(fields)
		}
		return e.name != "", err
	})
	return e, err
}

func parseAccount(fields []string) (account, error) {
	if len(fields) < 4 {
		return account{}, errors.New("it has less than 4 fields")
	}
	uid, err := parseID("uid", fields[2])
	if err != nil {
		return account{}, err
	}
	gid, err := parseID("gid", fields[3])
	if err != nil {
		return account{}, err
	}
	e := account{name: fields[0], uid: uid, gid: gid, home: "/"}
	if len(fields) > 5 && fields[5] != "" {
		e.home = fields[5]
	}
	if strings.IndexByte(e.home, 0) >= 0 {
		return account{}, errors.New("its home has a NUL in it")
	}
	return e, nil
}

func parseID(what, text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("its %s is %.40q", what, text)
	}
	return uint32(id), nil
}

// group finds a group by its name or number.
func (db *DB) group(ctx context.Context, name string) (gid uint32, err error) {
	if id, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(id), nil
	}
	found := false
	err = db.entries(groupFile, func(fields []string) (bool, error) {
		var err error
		if found = fields[0] == name; found {
			gid, err = parseGroup(fields)
		}
		return found, err
	})
	if err == nil && !found {
		var text string
		if text, err = db.services.ask(ctx, "group", name); text != "" {
			found = true
			if gid, err = parseGroup(strings.Split(text, ":")); err != nil {
				err = fmt.Errorf("getent group %s: %w", name, err)
			}
		}
	}
	if err == nil && !found {
		err = fmt.Errorf("%w group %q: %s has none of that name%s", ErrUnknown, name, groupFile, db.services.neither())
	}
	return gid, err
}

func parseGroup(fields []string) (uint32, error) {
	if len(fields) < 3 {
		return 0, errors.New("it has less than 3 fields")
	}
	return parseID("gid", fields[2])
}

// groups returns the groups of a user, his main group the first.
func (db *DB) groups(ctx context.Context, e account) ([]uint32, error) {
	groups := []uint32{e.gid}
	if e.name == "" {
		return groups, nil
	}
	add := func(gid uint32) {
		if !slices.Contains(groups, gid) {
			groups = append(groups, gid)
		}
	}
	err := db.entries(groupFile, func(fields []string) (bool, error) {
		if len(fields) < 4 || !slices.Contains(strings.Split(fields[3], ","), e.name) {
			return false, nil
		}
		gid, err := parseGroup(fields)
		if err == nil {
			add(gid)
		}
		return false, err
	})
	if err == nil && e.foreign {
		var text string
		text, err = db.services.ask(ctx, "initgroups", e.name)
		for i, field := range strings.Fields(text) {
			if i == 0 {
				continue // the name
			}
			gid, perr := parseID("group", field)
			if perr != nil {
				return nil, fmt.Errorf("getent initgroups %s: %w", e.name, perr)
			}
			add(gid)
		}
	}
	slices.Sort(groups[1:])
	return groups, err
}

// notThere reports whether an error of an open says that there is no such file.
func notThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
