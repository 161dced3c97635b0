package ptxsim

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Module is PTX that was read: its kernels, every instruction decoded.
type Module struct {
	Version string // of the ISA, "7.0"
	Target  string // "sm_80"
	kernels map[string]*kernel
}

// Kernels gives the names of the kernels, sorted.
func (m *Module) Kernels() []string { return slices.Sorted(maps.Keys(m.kernels)) }

type param struct {
	name string
	size int // 4 or 8 bytes
}

// kernel is one entry of a module. Its registers, constants and special registers are the rows of one file: row 0 is zero.
type kernel struct {
	params     []param
	maxThreads int // .maxntid; 0: not said
	shared     int // bytes
	dynamic    int // where the shared memory begins that a launch adds
	wgmma      bool
	code       []instruction
	rows       int
	constants  map[uint64]int
	specials   map[string]int
}

// Bounds of what a module's text may hold.
const (
	maxText   = 8 << 20
	maxScope  = 8
	maxVector = 128 // the accumulators of wgmma
)

type token struct {
	text string
	line int
}

func wordByte(c byte) bool {
	return c == '.' || c == '_' || c == '$' || c == '%' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// lex cuts the text into words, strings and single characters.
func lex(src string) ([]token, error) {
	if len(src) > maxText {
		return nil, fmt.Errorf("%w: %d bytes of text", ErrLimit, len(src))
	}
	var out []token
	line := 1
	for i := 0; i < len(src); {
		c := src[i]
		switch {
		case c == '\n':
			line++
			i++
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '/' && strings.HasPrefix(src[i:], "//"):
			n := strings.IndexByte(src[i:], '\n')
			if n < 0 {
				n = len(src) - i
			}
			i += n
		case wordByte(c):
			j := i + 1
			for j < len(src) && (wordByte(src[j]) || strings.HasPrefix(src[j:], "::")) {
				if src[j] == ':' { // "shared::cta" is one word
					j++
				}
				j++
			}
			out = append(out, token{src[i:j], line})
			i = j
		case c == '"':
			n := strings.IndexAny(src[i+1:], "\"\n")
			if n < 0 || src[i+1+n] != '"' {
				return nil, fmt.Errorf("%w: line %d: a string without an end", ErrSyntax, line)
			}
			out = append(out, token{src[i : i+n+2], line})
			i += n + 2
		case strings.IndexByte(",;:{}[]()<>@!+-", c) >= 0:
			out = append(out, token{src[i : i+1], line})
			i++
		default:
			return nil, fmt.Errorf("%w: line %d: character %q", ErrSyntax, line, c)
		}
	}
	return out, nil
}

type parser struct {
	tokens  []token
	at      int
	dynamic map[string]int // names of the shared memory that a launch adds, and how it is aligned

	// Of the kernel that is being read.
	k       *kernel
	scopes  []scope
	symbols map[string]uint64 // shared variables, and where they lie
	labels  map[string]int
}

// scope holds the registers declared between braces.
type scope struct {
	names  map[string]bool
	ranges map[string]int // %r<5> declares %r0 .. %r4
	rows   map[string]int // of those that were used
}

// Parse reads a module. The errors are ErrSyntax, ErrOpcode and ErrLimit, each with its line.
func Parse(src string) (*Module, error) {
	tokens, err := lex(src)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens, dynamic: map[string]int{}}
	m := &Module{kernels: map[string]*kernel{}}
	for p.at < len(p.tokens) {
		switch t := p.next(); t.text {
		case ".version":
			m.Version = p.next().text
		case ".target":
			m.Target = p.next().text
		case ".address_size":
			if size := p.next(); size.text != "64" {
				return nil, p.wrong(size, "addresses of 64 bits")
			}
		case ".extern":
			if err := p.dynamicShared(); err != nil {
				return nil, err
			}
		case ".visible":
		case ".entry":
			name := p.next()
			if _, twice := m.kernels[name.text]; twice || name.text == "" || strings.IndexByte("%.0123456789", name.text[0]) >= 0 {
				return nil, p.wrong(name, "the name of a kernel")
			}
			k, err := p.kernel()
			if err != nil {
				return nil, fmt.Errorf("kernel %s: %w", name.text, err)
			}
			m.kernels[name.text] = k
		default:
			return nil, p.wrong(t, "a directive of a module")
		}
	}
	if m.Version == "" || m.Target == "" || len(m.kernels) == 0 {
		return nil, fmt.Errorf("%w: a module has a .version, a .target and kernels", ErrSyntax)
	}
	return m, nil
}

// dynamicShared reads ".extern .shared .align 1024 .b8 name[];" behind its first word.
func (p *parser) dynamicShared() error {
	if err := p.expect(".shared"); err != nil {
		return err
	}
	align, err := p.alignment()
	if err != nil {
		return err
	}
	name := p.next()
	if name.text == "" || !wordByte(name.text[0]) || strings.IndexByte("%.0123456789", name.text[0]) >= 0 {
		return p.wrong(name, "the name of a variable")
	}
	p.dynamic[name.text] = align
	for _, text := range []string{"[", "]", ";"} {
		if err := p.expect(text); err != nil {
			return err
		}
	}
	return nil
}

// alignment reads ".align 128 .b8".
func (p *parser) alignment() (int, error) {
	if err := p.expect(".align"); err != nil {
		return 0, err
	}
	at := p.peek()
	align, err := p.small(1024)
	if err != nil {
		return 0, err
	}
	if align == 0 || align&(align-1) != 0 {
		return 0, p.wrong(at, "a power of two")
	}
	return align, p.expect(".b8")
}

// next takes a token; at the end it is empty.
func (p *parser) next() token {
	t := p.peek()
	p.at++
	return t
}

func (p *parser) peek() token {
	if p.at >= len(p.tokens) {
		line := 0
		if len(p.tokens) > 0 {
			line = p.tokens[len(p.tokens)-1].line
		}
		return token{line: line}
	}
	return p.tokens[p.at]
}

func (p *parser) wrong(t token, want string) error {
	return fmt.Errorf("%w: line %d: %q where %s should be", ErrSyntax, t.line, t.text, want)
}

func (p *parser) expect(text string) error {
	if t := p.next(); t.text != text {
		return p.wrong(t, strconv.Quote(text))
	}
	return nil
}

// number takes an integer, with its sign.
func (p *parser) number() (uint64, error) {
	t := p.next()
	negative := t.text == "-"
	if negative {
		t = p.next()
	}
	v, err := strconv.ParseUint(t.text, 0, 64)
	if err != nil {
		return 0, p.wrong(t, "an integer")
	}
	if negative {
		v = -v
	}
	return v, nil
}

// small takes an integer of at most most.
func (p *parser) small(most uint64) (int, error) {
	t := p.peek()
	v, err := p.number()
	if err != nil {
		return 0, err
	}
	if v > most {
		return 0, fmt.Errorf("%w: line %d: %s, at most %d", ErrLimit, t.line, t.text, most)
	}
	return int(v), nil
}

func (p *parser) kernel() (*kernel, error) {
	p.k = &kernel{rows: 1, constants: map[uint64]int{0: 0}, specials: map[string]int{}}
	p.scopes, p.symbols, p.labels = nil, map[string]uint64{}, map[string]int{}
	if err := p.params(); err != nil {
		return nil, err
	}
	for {
		switch t := p.next(); t.text {
		case ".maxntid":
			p.k.maxThreads = 1
			for {
				n, err := p.small(maxThreads)
				if err != nil {
					return nil, err
				}
				p.k.maxThreads *= n
				if p.peek().text != "," {
					break
				}
				p.next()
			}
			if p.k.maxThreads < 1 || p.k.maxThreads > maxThreads {
				return nil, p.wrong(t, fmt.Sprintf("1 to %d threads", maxThreads))
			}
		case ".minnctapersm":
			if _, err := p.small(64); err != nil {
				return nil, err
			}
		case "{":
			if err := p.body(); err != nil {
				return nil, err
			}
			return p.k, p.finish()
		default:
			return nil, p.wrong(t, "a directive of a kernel, or its body")
		}
	}
}

// params reads "(.param .u64 .ptr .align 1 name, ...)".
func (p *parser) params() error {
	if err := p.expect("("); err != nil {
		return err
	}
	for p.peek().text != ")" {
		if len(p.k.params) > 0 {
			if err := p.expect(","); err != nil {
				return err
			}
		}
		if err := p.expect(".param"); err != nil {
			return err
		}
		t := p.next()
		size, ok := map[string]int{".u32": 4, ".b32": 4, ".u64": 8, ".b64": 8}[t.text]
		if !ok {
			return p.wrong(t, "a parameter's type of 32 or 64 bits")
		}
		if p.peek().text == ".ptr" {
			p.next()
			if p.peek().text == ".align" {
				p.next()
				if _, err := p.small(1 << 20); err != nil {
					return err
				}
			}
		}
		name := p.next()
		if name.text == "" || p.param(name.text) >= 0 || !wordByte(name.text[0]) || strings.IndexByte("%.0123456789", name.text[0]) >= 0 {
			return p.wrong(name, "a parameter's name")
		}
		p.k.params = append(p.k.params, param{name.text, size})
	}
	return p.expect(")")
}

// param gives the number of a parameter, or -1.
func (p *parser) param(name string) int {
	return slices.IndexFunc(p.k.params, func(q param) bool { return q.name == name })
}

func (p *parser) body() error {
	p.scopes = append(p.scopes, scope{map[string]bool{}, map[string]int{}, map[string]int{}})
	for {
		t := p.next()
		var err error
		switch t.text {
		case "":
			return p.wrong(t, "the end of the kernel")
		case "{":
			if len(p.scopes) == maxScope {
				return fmt.Errorf("%w: line %d: braces %d deep", ErrLimit, t.line, maxScope)
			}
			p.scopes = append(p.scopes, scope{map[string]bool{}, map[string]int{}, map[string]int{}})
		case "}":
			p.scopes = p.scopes[:len(p.scopes)-1]
			if len(p.scopes) == 0 {
				return nil
			}
		case ".reg":
			err = p.registers()
		case ".shared":
			err = p.sharedVariable()
		case ".pragma":
			p.next()
			err = p.expect(";")
		default:
			if p.peek().text == ":" {
				p.next()
				if _, twice := p.labels[t.text]; twice {
					return p.wrong(t, "a label that is new")
				}
				p.labels[t.text] = len(p.k.code)
				continue
			}
			err = p.instruction(t)
		}
		if err != nil {
			return err
		}
	}
}

// registers reads ".reg .b32 %r<5>;" or ".reg .b16 tmp;" behind its first word.
func (p *parser) registers() error {
	t := p.next()
	if !slices.Contains([]string{".pred", ".b16", ".b32", ".b64"}, t.text) {
		return p.wrong(t, "a register's type")
	}
	s := p.scopes[len(p.scopes)-1]
	for {
		name := p.next()
		if name.text == "" || !wordByte(name.text[0]) || strings.IndexByte(".0123456789", name.text[0]) >= 0 {
			return p.wrong(name, "a register's name")
		}
		if p.peek().text == "<" {
			p.next()
			n, err := p.small(1 << 24)
			if err != nil {
				return err
			}
			if err := p.expect(">"); err != nil {
				return err
			}
			s.ranges[name.text] = n
		} else {
			s.names[name.text] = true
		}
		if p.peek().text != "," {
			return p.expect(";")
		}
		p.next()
	}
}

// row finds the row of a declared register.
func (p *parser) row(name string) (int, bool) {
	for i := len(p.scopes) - 1; i >= 0; i-- {
		s := p.scopes[i]
		if !s.names[name] {
			stem := strings.TrimRight(name, "0123456789")
			n, err := strconv.Atoi(name[len(stem):])
			if err != nil || n >= s.ranges[stem] || strconv.Itoa(n) != name[len(stem):] {
				continue
			}
		}
		r, used := s.rows[name]
		if !used {
			r = p.newRow()
			s.rows[name] = r
		}
		return r, true
	}
	return 0, false
}

func (p *parser) newRow() int {
	p.k.rows++
	return p.k.rows - 1
}

func (p *parser) constant(v uint64) int {
	r, ok := p.k.constants[v]
	if !ok {
		r = p.newRow()
		p.k.constants[v] = r
	}
	return r
}

// sharedVariable reads ".shared .align 128 .b8 name[49152];" behind its first word.
func (p *parser) sharedVariable() error {
	align, err := p.alignment()
	if err != nil {
		return err
	}
	name := p.next()
	if p.k.dynamic > 0 {
		return p.wrong(name, "no more shared variables behind the use of dynamic shared memory")
	}
	if _, twice := p.symbols[name.text]; twice || name.text == "" || !wordByte(name.text[0]) || strings.IndexByte("%.0123456789", name.text[0]) >= 0 {
		return p.wrong(name, "the name of a variable")
	}
	if err := p.expect("["); err != nil {
		return err
	}
	size, err := p.small(maxShared)
	if err != nil {
		return err
	}
	if err := p.expect("]"); err != nil {
		return err
	}
	from := (p.k.shared + align - 1) &^ (align - 1)
	p.symbols[name.text] = uint64(from)
	p.k.shared = from + size
	if p.k.shared > maxShared {
		return fmt.Errorf("%w: line %d: %d bytes of shared memory, at most %d", ErrLimit, name.line, p.k.shared, maxShared)
	}
	return p.expect(";")
}

// symbol gives the address of a shared variable, or of the shared memory that a launch adds behind all of them.
func (p *parser) symbol(name string) (uint64, bool) {
	if v, ok := p.symbols[name]; ok {
		return v, true
	}
	align, ok := p.dynamic[name]
	if ok && p.k.dynamic == 0 {
		p.k.dynamic = max((p.k.shared+align-1)&^(align-1), align)
	}
	return uint64(p.k.dynamic), ok
}

// operand is one operand as written.
type operand struct {
	kind   byte   // 'v' value, 'm' memory, 'p' parameter, 'l' label, '{' vector
	row    int    // v, m
	dest   bool   // v: a register, which may be written
	offset uint64 // m
	number int    // p
	label  string
	parts  []operand // {
}

func (p *parser) operand() (operand, error) {
	t := p.peek()
	switch t.text {
	case "{":
		p.next()
		var o operand
		o.kind = '{'
		for {
			e, err := p.operand()
			if err != nil {
				return o, err
			}
			if e.kind != 'v' || len(o.parts) == maxVector {
				return o, p.wrong(t, fmt.Sprintf("a vector of at most %d values", maxVector))
			}
			o.parts = append(o.parts, e)
			if p.peek().text != "," {
				return o, p.expect("}")
			}
			p.next()
		}
	case "[":
		p.next()
		return p.address()
	case "-":
		v, err := p.number()
		return operand{kind: 'v', row: p.constant(v)}, err
	}
	p.next()
	if t.text == "" || !wordByte(t.text[0]) {
		return operand{}, p.wrong(t, "an operand")
	}
	if t.text[0] >= '0' && t.text[0] <= '9' {
		p.at--
		v, err := p.number()
		return operand{kind: 'v', row: p.constant(v)}, err
	}
	if r, ok := p.row(t.text); ok {
		return operand{kind: 'v', row: r, dest: true}, nil
	}
	if v, ok := p.symbol(t.text); ok {
		return operand{kind: 'v', row: p.constant(v)}, nil
	}
	if slices.Contains(specialRegisters, t.text) {
		r, ok := p.k.specials[t.text]
		if !ok {
			r = p.newRow()
			p.k.specials[t.text] = r
		}
		return operand{kind: 'v', row: r}, nil
	}
	if t.text[0] == '%' {
		return operand{}, p.wrong(t, "a register that was declared, or a special one that is known")
	}
	return operand{kind: 'l', label: t.text}, nil
}

// address reads "[name+offset]" behind its bracket.
func (p *parser) address() (operand, error) {
	o := operand{kind: 'm'}
	t := p.next()
	if i := p.param(t.text); i >= 0 {
		o.kind, o.number = 'p', i
		return o, p.expect("]")
	}
	if r, ok := p.row(t.text); ok {
		o.row = r
	} else if v, ok := p.symbol(t.text); ok {
		o.row = p.constant(v)
	} else {
		return o, p.wrong(t, "a register, parameter or variable")
	}
	if sign := p.peek().text; sign == "+" || sign == "-" {
		if sign == "+" {
			p.next()
		}
		v, err := p.number()
		if err != nil {
			return o, err
		}
		o.offset = v
	}
	return o, p.expect("]")
}

// instruction reads "@!%p add.s32 %r1, %r2, 3;" behind its first word.
func (p *parser) instruction(t token) error {
	in := instruction{guard: -1, line: t.line}
	if t.text == "@" {
		if p.peek().text == "!" {
			p.next()
			in.negate = true
		}
		name := p.next()
		r, ok := p.row(name.text)
		if !ok {
			return p.wrong(name, "a predicate that was declared")
		}
		in.guard = r
		t = p.next()
	}
	if t.text == "" || !wordByte(t.text[0]) {
		return p.wrong(t, "an instruction")
	}
	in.opcode = t.text
	var ops []operand
	for p.peek().text != ";" {
		if len(ops) > 0 {
			if err := p.expect(","); err != nil {
				return err
			}
		}
		o, err := p.operand()
		if err != nil {
			return err
		}
		ops = append(ops, o)
	}
	p.next()
	if err := in.decode(ops); err != nil {
		return fmt.Errorf("line %d: %s: %w", t.line, t.text, err)
	}
	p.k.code = append(p.k.code, in)
	return nil
}

// finish gives branches their targets, and sees that the code does not run over its end.
func (p *parser) finish() error {
	code := p.k.code
	for i := range code {
		in := &code[i]
		if in.kind != branch {
			continue
		}
		to, ok := p.labels[in.label]
		if !ok || to >= len(code) {
			return fmt.Errorf("%w: line %d: no instruction at label %q", ErrSyntax, in.line, in.label)
		}
		in.target = to
	}
	p.k.findAccumulators()
	if len(code) == 0 || code[len(code)-1].guard >= 0 || (code[len(code)-1].kind != branch && code[len(code)-1].kind != leave) {
		return fmt.Errorf("%w: a kernel that does not end in ret", ErrSyntax)
	}
	return nil
}
