package axon

import (
	"fmt"
	"sync"

	"basilica"
)

// census bounds how much each hotkey has under way at once of what lasts long.
type census struct {
	what string
	most int

	mu sync.Mutex
	by map[basilica.Hotkey]int
}

func newCensus(what string, most int) *census {
	return &census{what: what, most: most, by: make(map[basilica.Hotkey]int)}
}

// enter counts one more, until leave is called.
func (c *census) enter(who basilica.Hotkey) (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by[who] >= c.most {
		return nil, basilica.E(basilica.Exhausted, "STREAMS", fmt.Sprintf("this hotkey has %d %s under way already", c.most, c.what), "let some of them end first")
	}
	c.by[who]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.by[who]--; c.by[who] == 0 {
			delete(c.by, who)
		}
	}, nil
}

func tooFast() error {
	return basilica.E(basilica.Exhausted, "RATE_LIMIT", "too many requests", "wait a moment and go slower")
}
