package ptxsim

import "fmt"

// row is one register of the 32 lanes of a warp. A register of fewer bits keeps the upper ones zero; a predicate is 0 or 1.
type row = [warpSize]uint64

const allLanes = 1<<warpSize - 1

// specialRegisters are those that the interpreter knows.
var specialRegisters = []string{"%tid.x", "%tid.y", "%ntid.x", "%ntid.y", "%ctaid.x", "%ctaid.y", "%nctaid.x", "%nctaid.y"}

// launch is one run of a kernel.
type launch struct {
	device  *Device
	kernel  *kernel
	grid    [2]uint32
	threads [2]uint32
	args    []uint64
	steps   uint64 // left
	shared  []byte // of the block that runs
	warps   []warp // likewise
	async          // likewise
}

// newLaunch takes the warps that the kernel's last launch of that shape left, whose constants stand already.
func newLaunch(d *Device, k *kernel, grid, threads [2]uint32, dynamic int) *launch {
	l := &launch{
		device: d, kernel: k, grid: grid, threads: threads, args: make([]uint64, len(k.params)), steps: d.limits.Steps,
		shared: make([]byte, max(k.shared, k.dynamic)+dynamic), warps: d.warps[shape{k, threads}],
	}
	if l.warps == nil {
		l.warps = make([]warp, (threads[0]*threads[1]+warpSize-1)/warpSize)
		for i := range l.warps {
			l.warps[i].load(k, threads, uint32(i))
		}
		d.warps[shape{k, threads}] = l.warps
	}
	return l
}

// block runs one block: its warps in turn, each to the next barrier, to a wait that is not over, or to its end.
// Every other block runs them in the other order.
func (l *launch) block(x, y uint32) error {
	for i := range l.shared {
		l.shared[i] = poison
	}
	l.async.begin(l)
	for i := range l.warps {
		l.warps[i].begin(l, x, y)
	}
	for {
		stopped, ended, ends := 0, 0, l.phases
		for i := range l.warps {
			if (x+y)&1 != 0 { // what holds in one order only is found
				i = len(l.warps) - 1 - i
			}
			w := &l.warps[i]
			if w.live != 0 && !w.stopped {
				if err := w.run(); err != nil {
					return fmt.Errorf("warp %d: %w", i, err)
				}
			}
			switch {
			case w.live == 0:
				ended++
			case w.stopped:
				stopped++
			}
		}
		switch {
		case ended == len(l.warps):
			return l.async.end(l)
		case stopped+ended < len(l.warps):
			if l.phases == ends {
				return fmt.Errorf("%w: %d warps wait for the phase of a barrier that nobody will end", ErrFault, len(l.warps)-stopped-ended)
			}
		case ended > 0:
			return fmt.Errorf("%w: %d warps wait at a barrier that %d others have ended without", ErrFault, stopped, ended)
		default:
			for i := range l.warps {
				l.warps[i].stopped = false
			}
		}
	}
}

// warp is 32 threads that run in lock-step. Where they part, those at the lowest instruction go first, until all meet again.
type warp struct {
	launch    *launch
	file      []row
	registers []int // the rows that are not the same in every block
	number    int
	whole     uint32 // the lanes that are threads of the block
	live      uint32 // of these, the ones that have not ended
	parted    bool
	at        int           // the next instruction of all live lanes, while they are together
	each      [warpSize]int // of each lane, while they are parted
	stopped   bool          // at a barrier of the block
	waits     bool          // for a phase that has not ended
	copies    []copyAsync   // on their way
	groups    int           // of copies, committed
	multiplier
}

// load makes the file of warp number i of a block: what is the same in every block stands there from now on.
func (w *warp) load(k *kernel, threads [2]uint32, i uint32) {
	w.file, w.number = make([]row, k.rows), int(i)
	fixed := map[int]bool{}
	for v, r := range k.constants {
		fixed[r] = true
		fill(&w.file[r], v)
	}
	set := func(name string, v func(thread uint32) uint32) {
		r, used := k.specials[name]
		if !used {
			return
		}
		fixed[r] = true
		for lane := range uint32(warpSize) {
			w.file[r][lane] = uint64(v(i*warpSize + lane))
		}
	}
	set("%tid.x", func(t uint32) uint32 { return t % threads[0] })
	set("%tid.y", func(t uint32) uint32 { return t / threads[0] })
	set("%ntid.x", func(uint32) uint32 { return threads[0] })
	set("%ntid.y", func(uint32) uint32 { return threads[1] })
	for r := range w.file {
		if !fixed[r] {
			w.registers = append(w.registers, r)
		}
	}
	w.whole = uint32(allLanes)
	if left := threads[0]*threads[1] - i*warpSize; left < warpSize {
		w.whole = 1<<left - 1
	}
}

func fill(r *row, v uint64) {
	for lane := range r {
		r[lane] = v
	}
}

// begin makes a warp ready for the first instruction of a block.
func (w *warp) begin(l *launch, x, y uint32) {
	for _, r := range w.registers {
		fill(&w.file[r], poison*0x0101010101010101)
	}
	for name, v := range map[string]uint32{"%ctaid.x": x, "%ctaid.y": y, "%nctaid.x": l.grid[0], "%nctaid.y": l.grid[1]} {
		if r, used := l.kernel.specials[name]; used {
			fill(&w.file[r], uint64(v))
		}
	}
	w.launch, w.live, w.parted, w.at, w.copies, w.groups = l, w.whole, false, 0, w.copies[:0], 0
	w.stopped, w.waits = false, false
	w.multiplier.begin()
}

// group gives the instruction that is next, and the lanes that are there.
func (w *warp) group() (at int, lanes uint32) {
	if !w.parted {
		return w.at, w.live
	}
	at = len(w.launch.kernel.code)
	for lane := range warpSize {
		if w.live>>lane&1 == 0 {
			continue
		}
		switch {
		case w.each[lane] < at:
			at, lanes = w.each[lane], 1<<lane
		case w.each[lane] == at:
			lanes |= 1 << lane
		}
	}
	return at, lanes
}

// move sends lanes, which are all that stood at one instruction, to another; taken of them to a third.
func (w *warp) move(lanes, taken uint32, next, target int) {
	if !w.parted && (taken == 0 || taken == lanes) {
		w.at = next
		if taken != 0 {
			w.at = target
		}
		return
	}
	if !w.parted {
		w.parted = true
		for lane := range w.each {
			w.each[lane] = w.at
		}
	}
	for lane := range w.each {
		switch {
		case taken>>lane&1 != 0:
			w.each[lane] = target
		case lanes>>lane&1 != 0:
			w.each[lane] = next
		}
	}
	w.meet()
}

// meet sees whether all live lanes are at one instruction again.
func (w *warp) meet() {
	if at, lanes := w.group(); lanes == w.live {
		w.parted, w.at = false, at
	}
}

// run goes to the next barrier, to a wait that is not over, or to the end of all lanes.
func (w *warp) run() error {
	code := w.launch.kernel.code
	for w.live != 0 {
		at, lanes := w.group()
		in := &code[at]
		if w.launch.steps == 0 {
			return fmt.Errorf("%w: more than %d instructions", ErrLimit, w.launch.device.limits.Steps)
		}
		w.launch.steps--
		active := lanes
		if in.guard >= 0 {
			for lane, v := range &w.file[in.guard] {
				if (v != 0) == in.negate {
					active &^= 1 << lane
				}
			}
		}
		switch in.kind {
		case branch:
			w.move(lanes, active, at+1, in.target)
			continue
		case leave:
			w.live &^= active
			w.move(lanes&^active, 0, at+1, 0)
			continue
		case barrier:
			if active != w.whole {
				return fmt.Errorf("%w: line %d: %s: reached by lanes %#x of %#x", ErrFault, in.line, in.opcode, active, w.whole)
			}
			w.move(lanes, 0, at+1, 0)
			w.stopped = true
			return nil
		}
		if in.touches {
			if err := w.touch(in); err != nil {
				return fmt.Errorf("line %d: %s: %w", in.line, in.opcode, err)
			}
		}
		if active != 0 {
			if err := in.run(w, in, active); err != nil {
				return fmt.Errorf("line %d: %s: %w", in.line, in.opcode, err)
			}
		}
		w.move(lanes, 0, at+1, 0)
		if w.waits {
			w.waits = false
			return nil
		}
	}
	return nil
}
