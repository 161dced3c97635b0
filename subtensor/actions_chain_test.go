package subtensor_test

import (
	"testing"

	"basilica"
	"basilica/keys"
	"basilica/subtensor"
)

// TestActionsCostWhatTheySaid: what a quote says before is what leaves the balance, to the rao, in the open and sealed.
func TestActionsCostWhatTheySaid(t *testing.T) {
	n := newNetwork(t)
	bob, hot := pair(t, keys.Sr25519, "//Bob"), pair(t, keys.Sr25519, "//Bob//hot")
	n.register(bob, hot)
	for name, a := range map[string]subtensor.Action{
		"add":    subtensor.AddStakeLimit(netuid, hotkeyOf(hot), 5e9, subtensor.Limit{Price: 1e9}),
		"sealed": subtensor.AddStake(netuid, hotkeyOf(hot), 7e9),
	} {
		var opts []subtensor.SubmitOption
		if name == "sealed" {
			opts = append(opts, subtensor.Shielded())
		}
		q, err := n.client.Quote(n.ctx, a, bob, opts...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		done, err := n.client.Do(n.ctx, a, bob, opts...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		left, _ := done.Facts.Get("balance")
		if q.Fee == 0 || q.Cost == 0 || done.Fee != q.Fee || left != q.Left() || q.Shielded != (name == "sealed") {
			t.Errorf("%s: quoted fee %d, cost %d, left %d; paid %d, left %v", name, q.Fee, q.Cost, q.Left(), done.Fee, left)
		}
	}
	stake, err := n.client.StakeOf(n.ctx, netuid, hotkeyOf(hot), basilica.Coldkey(bob.SS58()))
	if err != nil || stake < 12e9 {
		t.Errorf("stake %d, %v", stake, err)
	}
}

// TestQuotesRefuseBeforehand: what the chain would refuse at its head is refused without a transaction, by the chain's name.
func TestQuotesRefuseBeforehand(t *testing.T) {
	n := newNetwork(t)
	bob, hot := pair(t, keys.Sr25519, "//Bob"), pair(t, keys.Sr25519, "//Bob//hot")
	n.register(bob, hot)
	alice, eve := pair(t, keys.Sr25519, "//Alice"), pair(t, keys.Sr25519, "//Eve")
	stranger := hotkeyOf(pair(t, keys.Sr25519, "//Stranger"))
	for want, quote := range map[string]func() (subtensor.Action, *keys.Pair){
		"SubtensorModule.HotKeyAlreadyRegisteredInSubNet": func() (subtensor.Action, *keys.Pair) {
			return subtensor.BurnedRegister(netuid, hotkeyOf(hot)), bob
		},
		"SubtensorModule.RegistrationNotPermittedOnRootSubnet": func() (subtensor.Action, *keys.Pair) {
			return subtensor.RegisterLimit(0, stranger, 1e9), bob
		},
		"SubtensorModule.RegistrationPriceLimitExceeded": func() (subtensor.Action, *keys.Pair) { return subtensor.RegisterLimit(netuid, stranger, 1), bob },
		"REGISTRATION_FREE": func() (subtensor.Action, *keys.Pair) {
			most := basilica.Rao(1e9)
			return subtensor.RootRegister(stranger, &most), bob
		},
		"SUBNET_UNKNOWN":                       func() (subtensor.Action, *keys.Pair) { return subtensor.BurnedRegister(77, stranger), bob },
		"SubtensorModule.NonAssociatedColdKey": func() (subtensor.Action, *keys.Pair) { return subtensor.RootRegister(hotkeyOf(hot), nil), eve },
		"SubtensorModule.HotKeyNotRegisteredInSubNet": func() (subtensor.Action, *keys.Pair) {
			return subtensor.SetCommitment(netuid, []byte("x")), eve
		},
		"SubtensorModule.HotKeyAccountNotExists": func() (subtensor.Action, *keys.Pair) { return subtensor.AddStake(netuid, stranger, 1e9), bob },
		"SubtensorModule.AmountTooLow":           func() (subtensor.Action, *keys.Pair) { return subtensor.RemoveStake(netuid, hotkeyOf(hot), 1e9), bob },
		"SubtensorModule.FirstEmissionBlockNumberAlreadySet": func() (subtensor.Action, *keys.Pair) {
			return subtensor.StartCall(netuid), alice
		},
	} {
		a, signer := quote()
		if _, err := n.client.Quote(n.ctx, a, signer); basilica.CodeOf(err) != want || basilica.FixOf(err) == "" {
			t.Errorf("%s: %v, next step %q, want %s", a.Words(), err, basilica.FixOf(err), want)
		}
	}
}
