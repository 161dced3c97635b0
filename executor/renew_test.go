package executor

import (
	"testing"
	"time"

	"basilica"
)

// dated is an identity with a life and a trust of the test's.
type dated struct {
	young
	begins, ends time.Time
	trust        basilica.Digest
}

func (d dated) Trust() basilica.Digest         { return d.trust }
func (d dated) Life() (begins, ends time.Time) { return d.begins, d.ends }

// TestRenewalIsDue: in the last third of a certificate's life, when the miner trusts others, and when a clock that was ahead
// dated it into the future; not before, and not because a miner says nothing.
func TestRenewalIsDue(t *testing.T) {
	begins := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	id := dated{begins: begins, ends: begins.Add(90 * time.Hour), trust: basilica.Digest{1}}
	for name, c := range map[string]struct {
		want basilica.Digest
		at   time.Duration
		due  bool
	}{
		"new":                       {basilica.Digest{1}, time.Hour, false},
		"two thirds":                {basilica.Digest{1}, 60 * time.Hour, false},
		"the last third":            {basilica.Digest{1}, 60*time.Hour + 1, true},
		"ended":                     {basilica.Digest{1}, 91 * time.Hour, true},
		"rotation":                  {basilica.Digest{2}, time.Hour, true},
		"a miner that says nothing": {basilica.Digest{}, time.Hour, false},
		"from the future":           {basilica.Digest{1}, -time.Hour, true},
	} {
		if why := renewalDue(id, c.want, begins.Add(c.at)); (why != "") != c.due {
			t.Errorf("%s: %q", name, why)
		}
	}
}
