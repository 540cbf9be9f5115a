package main

import (
	_ "embed"
	"regexp"
	"strings"
	"unicode/utf8"
)

// manual is the page boxlited(8).
//
//go:embed boxlited.8.md
var manual string

// helpSections are the sections of the page that --help prints.
var helpSections = []string{"SYNOPSIS", "OPTIONS", "SIGNALS", "EXIT STATUS", "EXAMPLES"}

// usage returns the text of --help.
func usage() string {
	var out strings.Builder
	out.WriteString("boxlited runs commands in boxes and is driven through files: see boxlited(8).\n")
	for _, name := range helpSections {
		out.WriteString("\n" + name[:1] + strings.ToLower(name[1:]) + ":\n")
		writePlain(&out, section(manual, name))
	}
	return out.String()
}

// section returns the text of a section of a page, without its heading.
func section(page, name string) string {
	_, text, _ := strings.Cut(page, "\n## "+name+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	return strings.Trim(text, "\n")
}

// The layout of the help, in columns.
const (
	helpWidth = 80
	termAt    = 2
	textAt    = 6
)

// writePlain writes Markdown as text for a terminal. It knows what helpSections are made
// of: paragraphs, definition lists, code in fences without an empty line, and emphasis.
func writePlain(out *strings.Builder, markdown string) {
	after := "" // the kind of the block before
	for block := range strings.SplitSeq(markdown, "\n\n") {
		block = strings.TrimSpace(block)
		term, definition, isTerm := strings.Cut(block, "\n: ")
		switch {
		case strings.HasPrefix(block, "```"):
			_, code, _ := strings.Cut(strings.TrimSuffix(block, "```"), "\n")
			for line := range strings.Lines(code) {
				out.WriteString(strings.Repeat(" ", textAt) + line)
			}
			after = "code"
			continue
		case isTerm:
			writeTerm(out, withoutMarkup(term), withoutMarkup(definition))
		default:
			if after == "code" {
				out.WriteString("\n")
			}
			// A call that takes more than a line goes on below its first argument.
			wrap(out, strings.Repeat(" ", termAt), termAt+len("boxlited "), withoutMarkup(block))
		}
		after = "text"
	}
}

// writeTerm writes a definition beside its term if that is short, else below it.
func writeTerm(out *strings.Builder, term, definition string) {
	first := strings.Repeat(" ", termAt) + term
	if room := textAt - utf8.RuneCountInString(first); room >= 2 {
		first += strings.Repeat(" ", room)
	} else {
		out.WriteString(first + "\n")
		first = strings.Repeat(" ", textAt)
	}
	wrap(out, first, textAt, definition)
}

// wrap writes text in lines that fit the terminal: the first begins with first, the others
// are indented.
func wrap(out *strings.Builder, first string, indent int, text string) {
	line, empty := first, true
	for word := range strings.FieldsSeq(text) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) >= helpWidth {
			out.WriteString(line + "\n")
			line, empty = strings.Repeat(" ", indent), true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	out.WriteString(line + "\n")
}

// markup is emphasis, code in a line, and a link to another page.
var markup = regexp.MustCompile("\\*\\*(.+?)\\*\\*|\\*(.+?)\\*|`(.+?)`|\\[([^]]+)\\]\\([^)]+\\)")

func withoutMarkup(markdown string) string { return markup.ReplaceAllString(markdown, "$1$2$3$4") }
