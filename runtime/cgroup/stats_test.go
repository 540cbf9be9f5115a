package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCountsOfACgroup(t *testing.T) {
	files := map[string]string{
		"cpu.stat":       "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n",
		"memory.current": "4096\n", "pids.current": "3\n",
		"cpuacct.usage": "2500000000\n", "memory.usage_in_bytes": "8192\n",
	}
	for name, c := range map[string]struct {
		v2     bool
		change map[string]string // of the files; "-" is none
		lack   string            // a controller
		want   string
	}{
		"v1":                  {false, nil, "", "{2.5s 8192 3 0} true <nil>"},
		"v2":                  {true, nil, "", "{1.5s 4096 3 0} true <nil>"},
		"no memory":           {true, nil, "memory", "{1.5s 0 3 0} false <nil>"},
		"no pids":             {true, nil, "pids", "{1.5s 4096 0 0} false <nil>"},
		"no time":             {false, nil, "cpuacct", "{0s 8192 3 0} false <nil>"},
		"a later line":        {true, map[string]string{"cpu.stat": "core_sched.force_idle_usec 0\nusage_usec 7\n"}, "", "{7µs 4096 3 0} true <nil>"},
		"a file that is gone": {true, map[string]string{"memory.current": "-"}, "", "open DIR/memory.current: no such file or directory"},
		"an empty file":       {true, map[string]string{"pids.current": ""}, "", "DIR/pids.current: no \"\" in it"},
		"a broken file":       {true, map[string]string{"pids.current": "max\n"}, "", `DIR/pids.current: strconv.ParseInt: parsing "max": invalid syntax`},
		"a key that is gone":  {true, map[string]string{"cpu.stat": "user_usec 1\n"}, "", `DIR/cpu.stat: no "usage_usec " in it`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			g := &Group{V2: c.v2, Dirs: map[string]string{"cpuacct": dir, "memory": dir, "pids": dir}}
			delete(g.Dirs, c.lack)
			if err := g.Open(nil); err != nil {
				t.Fatal(err)
			}
			for file, text := range files {
				if changed, ok := c.change[file]; ok {
					text = changed
				}
				if text == "-" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			in := Parents{}
			defer in.Close()
			for _, in := range []Parents{nil, in, in} {
				st, complete, err := g.Counts(in)
				got := fmt.Sprint(st, complete, err)
				if err != nil {
					got = strings.ReplaceAll(err.Error(), dir, "DIR")
				}
				if got != c.want {
					t.Errorf("%s, not %s", got, c.want)
				}
			}
			if len(in) != 1 {
				t.Errorf("%d directories were opened for files of one", len(in))
			}
		})
	}
	if st, complete, err := (*Group)(nil).Counts(nil); st != (Stats{}) || complete || err != nil {
		t.Errorf("without a group: %v %v %v", st, complete, err)
	}
}
