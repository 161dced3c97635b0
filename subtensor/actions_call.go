package subtensor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
	"basilica/shield"
)

// Action is one call of the chain that a person may want, made by a builder such as RegisterLimit. It knows what it costs
// beside the fee, what the chain would refuse now, and where its result stands afterwards.
type Action struct {
	words  string // what it does, as an order: "register 5… on subnet 39"
	pallet string
	call   string
	make   func() (map[string]any, error) // arguments by the metadata's names

	// price looks at the chain before anything is sent: it sets the quote's cost and notes, or refuses what cannot work.
	// It may be nil.
	price func(ctx context.Context, v *view, q *Quote) error
	// result says what came of it, by the events of the extrinsic and by the state v after its block. It may be nil.
	result func(ctx context.Context, v *view, events []pallet.Event, facts *Facts) error
}

// Words is what the action does, as an order to the chain.
func (a Action) Words() string { return a.words }

// Quote says what an action would cost, by the state of the finalized head. All amounts are in rao.
type Quote struct {
	Action   string       `json:"action"` // in plain words
	Call     string       `json:"call"`   // Pallet.call
	Signer   string       `json:"signer"` // SS58 address of who signs and pays
	Balance  basilica.Rao `json:"balance"`
	Fee      basilica.Rao `json:"fee"`           // 0 where the chain takes none of this call
	Cost     basilica.Rao `json:"cost"`          // what leaves the balance beside the fee
	Use      string       `json:"use,omitempty"` // what becomes of the cost: burned, locked, staked
	Notes    []string     `json:"notes"`         // plain sentences
	Shielded bool         `json:"shielded"`      // it goes sealed through MevShield, whose carrier\'s fee is in Fee
}

// Note adds a plain sentence.
func (q *Quote) note(format string, args ...any) {
	q.Notes = append(q.Notes, fmt.Sprintf(format, args...))
}

// Left is what the signer keeps.
func (q Quote) Left() basilica.Rao { return q.Balance - q.Fee - q.Cost }

// Fact is one thing that an action brought about.
type Fact struct {
	Name  string
	Value any
}

// Facts are in order; their JSON is one object.
type Facts []Fact

func (f *Facts) add(name string, value any) { *f = append(*f, Fact{name, value}) }

// Get finds a fact by its name.
func (f Facts) Get(name string) (any, bool) {
	i := slices.IndexFunc(f, func(x Fact) bool { return x.Name == name })
	if i < 0 {
		return nil, false
	}
	return f[i].Value, true
}

// MarshalJSON implements json.Marshaler.
func (f Facts) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, x := range f {
		name, err := json.Marshal(x.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(x.Value)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, name...), ':'), value...)
	}
	return append(b, '}'), nil
}

// Done is an action that took effect.
type Done struct {
	Action    string             `json:"action"`
	Inclusion basilica.Inclusion `json:"inclusion"`
	Fee       basilica.Rao       `json:"fee"` // as the chain took it
	Facts     Facts              `json:"facts"`
	Unread    *basilica.Reason   `json:"unread,omitempty"` // why Fee or Facts are not known; nil where they are
}

// Quote reads fee, cost and balance before anything is sent, and refuses with the chain's own name of the error what the
// chain would refuse at its finalized head. signer signs nothing here.
func (c *Client) Quote(ctx context.Context, a Action, signer keys.Signer, opts ...SubmitOption) (Quote, error) {
	q, err := c.quote(ctx, a, signer, optionsOf(opts))
	if err != nil {
		return Quote{}, fmt.Errorf("%s: %w", a.words, err)
	}
	return q, nil
}

func (c *Client) quote(ctx context.Context, a Action, signer keys.Signer, opts submitOptions) (Quote, error) {
	q := Quote{Action: a.words, Call: a.pallet + "." + a.call, Signer: signer.SS58(), Notes: []string{}, Shielded: opts.shield}
	args, err := a.make()
	if err != nil {
		return q, err
	}
	v, _, err := c.head(ctx)
	if err != nil {
		return q, err
	}
	if !v.rt.words.HasCall(a.pallet, a.call) {
		return q, basilica.E(basilica.Invalid, "CALL_MISSING", fmt.Sprintf("this chain's runtime has no call %s", q.Call), "use a node of a later runtime, or another verb that does the same")
	}
	nonce, balance, err := v.account(ctx, signer.PublicKey())
	if err != nil {
		return q, err
	}
	q.Balance = balance
	next, err := c.nextNonce(ctx, signer)
	if err != nil {
		return q, err
	}
	if next > nonce {
		q.note("this key has sent more than is final, up to nonce %d: what that does is not counted here, so see what became of it before you repeat it", next-1)
	}
	if a.price != nil {
		if err := a.price(ctx, v, &q); err != nil {
			return q, err
		}
	}
	if q.Fee, err = v.fee(ctx, signer, a.pallet, a.call, args, opts); err != nil {
		return q, err
	}
	if need := q.Fee + q.Cost; q.Balance < need {
		return q, basilica.E(basilica.Exhausted, "BALANCE_SHORT",
			fmt.Sprintf("it takes %s TAO (%s and a fee of %s), and the balance of %s is %s TAO", need.TAO(), q.Cost.TAO(), q.Fee.TAO(), q.Signer, q.Balance.TAO()),
			"send TAO to "+q.Signer+", or choose a smaller amount")
	}
	return q, nil
}

// account is an account's next nonce and its free balance, 0 where the chain does not know it.
func (v *view) account(ctx context.Context, key [32]byte) (nonce uint64, free basilica.Rao, err error) {
	values, err := v.read(ctx, item{"System", "Account", []any{key}})
	if err != nil {
		return 0, 0, fmt.Errorf("balance: %w", err)
	}
	info, _ := values[0].(scale.Struct)
	index, _ := info.Get("nonce")
	data, _ := info.Get("data")
	inner, _ := data.(scale.Struct)
	amount, _ := inner.Get("free")
	var p picker
	nonce, free = p.number("nonce", index), basilica.Rao(p.number("free", amount))
	if p.err != nil {
		return 0, 0, fmt.Errorf("balance: %w", p.err)
	}
	return nonce, free, nil
}

// balance is an account's free balance, 0 where the chain does not know it.
func (v *view) balance(ctx context.Context, key [32]byte) (basilica.Rao, error) {
	_, free, err := v.account(ctx, key)
	return free, err
}

// forQuotes signs with zeros: a quote goes to the node, and what it holds must not be worth sending on.
type forQuotes struct{ keys.Signer }

// Sign implements keys.Signer.
func (forQuotes) Sign([]byte) ([]byte, error) { return make([]byte, keys.SignatureSize), nil }

// fee asks the node what a call costs its signer.
func (v *view) fee(ctx context.Context, signer keys.Signer, palletName, call string, args map[string]any, opts submitOptions) (basilica.Rao, error) {
	data, err := v.rt.call(palletName, call, args)
	if err != nil {
		return 0, err
	}
	genesis, err := v.client.Genesis(ctx)
	if err != nil {
		return 0, err
	}
	// As long as the one that is sent will be, for length costs; nonces above 63 add a byte or two.
	s := pallet.Signing{SpecVersion: v.rt.spec, TxVersion: v.rt.tx, Genesis: genesis, BirthHash: genesis, Era: pallet.MortalEra(eraPeriod, eraPeriod)}
	inner, err := v.rt.words.Sign(data, s, forQuotes{signer})
	if err != nil {
		return 0, err
	}
	total, err := v.feeOf(ctx, inner)
	if err != nil || !opts.shield {
		return total, err
	}
	if !v.rt.words.HasCall("MevShield", "submit_encrypted") {
		return 0, shieldMissing()
	}
	carrier, err := v.rt.call("MevShield", "submit_encrypted", map[string]any{"ciphertext": make([]byte, shield.Overhead+len(inner))})
	if err != nil {
		return 0, err
	}
	if carrier, err = v.rt.words.Sign(carrier, s, forQuotes{signer}); err != nil {
		return 0, err
	}
	more, err := v.feeOf(ctx, carrier)
	return total + more, err
}

// feeOf decodes query_info's answer as every runtime of Substrate lays it out, for metadata of version 14 names no runtime
// API: weight, class, partial_fee.
func (v *view) feeOf(ctx context.Context, extrinsic []byte) (basilica.Rao, error) {
	var answer hexBytes
	args := scale.AppendU32(append([]byte{}, extrinsic...), uint32(len(extrinsic)))
	err := v.client.call(ctx, &answer, "state_call", "TransactionPaymentApi_query_info", hexBytes(args), v.at)
	var refused *rpcError
	if errors.As(err, &refused) {
		return 0, apiMissing(fmt.Errorf("%w: %w", errNoAPI, err), "what the call costs")
	}
	if err != nil {
		return 0, fmt.Errorf("fee: %w", err)
	}
	r := scale.NewReader(answer)
	r.Compact()
	r.Compact()
	r.U8()
	fee := basilica.Rao(r.U64())
	if r.Err() != nil {
		return 0, fmt.Errorf("fee: %w", r.Err())
	}
	return fee, nil
}

// Do sends an action and returns once its block is final; what came of it is read from the events of the extrinsic and
// from the state after its block. Where that cannot be read the action is done all the same, and Unread says why.
func (c *Client) Do(ctx context.Context, a Action, signer keys.Signer, opts ...SubmitOption) (Done, error) {
	args, err := a.make()
	if err != nil {
		return Done{}, fmt.Errorf("%s: %w", a.words, err)
	}
	r, err := c.submit(ctx, signer, a.pallet, a.call, args, opts...)
	if err != nil {
		return Done{}, fmt.Errorf("%s: %w", a.words, err)
	}
	done := Done{Action: a.words, Inclusion: r.Inclusion, Facts: Facts{}}
	if err := c.read(ctx, a, r, &done); err != nil {
		done.Unread = &basilica.Reason{
			Code: "RESULT_UNREAD", Sentence: fmt.Sprintf("it took effect in block %d, and what came of it could not be read (%s)", r.Block, basilica.OneLine(err.Error())),
			Fix: "do not repeat it; see what came of it in the balance, or with basilica subnet metagraph, show or stake list",
		}
	}
	return done, nil
}

// read reads what came of an action that took effect.
func (c *Client) read(ctx context.Context, a Action, r *receipt, done *Done) error {
	var p picker
	for _, e := range r.events {
		if e.Is("TransactionPayment", "TransactionFeePaid") {
			fee, _ := e.Fields.Get("actual_fee")
			done.Fee += basilica.Rao(p.number("actual_fee", fee))
		}
	}
	if p.err != nil || a.result == nil {
		return p.err
	}
	facts, err := patiently(ctx, c, func() (Facts, error) {
		facts := Facts{}
		v, err := c.viewAt(ctx, r.BlockHash)
		if err == nil {
			err = a.result(ctx, v, r.events, &facts)
		}
		return facts, err
	})
	if err == nil {
		done.Facts = facts
	}
	return err
}

// event finds an event of SubtensorModule by its name.
func event(events []pallet.Event, name string) (pallet.Event, error) {
	for _, e := range events {
		if e.Is("SubtensorModule", name) {
			return e, nil
		}
	}
	return pallet.Event{}, fmt.Errorf("the block has no event %s of this transaction: %w", name, errNoEvent)
}

var errNoEvent = errors.New("its result is unknown")

// Steps of an action's price that several have.

// registered is the hotkey's uid on a subnet, or a refusal by the chain's name of it.
func (v *view) registered(ctx context.Context, netuid basilica.NetUID, hotkey [32]byte) (basilica.UID, error) {
	uid, err := v.one(ctx, "Uids", netuid, hotkey)
	if err != nil {
		return 0, err
	}
	if uid == nil {
		return 0, basilica.E(basilica.NotFound, "SubtensorModule.HotKeyNotRegisteredInSubNet",
			fmt.Sprintf("the hotkey %s is not registered on subnet %d", keys.EncodeSS58(hotkey), netuid), fixFor("HotKeyNotRegisteredInSubNet"))
	}
	n, err := scale.AsUint64(uid)
	return basilica.UID(n), err
}

// exists refuses a subnet that the chain does not have.
func (v *view) exists(ctx context.Context, netuid basilica.NetUID) error {
	there, err := v.one(ctx, "NetworksAdded", netuid)
	if err != nil {
		return err
	}
	if is, ok := there.(bool); !ok || !is {
		return unknownSubnet(netuid)
	}
	return nil
}

// owned refuses a hotkey that belongs to another coldkey. One that nobody owns becomes the signer's.
func (v *view) owned(ctx context.Context, q *Quote, hotkey [32]byte) error {
	key, err := v.rt.words.StorageKey("SubtensorModule", "Owner", hotkey)
	if err != nil {
		return err
	}
	var raw *hexBytes
	if err := v.client.call(ctx, &raw, "state_getStorage", hexBytes(key), v.at); err != nil {
		return fmt.Errorf("owner of the hotkey: %w", err)
	}
	if raw == nil {
		return nil
	}
	if owner := keys.EncodeSS58([32]byte(append(*raw, make([]byte, 32)...))); owner != q.Signer {
		return basilica.E(basilica.Denied, "SubtensorModule.NonAssociatedColdKey",
			fmt.Sprintf("the hotkey %s belongs to the coldkey %s, not to %s", keys.EncodeSS58(hotkey), owner, q.Signer), fixFor("NonAssociatedColdKey"))
	}
	return nil
}

// subnetOwner refuses a signer that does not own the subnet.
func (v *view) subnetOwner(ctx context.Context, q *Quote, netuid basilica.NetUID) error {
	if err := v.exists(ctx, netuid); err != nil {
		return err
	}
	value, err := v.one(ctx, "SubnetOwner", netuid)
	if err != nil {
		return err
	}
	var p picker
	if owner := keys.EncodeSS58(p.account("SubnetOwner", value)); p.err == nil && owner != q.Signer {
		return basilica.E(basilica.Denied, "SUBNET_OWNER", fmt.Sprintf("subnet %d belongs to %s, not to %s", netuid, owner, q.Signer), "sign with the coldkey that owns the subnet")
	}
	return p.err
}
