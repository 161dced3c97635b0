package subtensor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"basilica"
	"basilica/internal/provoke"
	"basilica/keys"
	"basilica/pallet"
)

// stakes is a ledger on which staking works as far as its event goes.
func stakes(t *testing.T, v *vocabulary) (*ledger, *keys.Pair, Action) {
	t.Helper()
	l, bob := newLedger(t, v), ledgerKey(t, "//Bob")
	l.call = func(who [32]byte, c pallet.Call, _ *ledgerState) ([]any, error) {
		if c.Name != "add_stake" {
			return nil, nil
		}
		return []any{subtensorEvent("StakeAdded", who, who, uint64(5e9), uint64(4e9), ledgerSubnet, 7)}, nil
	}
	return l, bob, AddStake(ledgerSubnet, basilica.Hotkey(bob.SS58()), 5e9)
}

// TestInterruptedAfterSending: who ends a call after it was sent hears what is on its way and until when, and who ends it
// before hears that alone.
func TestInterruptedAfterSending(t *testing.T) {
	v := speak(t, 425, nil)
	for _, sealed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l, bob, stake := stakes(t, v)
			var opts []SubmitOption
			if sealed {
				opens := true
				withShield(t, l, &opens)
				opts = append(opts, Shielded())
			}
			client, _, stop := serveLedger(t, l, ServerConfig{})
			defer stop()
			interrupted := func(taken bool) (signed basilica.Signed, err error) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				l.taken = func(int) { cancel() }
				_, err = client.Do(ctx, stake, bob, append(opts, Intend(func(s basilica.Signed) error {
					if signed = s; !taken {
						cancel()
					}
					return nil
				}))...)
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				return signed, err
			}
			if _, err := interrupted(false); basilica.CodeOf(err) != "" || l.sent != 0 {
				t.Errorf("before the sending: %v, %d sent", err, l.sent)
			}
			signed, err := interrupted(true)
			provoke.Refused(t, err, "TRANSACTION_SENT")
			if basilica.KindOf(err) != basilica.Unavailable || !strings.Contains(err.Error(), fmt.Sprintf("%s with nonce %d ", signed.Extrinsic, signed.Nonce)) {
				t.Errorf("after the sending: %v, want %s", err, signed.Extrinsic)
			}
			time.Sleep(time.Minute)
			if all := l.extrinsics(); len(all) != int(signed.Nonce)+1 || all[signed.Nonce].Nonce != signed.Nonce {
				t.Errorf("%d extrinsics took effect, the last should have nonce %d", len(all), signed.Nonce)
			}
		})
	}
}

// TestInterruptedAfterInclusion: where the block is known and its events are not, that is what is said.
func TestInterruptedAfterInclusion(t *testing.T) {
	v := speak(t, 425, nil)
	synctest.Test(t, func(t *testing.T) {
		l, bob, stake := stakes(t, v)
		client, _, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		events, err := v.words.StorageKey("System", "Events")
		if err != nil {
			t.Fatal(err)
		}
		l.read = func(key []byte) {
			if bytes.Equal(key, events) {
				cancel()
			}
		}
		_, err = client.Do(ctx, stake, bob)
		provoke.Refused(t, err, "TRANSACTION_SENT")
		if !strings.Contains(err.Error(), "is in block 1,") {
			t.Error(err)
		}
	})
}

// TestGivenUpByTheNode: a node's word that it gave a transaction up ends nothing: the chain says whether it took effect, and
// no sooner than at its last block that it did not.
func TestGivenUpByTheNode(t *testing.T) {
	v := speak(t, 425, nil)
	for word, lost := range map[string]string{"dropped": "TRANSACTION_LOST", "invalid": "TRANSACTION_LOST", "usurped": "TRANSACTION_USURPED"} {
		synctest.Test(t, func(t *testing.T) {
			l, bob, stake := stakes(t, v)
			client, _, stop := serveLedger(t, l, ServerConfig{})
			defer stop()
			l.taken = func(int) { l.disown(word, true) }
			done, err := client.Do(t.Context(), stake, bob)
			if err != nil || done.Inclusion.Block != 1 {
				t.Errorf("%s, and in a block: %+v %v", word, done, err)
			}
			var (
				signed basilica.Signed
				gone   atomic.Bool
			)
			l.taken = func(int) {
				l.disown(word, false)
				gone.Store(true)
			}
			l.arrive = func(int) error {
				if gone.Load() {
					return refusal{1012, "Transaction is temporarily banned", ""}
				}
				return nil
			}
			_, err = client.Do(t.Context(), stake, bob, Intend(func(s basilica.Signed) error { signed = s; return nil }))
			provoke.Refused(t, err, lost)
			if head := l.Head().Number; head+1 < signed.Death {
				t.Errorf("%s: given up at block %d, and it could take effect up to %d", word, head, signed.Death-1)
			}
		})
	}
}

// TestResultUnread: what took effect is done, whatever keeps its result from being read.
func TestResultUnread(t *testing.T) {
	v := speak(t, 425, nil)
	synctest.Test(t, func(t *testing.T) {
		l, bob, stake := stakes(t, v)
		client, wire, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		item, err := v.words.StorageKey("SubtensorModule", "TotalHotkeyAlpha", bob.PublicKey(), uint16(ledgerSubnet))
		if err != nil {
			t.Fatal(err)
		}
		var once sync.Once
		l.read = func(key []byte) {
			if bytes.Equal(key, item) {
				once.Do(func() {
					wire.cut(true)
					time.AfterFunc(time.Minute, func() { wire.cut(false) })
				})
			}
		}
		done, err := client.Do(t.Context(), stake, bob)
		if alpha, _ := done.Facts.Get("alpha"); err != nil || done.Unread != nil || alpha != basilica.Rao(4e9) {
			t.Errorf("a node that was away for a minute: %+v, %v", done, err)
		}
		l.call = nil // the event comes no more, as after an upgrade that renamed it
		done, err = client.Do(t.Context(), stake, bob)
		if err != nil || done.Unread == nil || done.Inclusion.Block == 0 || len(done.Facts) != 0 {
			t.Fatalf("%+v, %v", done, err)
		}
		provoke.Reason(t, *done.Unread, "RESULT_UNREAD")
		if in, err := client.AddStake(t.Context(), ledgerSubnet, basilica.Hotkey(bob.SS58()), bob, 5e9); err != nil || in.Block == 0 {
			t.Errorf("%+v, %v", in, err)
		}
	})
}

// TestSealedWithTheNodeAway: between the carrier and the call that it brought no node answers for a while.
func TestSealedWithTheNodeAway(t *testing.T) {
	v := speak(t, 425, nil)
	synctest.Test(t, func(t *testing.T) {
		l, opens := newLedger(t, v), true
		withShield(t, l, &opens)
		client, wire, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		open := l.call
		l.call = func(who [32]byte, c pallet.Call, b *ledgerState) ([]any, error) {
			events, err := open(who, c, b)
			if c.Name == "submit_encrypted" { // what was sealed comes into the next block, and until then all is well
				w := l.pool[len(l.pool)-1]
				l.pool = l.pool[:len(l.pool)-1]
				time.AfterFunc(time.Second, func() {
					l.mu.Lock()
					defer l.mu.Unlock()
					l.pool = append(l.pool, w)
				})
				time.AfterFunc(3*time.Second, func() { wire.cut(true) })
				time.AfterFunc(43*time.Second, func() { wire.cut(false) })
			}
			return events, err
		}
		r, err := client.submit(t.Context(), ledgerKey(t, "//Bob//hot"), "SubtensorModule", "set_weights", map[string]any{
			"netuid": ledgerSubnet, "dests": []uint16{}, "weights": []uint16{}, "version_key": 0,
		}, Shielded())
		if err != nil || len(l.extrinsics()) != 2 || r.Block != 2 {
			t.Errorf("%+v, %v, %d extrinsics", r, err, len(l.extrinsics()))
		}
	})
}
