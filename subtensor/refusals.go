package subtensor

import (
	"errors"
	"fmt"
	"strings"

	"basilica"
	"basilica/pallet"
)

// Codes of JSON-RPC errors.
const (
	codeMethodNotFound  = -32601
	codeTooMuchWork     = -32004
	codeTooManyRequests = -32005
	codeInvalid         = 1010
	codeAlreadyImported = 1013
)

// Codes of refusals that a new signature may cure.
const (
	codeStale    = "Pool.Stale"
	codeFuture   = "Pool.Future"
	codeBadProof = "Pool.BadProof" // after an upgrade
)

// poolError names the pool's refusal of a transaction; other errors pass.
func poolError(err error) error {
	var refused *rpcError
	if !errors.As(err, &refused) {
		return err
	}
	if refused.Code != codeInvalid {
		return basilica.E(basilica.Unavailable, poolCode(refused.Code), "the node did not take the transaction", "try again in a moment").With(err)
	}
	text := refused.text()
	var n uint8
	if _, scanErr := fmt.Sscanf(text, "Custom error: %d", &n); scanErr == nil {
		name := pallet.PoolError(n)
		return basilica.E(kindOf(name), "Pool."+name, fmt.Sprintf("the chain refuses the transaction: %s (custom error %d)", name, n), fixFor(name)).With(err)
	}
	for _, known := range []struct {
		text, code, fix string
		kind            basilica.Kind
	}{
		{"outdated", codeStale, "try again", basilica.Conflict},
		{"valid in the future", codeFuture, "try again", basilica.Conflict},
		{"bad signature", codeBadProof, "the node may have been upgraded just now: try again; check that the key is the right one", basilica.Denied},
		{"Inability to pay", "Pool.Payment", "send some TAO to the signing key", basilica.Exhausted},
		{"ancient birth block", "Pool.AncientBirthBlock", "try again", basilica.Conflict},
		{"not expected", "Pool.Call", "the chain does not take this call now", basilica.Denied},
	} {
		if strings.Contains(text, known.text) {
			return basilica.E(known.kind, known.code, "the chain refuses the transaction: "+text, known.fix).With(err)
		}
	}
	return basilica.E(basilica.Invalid, "Pool.Invalid", "the chain refuses the transaction: "+text, "mend what the chain names, then send it again; nothing was paid").With(err)
}

// poolCode names the refusals that say more of the node's state than of the
// transaction.
func poolCode(code int) string {
	switch code {
	case 1011:
		return "Pool.UnknownValidity"
	case 1012:
		return "Pool.TemporarilyBanned"
	case 1014:
		return "Pool.TooLowPriority"
	case 1016:
		return "Pool.ImmediatelyDropped"
	}
	return "CHAIN_REFUSED"
}

// dispatchError turns the chain's own error into ours, code and all.
func dispatchError(err error) error {
	var d *pallet.DispatchError
	if !errors.As(err, &d) {
		return err
	}
	sentence := "the chain included the transaction but refused its call"
	if docs := strings.TrimRight(d.Docs, ". "); docs != "" {
		sentence += " (" + docs + ")"
	}
	_, name, ok := strings.Cut(d.Name, ".")
	if !ok {
		name = d.Name
	}
	return basilica.E(kindOf(name), d.Name, sentence, fixFor(name)).With(err)
}

// kindOf sorts the chain's names by what a caller can do about them.
func kindOf(name string) basilica.Kind {
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(name, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("RateLimit", "TooFast", "TooMany", "NotEnough", "TooLow", "PriceLimit", "Insufficient", "FundsUnavailable"):
		return basilica.Exhausted
	case has("NotRegistered", "NotExist", "DoesntExist", "NotFound"):
		return basilica.NotFound
	case has("AlreadyRegistered", "InSwapSchedule", "CommitReveal"):
		return basilica.Conflict
	case has("NoValidatorPermit", "NonAssociated", "NotPermitted", "Disabled", "BadOrigin", "Disallowed"):
		return basilica.Denied
	}
	return basilica.Invalid
}

// fixFor is the next step for the refusals that people meet most.
func fixFor(name string) string {
	switch name {
	case "NeuronNoValidatorPermit":
		return "stake more on this hotkey and wait for the next epoch, which gives the permits"
	case "RateLimitExceeded", "SettingWeightsTooFast", "ServingRateLimitExceeded":
		return "wait until the rate limit of the subnet has passed and try again"
	case "HotKeyNotRegisteredInNetwork", "HotKeyNotRegisteredInSubNet":
		return "register the hotkey on the subnet first"
	case "RegistrationPriceLimitExceeded":
		return "raise the highest price, or wait until the price has fallen"
	case "NotEnoughBalanceToStake", "FundsUnavailable", "BalanceTooLow":
		return "send some TAO to the signing coldkey"
	case "StakeAmountTooLow", "NotEnoughStakeToSetWeights":
		return "stake more on this hotkey"
	case "InvalidRevealRound":
		return "try again: the chain's beacon has gone past the round meanwhile; if it goes on, check that the node is synchronised"
	case "CommitNotFound":
		return "commit weights first, or reveal exactly those that were committed, with their salt"
	case "CommitBlockNotInRevealRange":
		return "reveal in the epoch that is as many epochs after the commit's as the subnet's reveal period says"
	case "InputLengthsUnequal":
		return "give as many values as UIDs in every list"
	case "UidNotFound":
		return "see with basilica subnet metagraph which UIDs there are"
	case "SubnetNotExists":
		return "check netuid, and that the node is of the right network"
	case "NotEnoughStakeToWithdraw":
		return "see with basilica subnet stake list how much there is, and take less"
	case "InsufficientLiquidity", "ZeroMaxAmount":
		return "move less at a time, or wait until the subnet's pool has more"
	case "TransferDisallowed":
		return "ask the subnet's owner to allow transfers of its stake"
	case "ColdkeyInSwapSchedule", "ColdkeySwapDisputed":
		return "wait until the swap of this coldkey is over; until then the chain takes nothing else of it"
	case "InvalidPort":
		return "announce a port from 1 to 65535"
	case "InvalidRealAccount":
		return "name the account that the proxy stands for, and sign with a proxy that it has"
	case "EvmKeyAssociateRateLimitExceeded":
		return "wait some hours before another EVM key is associated"
	case "FailedShieldedTxParsing":
		return "try again; if it goes on, send it without --shield"
	case "InvalidShieldedTxPubKeyHash":
		return "try again: the chain's key of MevShield has moved on meanwhile"
	case "DelegateTakeTooLow", "DelegateTakeTooHigh":
		return "choose a take between the chain's lowest and its highest"
	case "BadRequest":
		return "check every argument of the call; the chain says no more than that one is wrong"
	case "InvalidIpAddress":
		return "announce an address that others can reach; the chain refuses 127.0.0.1"
	case "NonAssociatedColdKey":
		return "sign with the coldkey that owns the hotkey"
	case "SubtokenDisabled":
		return "wait until its owner starts it (basilica subnet start)"
	case "HotKeyAccountNotExists", "HotkeyAccountDoesntExist":
		return "check the address; a hotkey is known once it has been registered on a subnet"
	case "SlippageTooHigh", "PriceLimitExceeded":
		return "allow a worse price (--tolerance, --limit), less at a time, or a part of it (--allow-partial)"
	case "RegistrationNotPermittedOnRootSubnet":
		return "use basilica subnet register --root"
	case "AmountTooLow":
		return "take more at a time; the chain moves no stake under 0.002 TAO"
	case "NotEnoughStakeToSetChildkeys":
		return "stake more on the parent hotkey"
	case "TempoOutOfBounds":
		return "choose 360 to 50400 blocks"
	case "CannotAffordLockCost":
		return "see with basilica subnet create --dry-run what a subnet costs, and send as much to the signing coldkey"
	case "NeedWaitingMoreBlocksToStarCall":
		return "wait some more blocks after the subnet's making and try again"
	}
	return ""
}
