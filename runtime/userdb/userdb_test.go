package userdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes files, and links where the text begins with "-> ".
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		at := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(at), 0o755))
		if to, link := strings.CutPrefix(text, "-> "); link {
			must(t, os.Symlink(to, at))
			continue
		}
		must(t, os.WriteFile(at, []byte(text), 0o600))
	}
	return dir
}

const passwd = `# users
root:x:0:0:root:/root:/bin/sh
+::::::
web:x:33:34:,,,:/srv:/bin/sh
homeless:x:35:35
www:x:33:99:the same uid:/www:
broken:x:abc:5::/:
negative:x:-1:5::/:
nul:x:36:36::/a` + "\x00" + `b:
far:x:65536:0::/:
farther:x:4294967295:0::/:
`

const group = `root:x:0:
web:x:34:
extra:x:36:homeless,web
other:x:35:web
again:x:36:web
bad:x:y:broken,unlucky
far:x:70000:far2
`

func TestLookup(t *testing.T) {
	dir := tree(t, map[string]string{
		"etc/passwd": passwd + "unlucky:x:40:40:::\nfar2:x:41:41:::\n",
		"etc/group":  group,
	})
	db := In(&Root{Layers: []string{dir}}, 65535)
	for who, want := range map[string]User{
		"":           {0, 0, []uint32{0}, "/root"},
		"root":       {0, 0, []uint32{0}, "/root"},
		"0":          {0, 0, []uint32{0}, "/root"},
		"web":        {33, 34, []uint32{34, 35, 36}, "/srv"},
		"33":         {33, 34, []uint32{34, 35, 36}, "/srv"},
		"www":        {33, 99, []uint32{99}, "/www"},
		"homeless":   {35, 35, []uint32{35, 36}, "/"},
		"web:extra":  {33, 36, []uint32{36}, "/srv"},
		"web:7":      {33, 7, []uint32{7}, "/srv"},
		"web:":       {33, 34, []uint32{34, 35, 36}, "/srv"},
		":extra":     {0, 36, []uint32{36}, "/root"},
		"1234":       {1234, 0, []uint32{0}, "/"},
		"1234:5678":  {1234, 5678, []uint32{5678}, "/"},
		"1234:extra": {1234, 36, []uint32{36}, "/"},
		"65535":      {65535, 0, []uint32{0}, "/"},
	} {
		if got, err := db.Lookup(context.Background(), who); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, %v; want %+v", who, got, err, want)
		}
	}
	for who, want := range map[string]string{
		"nobody":      `unknown user "nobody": /etc/passwd has none of that name`,
		"web:nobody":  `unknown group "nobody": /etc/group has none of that name`,
		"broken":      `/etc/passwd: line 7: its uid is "abc"`,
		"negative":    `/etc/passwd: line 8: its uid is "-1"`,
		"nul":         `/etc/passwd: line 9: its home has a NUL in it`,
		"far":         `id 65536 is out of range: ids go from 0 to 65535`,
		"farther":     `id 4294967295 is out of range: ids go from 0 to 65535`,
		"far2":        `id 70000 is out of range: ids go from 0 to 65535`,
		"web:far":     `id 70000 is out of range: ids go from 0 to 65535`,
		"web:bad":     `/etc/group: line 6: its gid is "y"`,
		"unlucky":     `/etc/group: line 6: its gid is "y"`,
		"99999":       `id 99999 is out of range: ids go from 0 to 65535`,
		"web\x1b":     `unknown user "web\x1b": /etc/passwd has none of that name`,
		"99999999999": `unknown user "99999999999": /etc/passwd has none of that name`,
	} {
		if got, err := db.Lookup(context.Background(), who); err == nil || err.Error() != want {
			t.Errorf("%q: got %+v, %v; want %s", who, got, err, want)
		}
	}
	if _, err := db.Lookup(context.Background(), "nobody"); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v is not ErrUnknown", err)
	}
}

// What cannot be read says nothing of a user, not even of a number.
func TestAnUnreadableFileIsNobody(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"":                                     {},
		"no such file or directory":            {"etc/passwd": "-> /nowhere"},
		"a file for a directory":               {"etc": "file"},
		"/etc/passwd: line 1 is longer":        {"etc/passwd": strings.Repeat("x", maxLine+1)},
		"/etc/passwd: it is larger than":       {"etc/passwd": strings.Repeat("x\n", maxRootFile/2+1)},
		"/etc/passwd cannot be read: too many": {"etc/passwd": "-> passwd"},
		"/etc/passwd cannot be read: is a":     {"etc/passwd/x": ""},
		"/etc/group: line 1 is longer":         {"etc/passwd": "x:x:7:0:::\n", "etc/group": strings.Repeat("x", maxLine+1)},
	} {
		u, err := In(&Root{Layers: []string{tree(t, files)}}, 65535).Lookup(context.Background(), "7")
		if strings.HasPrefix(name, "/") {
			if err == nil || !strings.HasPrefix(err.Error(), name) {
				t.Errorf("%s: %+v, %v", name, u, err)
			}
		} else if err != nil || u.UID != 7 || u.GID != 0 || u.Home != "/" {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
	}
	dir := tree(t, map[string]string{"etc/x": ""})
	must(t, unix.Mkfifo(filepath.Join(dir, "etc/passwd"), 0o600))
	u, err := In(&Root{Layers: []string{dir}}, 65535).Lookup(context.Background(), "7")
	if err == nil || err.Error() != "/etc/passwd cannot be read: it is no regular file" {
		t.Errorf("a FIFO: %+v, %v", u, err)
	}
}

// services is a host whose getent is a script.
func services(t *testing.T, sources, script string) *DB {
	t.Helper()
	dir := tree(t, map[string]string{"nsswitch.conf": sources, "getent": "#!/bin/sh\n" + script})
	must(t, os.Chmod(filepath.Join(dir, "getent"), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	files := tree(t, map[string]string{"etc/passwd": passwd, "etc/group": group + "both:x:50:ldap\n"})
	db := In(&Root{Layers: []string{files}}, 1<<32-2)
	db.groupOf = func(uid uint32) uint32 { return uid }
	db.services = &nameServices{config: filepath.Join(dir, "nsswitch.conf"), bound: 2 * time.Second}
	return db
}

const ldap = `case "$1 $2" in
"passwd ldap" | "passwd 4242") echo "ldap:x:4242:4243::/home/ldap:/bin/sh";;
"passwd odd") echo "odd:x:-7:1:::";;
"passwd down") echo "no server" >&2; exit 9;;
"passwd slow") sleep 600 & sleep 600;;
"group staff") echo "staff:x:4300:";;
"initgroups ldap") echo "ldap    4300 4243 4301";;
*) exit 2;;
esac`

func TestUsersOfNameServices(t *testing.T) {
	db := services(t, "passwd: files [NOTFOUND=continue] ldap # and\ngroup: files ldap\n", ldap)
	for who, want := range map[string]User{
		"web":      {33, 34, []uint32{34, 35, 36}, "/srv"},
		"ldap":     {4242, 4243, []uint32{4243, 50, 4300, 4301}, "/home/ldap"},
		"4242":     {4242, 4243, []uint32{4243, 50, 4300, 4301}, "/home/ldap"},
		"ldap:web": {4242, 34, []uint32{34}, "/home/ldap"},
		"0:staff":  {0, 4300, []uint32{4300}, "/root"},
		"4244":     {4244, 4244, []uint32{4244}, "/"},
	} {
		if got, err := db.Lookup(context.Background(), who); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, %v; want %+v", who, got, err, want)
		}
	}
	neither := ", nor has a service of " + db.services.config
	for who, want := range map[string]string{
		"nobody":  `unknown user "nobody": /etc/passwd has none of that name` + neither,
		"0:users": `unknown group "users": /etc/group has none of that name` + neither,
		"odd":     `getent passwd odd: its uid is "-7"`,
		"down":    `getent passwd down: exit status 9 no server`,
		"slow":    `getent passwd slow: the host's name services have not answered within 2s`,
		"-h":      `unknown user "-h": /etc/passwd has none of that name` + neither,
	} {
		if got, err := db.Lookup(context.Background(), who); err == nil || err.Error() != want {
			t.Errorf("%q: got %+v, %v; want %s", who, got, err, want)
		}
	}
}

func TestFilesAloneAskNobody(t *testing.T) {
	for _, sources := range []string{"passwd: files", "passwd: files [SUCCESS=return UNAVAIL=continue]", "# passwd: ldap", "group: ldap"} {
		u, err := services(t, sources, "exit 9").Lookup(context.Background(), "4242")
		if err != nil || u.UID != 4242 {
			t.Errorf("%s: %+v, %v", sources, u, err)
		}
	}
	db := services(t, "passwd: ldap", "exit 9")
	t.Setenv("PATH", "/nowhere")
	if u, err := db.Lookup(context.Background(), "4242"); err == nil {
		t.Errorf("without getent: %+v", u)
	}
	db.services.config = "/nowhere"
	u, err := db.Lookup(context.Background(), "4242")
	if err != nil || u.UID != 4242 {
		t.Errorf("without nsswitch.conf: %+v, %v", u, err)
	}
}

func TestTheHostsRoot(t *testing.T) {
	u, err := Host().Lookup(context.Background(), "root")
	if err != nil || u.UID != 0 || u.GID != 0 || len(u.Groups) == 0 || u.Groups[0] != 0 || !strings.HasPrefix(u.Home, "/") {
		t.Errorf("%+v, %v", u, err)
	}
}

func FuzzLookup(f *testing.F) {
	f.Add(passwd, group, "web:extra")
	f.Add("root:x:0:0", "", "0")
	f.Add("a:x:1:1::\n", "g:x:2:a,b", "a")
	f.Fuzz(func(t *testing.T, passwd, group, who string) {
		if strings.HasPrefix(passwd, "-> ") || strings.HasPrefix(group, "-> ") {
			return
		}
		dir := tree(t, map[string]string{"etc/passwd": passwd, "etc/group": group})
		u, err := In(&Root{Layers: []string{dir}}, 65535).Lookup(context.Background(), who)
		if err != nil {
			return
		}
		name, _, _ := strings.Cut(who, ":")
		if u.UID > 65535 || u.GID > 65535 || len(u.Groups) == 0 || u.Groups[0] != u.GID || u.Home == "" || strings.Contains(u.Home, "\x00") {
			t.Errorf("%q is %+v", who, u)
		}
		// Nobody is root who is not called so.
		if u.UID == 0 && strings.Trim(name, "0") != "" && !strings.Contains(passwd, fmt.Sprintf("%s:", name)) {
			t.Errorf("%q is root", who)
		}
	})
}
