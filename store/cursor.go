package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"

	"basilica"
)

// cursor is a place in a list that is ordered by a time and, where times are equal, by an id, so that every row has a
// place of its own and rows that come or go between two pages move no other.
type cursor struct {
	at int64 // as it is stored, whole
	id string
}

const (
	cursorVersion = 1
	cursorSum     = 8 // bytes of SHA-256 over version, list, time and id
	maxCursor     = 512
)

// text is the cursor as a caller carries it. list names the list and all that restricts it.
func (c cursor) text(list string) string {
	raw := binary.BigEndian.AppendUint64([]byte{cursorVersion}, uint64(c.at))
	raw = append(raw, c.id...)
	return base64.RawURLEncoding.EncodeToString(append(sumCursor(raw, list), raw...))
}

func sumCursor(raw []byte, list string) []byte {
	sum := sha256.Sum256(append(append([]byte(list), 0), raw...))
	return sum[:cursorSum]
}

// parseCursor reverses text. What was cut, changed, made for another list or by another version is Invalid (BAD_CURSOR):
// going on from a wrong place would lose rows without a word.
func parseCursor(text, list string) (cursor, error) {
	if len(text) <= maxCursor && !strings.ContainsAny(text, "\r\n") { // which the decoder reads over
		raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
		const head = cursorSum + 1 + 8
		if err == nil && len(raw) >= head && raw[cursorSum] == cursorVersion && bytes.Equal(raw[:cursorSum], sumCursor(raw[cursorSum:], list)) {
			return cursor{at: int64(binary.BigEndian.Uint64(raw[cursorSum+1:])), id: string(raw[head:])}, nil
		}
	}
	return cursor{}, basilica.E(basilica.Invalid, "BAD_CURSOR", "that is not a place in this list: it was cut, or belongs to another list or filter",
		"take next of the page before as it is, with the same filters; or begin again without it")
}

// page cuts rows of limit+1 down to a page, and gives the place of its last row where more follow.
func page[T any](rows []T, limit int, list string, place func(T) cursor) ([]T, string) {
	if len(rows) <= limit {
		return rows, ""
	}
	rows = rows[:limit]
	return rows, place(rows[limit-1]).text(list)
}

// pageSize gives the number of rows of a page.
func pageSize(asked int) int {
	if asked <= 0 {
		return basilica.DefaultPage
	}
	return min(asked, basilica.MaxPage)
}
