package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/pki"
	"basilica/subtensor"
	"basilica/wire"
)

const (
	reachTime = 40 * time.Second // for the miner to dial both doors and answer
	chainTime = 15 * time.Second
	selfTime  = 5 * time.Second
)

// fleet asks the miner: whether it answers, what its clock says, and whether it reaches both doors where they were announced.
func (d *doctor) fleet(ctx context.Context, cfg ExecutorConfig) {
	d.check(ctx, "miner", "answers this machine's certificate", func(ctx context.Context) (string, error) {
		if d.self == nil || cfg.MinerAddr == "" {
			return "", notDone{"this machine has not joined a fleet"}
		}
		d.miner, d.away = d.reach(ctx, cfg)
		if d.away != nil {
			return "", d.away
		}
		return "answers at " + cfg.MinerAddr, nil
	})
	d.clockRow(ctx, tolerance{behind: pki.Backdate, ahead: pki.Backdate})
	needed, unasked := "the miner reaches it where it was announced", notDone{"only the miner can say, and it was not asked or does not answer"}
	d.check(ctx, "gRPC door", needed, func(context.Context) (string, error) {
		if d.miner == nil {
			return "", unasked
		}
		return doorFound(metDoor{"advertise", cfg.Listen, d.miner.Addr, d.miner.GRPC, d.own[0]})
	})
	d.check(ctx, "SSH door", needed, func(context.Context) (string, error) {
		if d.miner == nil {
			return "", unasked
		}
		return doorFound(metDoor{"ssh-advertise", cfg.SSHListen, d.miner.SSHAddr, d.miner.SSH, d.own[1]})
	})
}

// metDoor is one door as the miner and this machine itself met it.
type metDoor struct {
	flag  string // of join, that names its outside address
	bound string // where it listens
	addr  string // where it was announced
	why   *basilica.Reason
	own   error // of this machine's own call there
}

// reach opens the doors where no executor has them open, and asks the miner to dial them.
func (d *doctor) reach(ctx context.Context, cfg ExecutorConfig) (*basilica.Reached, error) {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	var doors errgroup.Group
	opened, closeDoors := context.WithCancel(ctx)
	defer func() {
		closeDoors()
		_ = doors.Wait() // a door that ends with its context has nothing to say
	}()
	if !d.running {
		if err := d.openDoors(opened, &doors, cfg); err != nil {
			return nil, err
		}
	}
	fleet, err := wire.DialFleet(cfg.MinerAddr, wire.FleetClientConfig{Certificate: d.self.certificate, CAs: d.self.fleetCAs, Now: d.deps.Now})
	if err != nil {
		return nil, err
	}
	defer fleet.Close()
	r, err := fleet.Reach(ctx, d.self.Executor)
	if err != nil {
		return nil, err
	}
	d.clocks = append(d.clocks, reading{whose: "the miner's", off: d.deps.Now().Sub(r.At)})
	// While the doors are open.
	d.own = [...]error{dialSelf(ctx, r.Addr), dialSelf(ctx, r.SSHAddr)}
	return &r, nil
}

// openDoors shows the machine's key at the gRPC door and takes calls at the SSH door, as far as a miner's look goes.
func (d *doctor) openDoors(ctx context.Context, doors *errgroup.Group, cfg ExecutorConfig) error {
	grpcLn, err := listen(ctx, "executor's gRPC door", "executor.listen", cfg.Listen)
	if err != nil {
		return err
	}
	sshLn, err := listen(ctx, "executor's SSH door", "executor.ssh_listen", cfg.SSHListen)
	if err != nil {
		return errors.Join(err, grpcLn.Close())
	}
	context.AfterFunc(ctx, func() { sshLn.Close() })
	doors.Go(func() error { return wire.ServeKey(ctx, grpcLn, d.self.key.Signer()) })
	doors.Go(func() error {
		for {
			conn, err := sshLn.Accept()
			if err != nil {
				return nil // closed with ctx
			}
			conn.Close()
		}
	})
	return nil
}

// doorFound puts both together: a router that sends nobody back inside (no hairpin) keeps a machine from its own outside
// address, and says nothing of others.
func doorFound(m metDoor) (string, error) {
	inside := ""
	if in := portOf(m.bound); in != portOf(m.addr) && in != "0" {
		inside = fmt.Sprintf(" (port %s of this machine)", in)
	}
	switch {
	case m.why == nil && m.own == nil:
		return fmt.Sprintf("the miner reaches it at %s%s", m.addr, inside), nil
	case m.why == nil:
		return fmt.Sprintf("the miner reaches it at %s%s; this machine cannot reach itself there, as behind a router without hairpin: no harm", m.addr, inside), nil
	}
	said := m.why.Sentence
	if m.own == nil {
		said += "; this machine reaches itself there, so the way from outside is closed (firewall, address translation)"
	} else {
		said += "; this machine cannot reach itself there either: " + m.own.Error()
	}
	return "", basilica.E(basilica.Unavailable, "EXECUTOR_UNREACHABLE", said, fmt.Sprintf("open TCP port %s to the miner and lead it to port %s of this machine; where others dial another address or port, make a new token on the miner (basilica token create) and join again here with --%s HOST:PORT", portOf(m.addr), portOf(m.bound), m.flag))
}

// dialSelf dials an announced address from here.
func dialSelf(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, selfTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// reading is what one other clock says of ours.
type reading struct {
	whose string
	off   time.Duration // this machine's clock less the other
	late  time.Duration // how much of off the other's own lateness may be
}

// tolerance is how far this machine's clock may be off.
type tolerance struct{ behind, ahead time.Duration }

const (
	// chainLate is how old the newest block may be without anybody's clock being off: two blocks of 12 s.
	chainLate = 24 * time.Second
	// clockUnset is how far a clock is off that was never set.
	clockUnset = 365 * 24 * time.Hour
)

// clockRow compares this machine's clock with the miner's, where it was asked, and the chain's.
func (d *doctor) clockRow(ctx context.Context, t tolerance) {
	d.check(ctx, "clock", fmt.Sprintf("at most %s behind and %s ahead", seconds(t.behind), seconds(t.ahead)), func(ctx context.Context) (string, error) {
		chain, err := d.chainClock(ctx)
		if err == nil {
			d.clocks = append(d.clocks, chain)
		}
		if len(d.clocks) == 0 {
			if basilica.CodeOf(d.away) == "CLOCK_SKEW" {
				return "", d.away // the miner's certificate has not begun by this clock: how far at least stands in it
			}
			return "", notDone{"neither the miner nor the chain's node answers"}
		}
		found, why := judgeClock(d.clocks, t)
		if why == nil && err != nil {
			found += "; the chain's was not asked: no node answers at chain.url"
		}
		return found, why
	})
}

func (d *doctor) chainClock(ctx context.Context) (reading, error) {
	ctx, cancel := context.WithTimeout(ctx, chainTime)
	defer cancel()
	cfg := d.cfg.Config.Chain
	if err := cfg.Validate(); err != nil {
		return reading{}, err
	}
	chain := subtensor.New(cfg.Nodes(""), d.deps.Log)
	defer chain.Close()
	at, err := chain.Clock(ctx)
	if err != nil {
		return reading{}, err
	}
	return reading{"the chain's newest block", d.deps.Now().Sub(at), chainLate}, nil
}

// judgeClock says by how much this machine's clock is off, signed, and which side is to be mended: where it agrees with another
// clock, it is not this one.
func judgeClock(clocks []reading, t tolerance) (string, error) {
	var said []string
	var wrong, right []reading
	for _, c := range clocks {
		said = append(said, apart(c))
		if c.off < -t.behind || c.off > t.ahead+c.late {
			wrong = append(wrong, c)
		} else {
			right = append(right, c)
		}
	}
	found := strings.Join(said, ", ")
	if len(wrong) == 0 {
		return found, nil
	}
	off := wrong[0].off
	if off.Abs() > clockUnset {
		return "", basilica.E(basilica.Unavailable, "CLOCK_UNSET", fmt.Sprintf("this machine's clock is %s: check that the clock is set", apart(wrong[0])), "set it, and have it kept by NTP: timedatectl set-ntp true")
	}
	way := "back"
	if off < 0 {
		way = "forward"
	}
	fix := fmt.Sprintf("set this machine's clock %s by %s: timedatectl set-ntp true", way, seconds(off.Abs()))
	switch {
	case len(right) > 0:
		fix = fmt.Sprintf("this machine's clock agrees with %s: the other one is to be set, by NTP (timedatectl set-ntp true)", right[0].whose)
	case len(wrong) == 1:
		fix += fmt.Sprintf("; where it shows the right time, %s is the one to set", wrong[0].whose)
	}
	return "", basilica.E(basilica.Unavailable, "CLOCK_OFF", "this machine's clock is "+found, fix)
}

// apart says how far this clock is from another: seconds, the side, and the signed offset.
func apart(c reading) string {
	side, sign := "ahead of", "+"
	if c.off < 0 {
		side, sign = "behind", "-"
	}
	return fmt.Sprintf("%s %s %s (offset %s%s)", seconds(c.off.Abs()), side, c.whose, sign, seconds(c.off.Abs()))
}

// seconds writes a span in seconds, to the millisecond.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(math.Round(d.Seconds()*1000)/1000, 'f', -1, 64) + " s"
}
