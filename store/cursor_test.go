package store

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"basilica"
)

// TestCaseA8_5PagesLoseNoRow: seven tasks of one microsecond, pages of three, a task that comes between two pages, and
// places that were cut or belong to another list.
func TestCaseA8_5PagesLoseNoRow(t *testing.T) {
	type row struct {
		ID      basilica.TaskID
		Created time.Time
	}
	var c struct {
		Rows     []row
		PageSize int `json:"page_size"`
		Insert   row `json:"insert_between_pages_1_and_2"`
	}
	raw, err := os.ReadFile(filepath.Join("testdata", "cases", "A8-5-pages.json"))
	must(t, err)
	must(t, json.Unmarshal(raw, &c))
	ctx, m := context.Background(), openMiner(t)
	n := 0
	add := func(r row) {
		t.Helper()
		n++
		task := record(n, "c", basilica.TaskSpec{Image: "i", Name: "same", Labels: map[string]string{"a.b": "1", "n": string(r.ID)}})
		task.ID, task.Created = r.ID, r.Created
		_, err := m.AddTask(ctx, task, 100, 1000)
		must(t, err)
	}
	for _, r := range c.Rows {
		add(r)
	}
	seen := map[basilica.TaskID]int{}
	q := basilica.TaskQuery{Limit: c.PageSize, Name: "same", Labels: map[string]string{"a.b": "1"}, State: basilica.TaskQueued}
	var places []string
	for pages := 1; ; pages++ {
		tasks, next, err := m.TasksOf(ctx, "c", q)
		must(t, err)
		for i, task := range tasks {
			seen[task.ID]++
			if i > 0 && task.Created.After(tasks[i-1].Created) {
				t.Errorf("%s stands after an older task", task.ID)
			}
		}
		if pages == 1 {
			add(c.Insert)
		}
		if next == "" {
			break
		}
		places = append(places, next)
		q.After = next
	}
	for _, r := range c.Rows {
		if seen[r.ID] != 1 {
			t.Errorf("task %s listed %d times", r.ID, seen[r.ID])
		}
	}
	if seen[c.Insert.ID] > 1 || len(seen) > len(c.Rows)+1 || len(places) < 3 {
		t.Errorf("the inserted task was listed %d times, %d tasks in all, %d further pages", seen[c.Insert.ID], len(seen), len(places))
	}

	good := places[0]
	other := q
	other.Name = ""
	for what, try := range map[string]struct {
		client basilica.Hotkey
		q      basilica.TaskQuery
		after  string
	}{
		"cut":            {"c", q, good[:len(good)-4]},
		"one letter":     {"c", q, good[:1]},
		"changed":        {"c", q, strings.Replace(good, good[20:21], string(good[20]^1), 1)},
		"no base64":      {"c", q, "!" + good},
		"another client": {"d", q, good},
		"another filter": {"c", other, good},
		"huge":           {"c", q, strings.Repeat("A", 1<<20)},
		"of old":         {"c", q, "7"},
	} {
		try.q.After = try.after
		tasks, _, err := m.TasksOf(ctx, try.client, try.q)
		if basilica.CodeOf(err) != "BAD_CURSOR" || basilica.KindOf(err).HTTPStatus() != 400 || basilica.FixOf(err) == "" || len(tasks) > 0 {
			t.Errorf("%s: %d tasks, %v", what, len(tasks), err)
		}
	}
	q.After, q.Labels = "", map[string]string{"n": string(c.Rows[4].ID)}
	if tasks, _, err := m.TasksOf(ctx, "c", q); err != nil || len(tasks) != 1 || tasks[0].ID != c.Rows[4].ID {
		t.Errorf("by label: %d tasks, %v", len(tasks), err)
	}
}

// Whatever the times, the page size and what comes in between, every row of before is listed exactly once.
func TestPagesProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type row = cursor
		less := func(a, b row) bool { return a.at < b.at || a.at == b.at && a.id < b.id }
		rows := map[row]bool{}
		for range rapid.IntRange(0, 30).Draw(t, "rows") {
			rows[row{rapid.Int64Range(-1, 3).Draw(t, "at"), rapid.StringMatching(`[a-c]{1,2}`).Draw(t, "id")}] = false
		}
		limit := rapid.IntRange(1, 5).Draw(t, "limit")
		for after := ""; ; {
			var from cursor
			if after != "" {
				var err error
				if from, err = parseCursor(after, "l"); err != nil {
					t.Fatal(err)
				}
			}
			var found []row
			for r := range rows {
				if after == "" || less(r, from) {
					found = append(found, r)
				}
			}
			for i := range found { // newest first
				for j := i + 1; j < len(found); j++ {
					if less(found[i], found[j]) {
						found[i], found[j] = found[j], found[i]
					}
				}
			}
			var shown []row
			shown, after = page(found[:min(len(found), limit+1)], limit, "l", func(r row) cursor { return r })
			for _, r := range shown {
				if rows[r] {
					t.Fatalf("%v listed twice", r)
				}
				rows[r] = true
			}
			if after == "" {
				break
			}
		}
		for r, listed := range rows {
			if !listed {
				t.Fatalf("%v was lost", r)
			}
		}
	})
}

func FuzzCursor(f *testing.F) {
	f.Add(cursor{1_700_000_000_000_000, "t-abc"}.text("l"), "l")
	f.Add("", "")
	f.Add("KCnq4eJzwFIB\rAAYKJBgeQAB0LWFiYw", "l")
	f.Fuzz(func(t *testing.T, text, list string) {
		c, err := parseCursor(text, list)
		if err != nil {
			if basilica.CodeOf(err) != "BAD_CURSOR" {
				t.Fatal(err)
			}
			return
		}
		if c.text(list) != text {
			t.Fatalf("%q means %v, which is written %q", text, c, c.text(list))
		}
	})
}
