package node

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/subtensor"
	"basilica/wire"
)

// heardWithin is how long ago a validator's call still says that the axon is reached: nine rounds of 100 blocks.
const heardWithin = 3 * time.Hour

// Of a request's age, as axon judges it: a miner's clock that is off by more refuses honest callers.
const (
	minerBehind = 2 * time.Second
	minerAhead  = 10 * time.Second
)

// examineMiner looks at a miner's box as far as its address goes: what is configured, what the chain shows, whether the
// world reaches it there, and whether it reaches itself.
func (d *doctor) examineMiner(ctx context.Context) {
	cfg := d.cfg.Config.Miner
	cfg.Chain = d.cfg.Config.Chain
	d.check(ctx, "configuration", "no key is unknown and every value in its range", func(context.Context) (string, error) {
		return d.configured(cfg.Validate())
	})
	if d.out.Findings[0].State == CheckFailed {
		return
	}
	running := 0 // pid
	d.check(ctx, "data directory", "readable by this user", func(context.Context) (found string, err error) {
		found, running, err = d.dataDir(cfg.DataDir, "miner")
		return found, err
	})
	graph, me := d.published(ctx, cfg)
	d.clockRow(ctx, tolerance{behind: minerBehind, ahead: minerAhead})
	unknown, reachesSelf := notDone{"the chain shows no address"}, false
	d.check(ctx, "axon from here", "whoever answers at the published address has the published key", func(ctx context.Context) (string, error) {
		if me == nil {
			return "", unknown
		}
		found, err := metOwnAxon(ctx, me.Axon)
		reachesSelf = err == nil
		return found, err
	})
	d.check(ctx, "axon from outside", fmt.Sprintf("a validator has called within %s", heardWithin), func(ctx context.Context) (string, error) {
		if me == nil {
			return "", unknown
		}
		return d.heard(ctx, cfg, graph, running, reachesSelf)
	})
	n := len(d.out.Findings)
	hairpin(&d.out.Findings[n-2], d.out.Findings[n-1])
}

// hairpin takes a miner's failure to reach itself for what it is where others reach it: its router sends nobody back inside.
// Where nobody can say whether others do, it says nothing.
func hairpin(here *Finding, outside Finding) {
	if here.Code != "AXON_SELF" || outside.State == CheckFailed {
		return
	}
	here.State, here.Code, here.Fix = outside.State, "", ""
	if outside.State == CheckPassed {
		here.Found += "; others do, so this is a router without hairpin: no harm"
	} else {
		here.Found += "; whether others do is not known, and a router without hairpin would look alike"
	}
}

// published compares what the chain shows with what is configured.
func (d *doctor) published(ctx context.Context, cfg MinerConfig) (graph *basilica.Metagraph, me *basilica.Neuron) {
	d.check(ctx, "published address", "the chain shows what miner.axon_advertise says", func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, chainTime)
		defer cancel()
		hotkey, err := LoadKey("miner.hotkey", cfg.Hotkey)
		if err != nil {
			return "", err
		}
		chain := subtensor.New(cfg.Chain.Nodes("", cfg.Hotkey), d.deps.Log)
		defer chain.Close()
		if graph, err = chain.Metagraph(ctx, cfg.Chain.NetUID); err != nil {
			return "", err
		}
		n, ok := graph.ByHotkey(basilica.Hotkey(hotkey.SS58()))
		switch {
		case !ok:
			return "", basilica.E(basilica.NotFound, "MINER_NOT_REGISTERED", fmt.Sprintf("hotkey %s is not registered on subnet %d", hotkey.SS58(), cfg.Chain.NetUID), "")
		case !n.Axon.Addr.IsValid() || n.Axon.Addr.Port() == 0:
			return "", basilica.E(basilica.NotFound, "MINER_NO_AXON", "the chain shows no address of this miner", "")
		}
		me = &n
		return fmt.Sprintf("%s, while the axon listens at %s", n.Axon.Addr, cfg.AxonListen), otherAddress(cfg.AxonAdvertise, n.Axon.Addr)
	})
	return graph, me
}

// otherAddress refuses a chain that shows another address than the configured one; port 0 stands for any.
func otherAddress(advertise string, shown netip.AddrPort) error {
	want, err := netip.ParseAddrPort(advertise)
	if err != nil || want.Port() == 0 || netip.AddrPortFrom(want.Addr().Unmap(), want.Port()) == shown {
		return nil
	}
	return basilica.E(basilica.Conflict, "AXON_OTHER_ADDRESS", fmt.Sprintf("the chain shows %s, and miner.axon_advertise is %s", shown, want), "restart the miner: it publishes its address when it starts; read its log where the chain refused")
}

// metOwnAxon dials the published address from here and compares the key.
func metOwnAxon(ctx context.Context, axon basilica.Axon) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, selfTime)
	defer cancel()
	spki, err := wire.PeerKey(ctx, axon.Addr.String(), true)
	if err != nil {
		return "", basilica.E(basilica.Unavailable, "AXON_SELF", fmt.Sprintf("this machine cannot reach itself at %s", axon.Addr),
			"where validators do not reach it either, lead that port to the axon; where they do, nothing: a router without hairpin sends nobody back inside").With(err)
	}
	pub, err := keys.ParseP256SPKI(spki)
	if err != nil {
		return "", err
	}
	point, err := pub.Bytes()
	if err != nil {
		return "", err
	}
	if !bytes.Equal(point[1:], axon.TLSKey) {
		return "", basilica.E(basilica.Denied, "AXON_OTHER", fmt.Sprintf("what answers at %s has another key than the chain shows for this miner", axon.Addr), "give miner.axon_advertise the address of this machine, and the port that leads to its axon; then restart the miner")
	}
	return fmt.Sprintf("this machine reaches its axon at %s", axon.Addr), nil
}

// heard asks the running miner which validators have called lately: they are the only ones whose way to it counts.
func (d *doctor) heard(ctx context.Context, cfg MinerConfig, graph *basilica.Metagraph, running int, reachesSelf bool) (string, error) {
	permits := 0
	for _, n := range graph.Neurons {
		if n.ValidatorPermit {
			permits++
		}
	}
	if running == 0 {
		return "", notDone{"the miner does not run here, so nobody can have called"}
	}
	client, err := MinerAdmin(cfg)
	if err != nil {
		return "", err
	}
	page, err := client.Members(ctx, "", 0)
	if err != nil {
		return "", err
	}
	callers := map[basilica.Hotkey]time.Time{}
	for _, m := range page.Executors {
		full, err := client.Member(ctx, m.Executor)
		if err != nil {
			return "", err
		}
		for _, g := range full.Grants {
			if d.deps.Now().Sub(g.Issued) < heardWithin && g.Issued.After(callers[g.Validator]) {
				callers[g.Validator] = g.Issued
			}
		}
	}
	ran := time.Duration(0)
	if began, err := os.Stat(fmt.Sprintf("/proc/%d", running)); err == nil {
		ran = d.deps.Now().Sub(began.ModTime())
	}
	return judgeCalls(len(callers), permits, len(page.Executors), ran, reachesSelf)
}

// judgeCalls says what it means that so many validators have called, of so many that could.
func judgeCalls(callers, permits, machines int, ran time.Duration, reachesSelf bool) (string, error) {
	switch {
	case callers > 0:
		return fmt.Sprintf("%d of %d validators with a permit have called within %s", callers, permits, heardWithin), nil
	case permits == 0:
		return "", notDone{"no validator has a permit on this subnet"}
	case machines == 0:
		return "", notDone{"the fleet has no machine that a validator could ask for"}
	case ran < heardWithin:
		return "", notDone{fmt.Sprintf("none of %d validators with a permit has called yet; the miner has run for less than %s", permits, heardWithin)}
	}
	fix := "lead the published port to the axon (firewall, address translation), or give miner.axon_advertise the address that leads there"
	if reachesSelf {
		fix = "this machine reaches itself, so the way from outside is closed: " + fix
	}
	return "", basilica.E(basilica.Unavailable, "AXON_UNREACHED", fmt.Sprintf("not reachable from outside: of %d validators with a permit none has called within %s", permits, heardWithin), fix)
}
