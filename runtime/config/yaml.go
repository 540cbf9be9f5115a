package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// maxDepth is how deep flow collections nest in a valid config:
// {security: {capabilities: {add: [ is the deepest.
const maxDepth = 4

// document is a config.yaml as a tree.
type document struct {
	// root is nil for a text that holds no document.
	root *yaml.Node
	// extra is the line on which a second document starts, or 0.
	extra int
}

// errYAML marks a failure of the YAML library itself.
var errYAML = errors.New("the YAML parser fails on this text: write it in a simpler way, with fewer comments")

// parseYAML builds the tree. Nothing is expanded: an alias stays a
// node, so the tree is never larger than the text.
func parseYAML(text []byte) (doc document, err error) {
	// yaml.v3 passes on the panics of its parser that it takes for bugs of its
	// own ("internal error … please report"). Several have been found in it over
	// the years, mostly in what it does with comments; none in this version by
	// our fuzzing. A config must not bring the daemon down all the same.
	defer func() {
		if p := recover(); p != nil {
			doc, err = document{}, fmt.Errorf("%w (%v)", errYAML, p)
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var first yaml.Node
	err = dec.Decode(&first)
	if errors.Is(err, io.EOF) {
		return document{}, nil
	}
	if err != nil {
		return document{}, err
	}
	doc.root = first.Content[0]
	var second yaml.Node
	err = dec.Decode(&second)
	if errors.Is(err, io.EOF) {
		return doc, nil
	}
	if err != nil {
		return document{}, err
	}
	doc.extra = second.Line
	return doc, nil
}

// checkBytes refuses what no YAML text holds: bytes that are not UTF-8
// and control characters. It also refuses the line breaks other than \n and
// \r\n that YAML knows, so that a line is the same for everybody. In a prefix,
// a character that is cut at the end may still be completed.
func checkBytes(text []byte, prefix bool) *Error {
	line := 1
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		msg := ""
		switch {
		case r == utf8.RuneError && size == 1:
			if prefix && !utf8.FullRune(text[i:]) {
				return nil
			}
			msg = "the text is not valid UTF-8"
		case r == '\n':
			line++
		case r == '\t':
		case r == '\r':
			last := i+1 == len(text)
			if (last && !prefix) || (!last && text[i+1] != '\n') {
				msg = `a carriage return stands alone: end lines with \n, or write it as "\r"`
			}
		case r == 0:
			msg = "the text holds a NUL byte"
		case r < 0x20 || (r >= 0x7f && r < 0xa0) || r == 0x2028 || r == 0x2029 || r == 0xfffe || r == 0xffff:
			msg = fmt.Sprintf(`the text holds the control character U+%04X: write it as "\u%04x"`, r, r)
		}
		if msg != "" {
			return &Error{Line: line, Msg: msg}
		}
		i += size
	}
	return nil
}

// wholeLines cuts a last line that has no newline yet.
func wholeLines(text []byte) []byte {
	return text[:bytes.LastIndexByte(text, '\n')+1]
}

// countLines is the number of lines of text, at least 1.
func countLines(text []byte) int {
	n := bytes.Count(text, []byte{'\n'})
	if len(text) == 0 || text[len(text)-1] != '\n' {
		n++
	}
	return n
}

// closers are the endings that can complete a text which is cut at the
// end of a line: a quote, and one bracket for each open flow collection. They
// are ordered by length.
var closers = func() []string {
	brackets := []string{""}
	for from, depth := 0, 0; depth < maxDepth; depth++ {
		to := len(brackets)
		for _, b := range brackets[from:to] {
			brackets = append(brackets, b+"]", b+"}")
		}
		from = to
	}
	var all []string
	for _, b := range brackets {
		all = append(all, b, `"`+b, "'"+b)
	}
	return append(all, newDocument)
}()

// newDocument completes a text of directives (%YAML 1.1): they are an
// error until their document begins.
const newDocument = "--- {}"

// closerOf returns an ending that makes whole lines of text parse.
//
// If any single document begins with these lines, then so does one that closes
// at once what is open at their end. In block context nothing needs closing. A
// quoted scalar needs its quote, a flow collection its bracket; a key still
// without a value, or a comma, may stand before the bracket. And what nests
// deeper than maxDepth is no valid config anyway.
func closerOf(text []byte) (closer string, ok bool) {
	// A fault that the parser reports before it has read to the end is there
	// whatever follows: one parse tells most of the broken texts.
	if failsAhead(&slowReader{text: text}) {
		return "", false
	}
	buf := make([]byte, len(text), len(text)+16)
	copy(buf, text)
	for _, closer := range closers {
		if !canClose(text, closer) {
			continue
		}
		doc, err := parseYAML(append(buf[:len(text)], closer...))
		if errors.Is(err, errYAML) || (err == nil && doc.extra == 0) {
			return closer, true
		}
	}
	return "", false
}

// canClose reports whether text opens enough for closer to close.
func canClose(text []byte, closer string) bool {
	for open, end := range map[string]string{"[": "]", "{": "}", `"`: `"`, "'": "'"} {
		if closer != newDocument && strings.Count(closer, end) > bytes.Count(text, []byte(open)) {
			return false
		}
	}
	return true
}

// repairable reports whether whole lines of text are the beginning of
// something that parses.
func repairable(text []byte) bool {
	_, ok := closerOf(text)
	return ok
}

// slowReader gives a text a few bytes at a time and sees whether its end was
// reached.
type slowReader struct {
	text []byte
	end  bool
}

func (r *slowReader) Read(p []byte) (int, error) {
	if len(r.text) == 0 {
		r.end = true
		return 0, io.EOF
	}
	n := copy(p, r.text[:min(len(r.text), 16)])
	r.text = r.text[n:]
	return n, nil
}

// failsAhead reports whether the first document is broken before the end of
// the text was seen.
func failsAhead(r *slowReader) (fails bool) {
	defer func() {
		if recover() != nil {
			fails = false // a fault of the library proves nothing
		}
	}()
	var n yaml.Node
	err := yaml.NewDecoder(r).Decode(&n)
	return err != nil && !r.end
}

// syntaxError says where and why a text does not parse.
func syntaxError(text []byte, err error) *Error {
	last := countLines(text)
	if errors.Is(err, errYAML) {
		return &Error{Line: last, Msg: errYAML.Error()}
	}
	if len(wholeLines(text)) != len(text) {
		text = append(bytes.Clone(text), '\n')
	}
	if closer, ok := closerOf(text); ok {
		msg := "the text ends too early"
		if closer != "" {
			msg += ": missing " + closer
		}
		return &Error{Line: last, Msg: msg}
	}
	// The library counts lines from 0 or from 1, or from the start of the
	// enclosing block. The first line after which nothing can be repaired is
	// what a reader looks for.
	var ends []int
	for i, c := range text {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	n := sort.Search(last-1, func(i int) bool { return !repairable(text[:ends[i]]) })
	return &Error{Line: n + 1, Msg: syntaxMsg(err)}
}

var yamlPrefix = regexp.MustCompile(`^yaml: (line \d+: )?`)

// syntaxHints gives the library's messages in words that help. Only the
// wording depends on them. None of the library's own that names a piece of
// the text may pass: it could be a secret.
var syntaxHints = []struct{ has, hint string }{
	{"mapping values are not allowed", `unexpected ": ": a value that holds one must be quoted`},
	{"could not find expected ':'", `expected "key: value"`},
	{"did not find expected key", "expected a key: check the indentation and the quotes"},
	{"did not find expected '-' indicator", `expected "- " and an item: indent the items of a list alike`},
	{"did not find expected ',' or ']'", `expected "," or "]"`},
	{"did not find expected ',' or '}'", `expected "," or "}"`},
	{"cannot start any token", "indent with spaces, not tabs, and quote a value that starts with @, % or `"},
	{"alphabetic or numeric character", "quote a value that starts with * or &"},
	{"unknown anchor", "aliases are not supported: quote a value that starts with *"},
	{"<document start>", "unexpected text after the end of the map"},
	{"unknown escape", `unknown escape in a quoted value: write \\ for a backslash, or use single quotes`},
}

func syntaxMsg(err error) string {
	text := yamlPrefix.ReplaceAllString(err.Error(), "")
	for _, h := range syntaxHints {
		if strings.Contains(text, h.has) {
			return h.hint
		}
	}
	return "not valid YAML: " + text
}
