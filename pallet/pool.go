package pallet

// PoolError names the reason byte with which the pool refuses a transaction
// ("Custom error: N"), in the words of subtensor's CustomTransactionError.
func PoolError(n uint8) string {
	names := [...]string{
		"ColdkeyInSwapSchedule", "StakeAmountTooLow", "BalanceTooLow", "SubnetNotExists",
		"HotkeyAccountDoesntExist", "NotEnoughStakeToWithdraw", "RateLimitExceeded", "InsufficientLiquidity",
		"SlippageTooHigh", "TransferDisallowed", "HotKeyNotRegisteredInNetwork", "InvalidIpAddress",
		"ServingRateLimitExceeded", "InvalidPort", "ZeroMaxAmount", "InvalidRevealRound",
		"CommitNotFound", "CommitBlockNotInRevealRange", "InputLengthsUnequal", "UidNotFound",
		"EvmKeyAssociateRateLimitExceeded", "ColdkeySwapDisputed", "InvalidRealAccount", "FailedShieldedTxParsing",
		"InvalidShieldedTxPubKeyHash", "NonAssociatedColdKey", "DelegateTakeTooLow", "DelegateTakeTooHigh",
	}
	if int(n) < len(names) {
		return names[n]
	}
	if n == 255 {
		return "BadRequest"
	}
	return "Unknown"
}
