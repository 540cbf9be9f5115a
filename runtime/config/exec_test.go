package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseExec(t *testing.T) {
	env := map[string]string{}
	for text, want := range map[string]Exec{
		"ls -l\n":                    {Command: []string{"ls", "-l"}},
		"  sh\t-c  'a b'  ":          {Command: []string{"sh", "-c", "'a", "b'"}},
		"echo a: b, [c] {d} # e\n":   {Command: strings.Fields("echo a: b, [c] {d} # e")},
		"/bin/x=y":                   {Command: []string{"/bin/x=y"}},
		"command: [sh, -c, 'a b']\n": {Command: []string{"sh", "-c", "a b"}, Env: env},
		"{command: [a], tty: true}":  {Command: []string{"a"}, TTY: true, Env: env},
		"# words\ncommand:\n- 60\nenv: {A: 1}\nworkdir: /a\nuser: '1:2'\ntimeout: 1m30s\n": {
			Command: []string{"60"}, Env: map[string]string{"A": "1"}, Workdir: "/a", User: "1:2", Timeout: 90 * time.Second,
		},
	} {
		got, err := ParseExec("box", []byte(text))
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
		for n := range len(text) + 1 {
			if err := CheckExecPrefix("box", []byte(text[:n])); err != nil {
				t.Errorf("valid cmd %q is refused after %q: %v", text, text[:n], err)
			}
		}
	}
}

func TestParseExecRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"":                               "line 1: there is no command",
		"\n \n":                          "line 1: there is no command",
		"# ls\n":                         "line 1: there is no command",
		"ls\nls\n":                       "line 1: the command must be one line of words",
		"[ls, -l]\n":                     "line 1: the command must be one line of words",
		"'ls -l'\n":                      "line 1: the command must be one line of words",
		"env: {}\n":                      "line 1: command is missing",
		"command: []\n":                  "line 1: command is empty",
		"command: [a]\nmounts: []\n":     `line 2: unknown key "mounts"`,
		"command: [a]\ntimout: 1s\n":     `line 2: unknown key "timout" (did you mean "timeout"?)`,
		"command: [a]\ncommand: [b]\n":   `line 2: key "command" is given twice, first on line 1`,
		"command: [a]\n---\na\n":         `line 2: only one document is allowed`,
		"command: [a]\nenv: {A=B: C}\n":  "line 2: env name",
		"command: [a]\ntimeout: 9000h\n": "line 2: timeout 9000h is out of range",
		"command: [a\n":                  "line 1: the text ends too early: missing ]",
		"a\x00b":                         "line 1: ",
		"a\xff":                          "line 1: the text is not valid UTF-8",
	} {
		_, err := ParseExec("box", []byte(text))
		var e *Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), says) {
			t.Errorf("%q: %v; want %q", text, err, says)
		}
	}
	if _, err := ParseExec("box", make([]byte, MaxSize+1)); !errors.Is(err, ErrTooBig) {
		t.Error(err)
	}
	if err := CheckExecPrefix("box", []byte("comand: [a]\n")); err == nil {
		t.Error("a beginning that nothing mends is not refused")
	}
}

func FuzzExec(f *testing.F) {
	for _, text := range []string{
		"ls -l", "command: [a]\nenv: {A: b}\ntimeout: 1s\ntty: true\nuser: a\nworkdir: /\n", "{command: [a]}", "? command\n: [a]\n", "[a]", "- a", "a: b", "%YAML 1.1\n---\ncommand: [a]\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := ParseExec("box", text)
		if err != nil {
			return
		}
		if len(got.Command) == 0 || got.Command[0] == "" || got.Timeout < 0 {
			t.Errorf("%q gives %+v", text, got)
		}
		for n := range len(text) + 1 {
			if err := CheckExecPrefix("box", text[:n]); err != nil {
				t.Fatalf("valid cmd %q\nis refused after %q: %v", text, text[:n], err)
			}
		}
	})
}
