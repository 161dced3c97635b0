//go:build !nocuda

package nvidia

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/attest"
)

// envAgent makes this test program an agent with a fill of so many layers, instead of a test.
const envAgent = "BASILICA_GPU_AGENT"

// agent fills the card, then walks for every line that it reads. What it says begins with "agent ".
func agent(ctx context.Context, layers int, in io.Reader, out io.Writer) error {
	d, err := OpenDriver(SearchDriver("/"))
	if err != nil {
		return err
	}
	w, err := NewWorker(func() (Session, error) { return d.Session(0) }, time.Now)
	if err != nil {
		return err
	}
	defer w.Close()
	var p attest.Params
	err = w.Do(func(dev Device, _ *Prover) (err error) {
		p, err = attest.ParamsFor(dev.(*Context).Card().MemoryBytes, 0)
		return err
	})
	if err != nil {
		return err
	}
	p.Layers = min(layers, p.Layers)
	p.WinLayers = min(p.WinLayers, p.Layers)
	seed := attest.Digest{1}
	if _, err := w.Fill(ctx, p, seed); err != nil {
		return err
	}
	fmt.Fprintf(out, "agent holds %d MiB\n", p.FillBytes()>>20)
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if _, err := w.Walk(ctx, attest.WalkKey(attest.Digest{2}, 0, seed)); err != nil {
			return err
		}
		fmt.Fprintln(out, "agent walked")
	}
	return nil
}

// child is an agent in a process of its own: on one card two processes have what two machines' programs would have.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func newChild(t *testing.T, layers int) *child {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCardTwoAgents$")
	cmd.Env = append(os.Environ(), envAgent+"="+strconv.Itoa(layers))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t, cmd, in, bufio.NewScanner(out)}
	t.Cleanup(c.end)
	return c
}

// end closes its input and waits until it has ended, so that its memory is free. It may be called again.
func (c *child) end() {
	_ = c.in.Close()
	for c.out.Scan() {
	}
	_ = c.cmd.Wait()
}

// says is the next thing that it says.
func (c *child) says() string {
	c.t.Helper()
	for c.out.Scan() {
		if text, ok := strings.CutPrefix(c.out.Text(), "agent "); ok {
			return text
		}
	}
	c.t.Fatal("the agent ended")
	return ""
}

// walks starts a walk of every agent at once and says how long it takes until the last one is done.
func walks(agents ...*child) time.Duration {
	began := time.Now()
	for _, a := range agents {
		if _, err := io.WriteString(a.in, "walk\n"); err != nil {
			a.t.Fatal(err)
		}
	}
	for _, a := range agents {
		if text := a.says(); text != "walked" {
			a.t.Fatal(text)
		}
	}
	return time.Since(began)
}

// TestCardTwoAgents: one card cannot be two. While one agent holds a whole fill another one finds no memory for its own; with fills
// that both fit, walks at the same time take almost twice as long as one alone, where two cards would take as long as one.
func TestCardTwoAgents(t *testing.T) {
	needCard(t)
	if text := os.Getenv(envAgent); text != "" {
		layers, err := strconv.Atoi(text)
		if err == nil {
			err = agent(t.Context(), layers, os.Stdin, os.Stdout)
		}
		if err != nil {
			fmt.Println("agent failed with", basilica.CodeOf(err), err)
		}
		return
	}
	const all = 1 << 29 // more layers than any card has
	first := newChild(t, all)
	held := first.says()
	second := newChild(t, all)
	text := second.says()
	t.Logf("the first agent %s, the second %s", held, text)
	if !strings.HasPrefix(held, "holds ") || !strings.HasPrefix(text, "failed with CUDA_MEMORY ") {
		t.Error("two agents with a whole fill each are not refused")
	}
	first.end()
	second.end()
	var mib int
	if _, err := fmt.Sscanf(held, "holds %d MiB", &mib); err != nil {
		t.Fatal(err)
	}
	part := mib / 16 * 2 / 5 // layers of 16 MiB: two fifths of the whole for each
	one, other := newChild(t, part), newChild(t, part)
	for _, a := range []*child{one, other} {
		if text := a.says(); !strings.HasPrefix(text, "holds ") {
			t.Fatal(text)
		}
	}
	alone := min(walks(one), walks(other))
	both := walks(one, other)
	factor := both.Seconds() / alone.Seconds()
	t.Logf("a walk over %d MiB takes %.3f s alone and %.3f s beside another: %.2f times", part*16, alone.Seconds(), both.Seconds(), factor)
	if factor < 1.5 {
		t.Error("two agents on one card walk as fast as two cards")
	}
}
