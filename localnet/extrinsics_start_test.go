package localnet

import (
	"math"
	"strings"

	"basilica/keys"
)

// ss58 is an account of the record, which writes them as ss58.
func ss58(address string) account {
	pub, err := keys.DecodeSS58(address)
	if err != nil {
		panic(err) // a typing error in this file
	}
	return pub
}

var (
	recordedC6       = ss58("5Dy4QYKj1puHmTXmzYNZ2HNp4VcYvTiYEbyRaL6njxZRJW55")
	recordedH4       = ss58("5FWCYCaTXFquBm1y8tUySv5WFPjSY1upLurCeJmnruisPMPP")
	recordedYOwner   = ss58("5HbXcsnzWp36gyQM5ypq2FZ84JY6q4pYAq4hcEc7QNk92UAP")
	recordedYH1      = ss58("5F9jg7hNW4iBwPKsWYdaVnmkuHWif1hn98fDMhhmgdrv76Gs")
	recordedForeign  = ss58("5HpUMUYVvknhRLzaF3ugrBG2JD4W4c8QKDedyX7gevHjuAjL")
	recordedNeurons  = []string{"5EXa3qoDVs8igEG8n2NMeTTRUeqZsCXoeUamjKLw9aP3rx9h", "5CVbBEURJ8CBFeUwxWG2kTjKEDx5XQYkuBMJVG52Qozm3Y1u", "5GNGU6HdHLLFnVhD9k6M81p2UtEbZhf2DxgwQwUAhqmJitVo", "5CtTJ3zvf9qgtTdGJfnvFjkV4CsT9kCsUmYPeePTLis18izt"}
	firstEpochOfBoth = uint64(20)
)

// foundation is what both recorded chains have from their genesis on, as far as a call reads it: root, subnet 1, the sudo
// key, balances that exist. The second chain made its subnet 2 by extrinsics that are not recorded.
func foundation(rt *runtime, w writer, c recordedExtrinsic) {
	s := rt.subnets
	endow := func(who account, rao uint64) {
		rt.system.account.set(w, who, accountInfo{free: rao, providers: 1, flags: newLogic})
	}
	rt.balances.totalIssuance.set(w, 3e16)
	rt.sudo.key.set(w, devAccount("//Alice"))
	endow(devAccount("//One"), 1e12)
	endow(recordedC6, 1e15)
	endow(ss58("5F77rqJhcQ171vWGSghWwc7cQyZJWaASmqApAouqbr1V2nFb"), 1e15)
	for netuid := range uint16(2) {
		s.networksAdded.set(w, netuid, true)
		s.tempo.set(w, netuid, 100)
		s.maxAllowedUids.set(w, netuid, 64)
		s.maxValidators.set(w, netuid, 64)
		s.minAllowedWeights.set(w, netuid, 0)
	}
	s.totalNetworks.set(w, 2)
	s.subtokenEnabled.set(w, rootNetuid, true)
	s.mechanism.set(w, 1, dynamicMech)
	s.startCallDelay.set(w, 10)
	if c.AtBlock >= 5 {
		endow(subnetAccount(2), 1e16)
	}
	if c.Chain == "" {
		return
	}
	s.networksAdded.set(w, 2, true)
	s.mechanism.set(w, 2, dynamicMech)
	s.subnetOwnerHotkey.set(w, 2, recordedYOwner)
	s.subnetworkN.set(w, 2, 4)
	for uid, hotkey := range []account{recordedYOwner, recordedYH1, {2}, {3}} {
		s.keys.set(w, 2, uint16(uid), hotkey)
		s.uids.set(w, 2, hotkey, uint16(uid))
	}
	s.permit.set(w, 2, []bool{false, true, false, false})
	s.minAllowedWeights.set(w, 2, 1)
	s.commitReveal.set(w, 2, strings.Contains(c.ID, "commit"))
	s.weightsRateLimit.set(w, 2, 0)
}

// schedule is what blocks between the recorded ones changed, and what the recorder set for many cases at once: an epoch
// every 10 blocks from block 20 on, validator permits, rate limits, commit-reveal.
func schedule(rt *runtime, w writer, c recordedExtrinsic) {
	s := rt.subnets
	if c.AtBlock >= firstEpochOfBoth-1 {
		s.tempo.set(w, 2, 10)
	}
	if c.AtBlock >= firstEpochOfBoth {
		last := c.AtBlock / 10 * 10
		s.lastEpochBlock.set(w, 2, last)
		s.lastMechanismStep.set(w, 2, last)
		s.epochIndex.set(w, 2, last/10-1)
		s.blocksSinceLastStep.set(w, 2, c.AtBlock-last)
	}
	if c.Chain != "" {
		return
	}
	if c.AtBlock >= 30 {
		for _, hotkey := range recordedNeurons {
			s.rootClaimable.set(w, ss58(hotkey), []claimable{{netuid: 2}})
		}
	}
	if c.AtBlock >= 35 {
		s.servingRateLimit.set(w, 2, 20)
	}
	if c.AtBlock >= 60 {
		s.permit.set(w, 2, []bool{true, true, false, true})
		s.weightsRateLimit.set(w, 2, 0)
		s.commitReveal.set(w, 2, c.AtBlock >= 84 && c.AtBlock < 130)
	}
	if c.AtBlock >= 138 {
		s.adminFreezeWindow.set(w, 4)
	}
}

// provocations make the situation that a case's provoke describes.
var provocations = map[string]func(rt *runtime, w writer, c recordedExtrinsic){
	"burned_register_hotkey_of_other": func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.owner.set(w, recordedH4, account{1}) },
	"burned_register_disabled":        func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.registrationAllowed.set(w, 2, false) },
	"burned_register_no_uids":         func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.maxAllowedUids.set(w, 2, 0) },
	"burned_register_block_limit":     func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.maxRegistrationsPerBlock.set(w, 2, 0) },
	"burned_register_interval_limit":  func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.registrationsThisInterval.set(w, 2, 30) },
	"burned_register_poor": func(rt *runtime, w writer, c recordedExtrinsic) {
		rt.subnets.maxBurn.set(w, 2, 1e16)
		rt.subnets.burn.set(w, 2, 1e15)
		rt.system.account.set(w, ss58(c.Signer.SS58), accountInfo{free: 1e9, providers: 1, flags: newLogic})
	},
	"burned_register_swap_announced": announced,
	"add_stake_swap_announced":       announced,
	"remark_swap_disputed": func(rt *runtime, w writer, c recordedExtrinsic) {
		announced(rt, w, c)
		rt.subnets.coldkeySwapDisputes.set(w, ss58(c.Signer.SS58), 1)
	},
	"proxy_of_swapped_coldkey": func(rt *runtime, w writer, _ recordedExtrinsic) {
		rt.subnets.coldkeySwapAnnouncements.set(w, recordedC6, swapAnnouncement{block: 1})
	},
	"serve_axon_tls_empty_cert_no_limit": noServingLimit,
	"serve_axon_tls_long_cert":           noServingLimit,
	"add_stake_subtoken_disabled":        func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.subtokenEnabled.set(w, 2, false) },
	"transfer_stake_disallowed":          func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.transferToggle.set(w, 2, false) },
	"add_stake_no_liquidity": func(rt *runtime, w writer, _ recordedExtrinsic) {
		rt.subnets.subnetTAO.set(w, 2, 1)
		rt.subnets.subnetAlphaIn.set(w, 2, 1)
	},
	"root_register_block_limit":    func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.maxRegistrationsPerBlock.set(w, 0, 0) },
	"root_register_interval_limit": func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.registrationsThisInterval.set(w, 0, 6) },
	"root_register_stake_too_low":  func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.maxAllowedUids.set(w, 0, 1) },
	"set_weights_version_key":      func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.versionKey.set(w, 2, 5) },
	"set_weights_version_key_ok":   func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.versionKey.set(w, 2, 5) },
	"set_weights_too_few":          func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.minAllowedWeights.set(w, 2, 3) },
	"set_weights_max_limit":        func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.maxWeightsLimit.set(w, 2, 40000) },
	"set_weights_too_fast":         slowWeights,
	"set_weights_too_fast_cr_on": func(rt *runtime, w writer, c recordedExtrinsic) {
		slowWeights(rt, w, c)
		commitRevealIs(true)(rt, w, c)
	},
	"set_weights_cr_on":                        commitRevealIs(true),
	"reveal_weights_cr_off":                    commitRevealIs(false),
	"commit_timelocked_cr_off":                 commitRevealIs(false),
	"trigger_epoch_cr_on":                      commitRevealIs(true),
	"set_weights_root_cr_off":                  func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.commitReveal.set(w, 0, false) },
	"set_weights_no_subnet_cr_off":             func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.commitReveal.set(w, 900, false) },
	"set_weights_low_stake":                    highThreshold,
	"set_weights_owner_low_stake":              highThreshold,
	"commit_weights_low_stake":                 highThreshold,
	"commit_timelocked_low_stake":              highThreshold,
	"commit_weights_too_fast":                  slowWeights,
	"commit_timelocked_too_fast":               slowWeights,
	"batch_nested_set_weights_too_fast":        slowWeights,
	"batch_nested_set_weights_too_fast_funded": slowWeights,
	"batch_all_nested_set_weights_too_fast":    slowWeights,
	"commit_weights_too_many": func(rt *runtime, w writer, c recordedExtrinsic) {
		commits := make([]weightCommit, maxCommits)
		for i := range commits {
			commits[i] = weightCommit{account{byte(i)}, rt.subnets.epochIndex.get(w, 2), c.AtBlock, 0}
		}
		rt.subnets.weightCommits.set(w, 2, ss58(c.Signer.SS58), commits)
	},
	"commit_timelocked_too_many": func(rt *runtime, w writer, c recordedExtrinsic) {
		commits := make([]timelockedCommit, maxCommits)
		for i := range commits {
			commits[i] = timelockedCommit{ss58(c.Signer.SS58), c.AtBlock, []byte{1}, math.MaxUint64}
		}
		now := rt.subnets.epochIndex.get(w, 2)
		rt.subnets.timelockedWeightCommits.set(w, 2, now, commits)
		rt.subnets.timelockedWeightCommits.set(w, 2, now+1, commits)
	},
	"commit_timelocked_old_round":     pulsesUpTo5000,
	"commit_timelocked_equal_round":   pulsesUpTo5000,
	"set_tempo":                       window(0),
	"admin_owner":                     window(0),
	"trigger_epoch":                   window(4),
	"trigger_epoch_imminent":          window(50),
	"set_tempo_freeze":                window(50),
	"trigger_epoch_pending":           func(rt *runtime, w writer, c recordedExtrinsic) { rt.subnets.pendingEpochAt.set(w, 2, c.AtBlock+9) },
	"set_commitment_space":            func(rt *runtime, w writer, _ recordedExtrinsic) { rt.commitments.maxSpace.set(w, 100) },
	"register_network_foreign_hotkey": func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.networkRateLimit.set(w, 0) },
	"register_network_poor": func(rt *runtime, w writer, c recordedExtrinsic) {
		rt.subnets.networkRateLimit.set(w, 0)
		rt.system.account.set(w, ss58(c.Signer.SS58), accountInfo{free: 1e9, providers: 1, flags: newLogic})
	},
	"batch_all_register_network": func(rt *runtime, w writer, _ recordedExtrinsic) {
		rt.subnets.owner.set(w, recordedForeign, account{1})
	},
	"poor_fee": func(rt *runtime, w writer, c recordedExtrinsic) {
		rt.system.account.set(w, ss58(c.Signer.SS58), accountInfo{free: 1e9, providers: 1, flags: newLogic})
	},
	"transfer_all": func(rt *runtime, w writer, c recordedExtrinsic) {
		// The amount that the record shows, and the fee.
		rt.system.account.set(w, ss58(c.Signer.SS58), accountInfo{free: 999_999_994_472_939 + 174_615, providers: 1, flags: newLogic})
	},
}

func announced(rt *runtime, w writer, c recordedExtrinsic) {
	rt.subnets.coldkeySwapAnnouncements.set(w, ss58(c.Signer.SS58), swapAnnouncement{block: 1})
}

func noServingLimit(rt *runtime, w writer, _ recordedExtrinsic) {
	rt.subnets.servingRateLimit.set(w, 2, 0)
}

func slowWeights(rt *runtime, w writer, _ recordedExtrinsic) {
	rt.subnets.weightsRateLimit.set(w, 2, 100)
}

func highThreshold(rt *runtime, w writer, _ recordedExtrinsic) {
	rt.subnets.stakeThreshold.set(w, 1e18)
}

func pulsesUpTo5000(rt *runtime, w writer, _ recordedExtrinsic) { rt.drand.lastStored.set(w, 5000) }

func commitRevealIs(on bool) func(rt *runtime, w writer, c recordedExtrinsic) {
	return func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.commitReveal.set(w, 2, on) }
}

func window(blocks uint16) func(rt *runtime, w writer, c recordedExtrinsic) {
	return func(rt *runtime, w writer, _ recordedExtrinsic) { rt.subnets.adminFreezeWindow.set(w, blocks) }
}
