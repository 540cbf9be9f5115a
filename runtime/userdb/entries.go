package userdb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxLine bounds an entry. That of a group has the names of all its members.
const maxLine = 4 << 20

// entries calls fn for the fields of each entry of a file, until it says that it has what
// it looks for. A file that is not there has none.
func (db *DB) entries(path string, fn func(fields []string) (done bool, err error)) error {
	f, err := db.open(path)
	if notThere(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s cannot be read: %w", path, err)
	}
	err = scan(f, fn)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func scan(r io.Reader, fn func(fields []string) (done bool, err error)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		// "+" and "-" are what NIS had here.
		if line == "" || strings.ContainsRune("#+-:", rune(line[0])) {
			continue
		}
		done, err := fn(strings.Split(line, ":"))
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if done {
			return nil
		}
	}
	err := lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		err = fmt.Errorf("line %d is longer than %d bytes", n+1, maxLine)
	}
	return err
}
