package basilica

// fleetCodes are what a miner's owner and its machines meet with identities, keys and the fleet's verbs.
var fleetCodes = []Explanation{
	{"BAD_LIMIT", "the number of rows of a page is no number from 1 up", "a list is given in pages", "write a number from 1 up"},
	{"CERTIFICATE_EARLY", "a certificate begins later than the clock of who reads it", "the reader's clock is behind, or the clock that dated the certificate was ahead and has been set back since; the sentence says by how many seconds", "set both clocks by NTP; an executor replaces such a certificate by itself"},
	{"CERTIFICATE_ENDED", "a peer's certificate has ended by this machine's clock", "this machine's clock is far ahead, or the peer has run with one certificate for a year", "set the clock by NTP; if it is right, restart the other end"},
	{"CERTIFICATE_ENDS", "an executor's certificate ends soon and was not renewed", "an executor renews when a third of the certificate's life is left; this one did not run, or could not reach its miner", "start the executor; after the certificate's end it must join again"},
	{"CERTIFICATE_FOREIGN", "a certificate is not of this fleet", "another miner's authority made it, or this miner's keys were rotated while the machine was away", "join the machine to this miner with a new token"},
	{"CERTIFICATE_REPLACED", "a certificate was replaced by a newer one", "a miner takes an executor's latest certificate and the one before it; an older one is on a copied disk or in an old backup", "stop the copy; else join the machine again with a new token"},
	{"DISPLAY_NAME", "a name cannot be shown", "a name is at most 128 printable characters", "choose another name"},
	{"DRAIN_DEADLINE", "a drain cannot wait for so long", "a deadline is between nothing and 30 days", "write it like 30m or 1h"},
	{"DRAIN_UNDONE", "an executor takes tasks again while its drain was waited for", "somebody has undone the drain", "drain it again"},
	{"EXECUTOR_CLOCK", "an executor's clock is off by more than a minute", "its doors would refuse what the miner signs, so no task and no validator is sent to it; the sentence says by how many seconds", "set the clock of that machine by NTP: timedatectl set-ntp true"},
	{"EXECUTOR_OTHER", "another machine answers at an executor's address", "its address was given to another machine, or names the wrong port", "join the executor again, so that the miner learns its address"},
	{"EXECUTOR_REVOKED", "an executor was revoked by its miner's owner", "basilica fleet revoke ends a membership at once: certificates, connections and tasks", "make a new token on the miner, then run basilica join TOKEN on the machine"},
	{"EXECUTOR_UNREACHABLE", "an executor is heard of, but its miner cannot dial it", "a firewall, a translated address, or an address that has changed; the sentence names door, address and what the network said", "open that port of the machine to the miner; where its address has changed, join it again"},
	{"EXECUTOR_VERSION", "executor and miner run different versions", "one of them was updated alone", "install the miner's version on that machine and restart it"},
	{"IDENTITY_TWICE", "two machines speak as one executor", "the disk of one is a copy of the other's; the first is served, the second refused", "stop the copy, empty its data directory, and join it with a token of its own"},
	{"LABELS_FULL", "an executor would have more than 64 labels", "labels are for a person's own order", "remove some: basilica fleet label EXECUTOR KEY-"},
	{"PEER_FOREIGN", "who answers is not of this fleet", "another program or another miner's machine has that address", "check the address"},
	{"REACH_RATE", "an executor asks its miner too often whether it can be reached", "each question has the miner dial both doors", "wait a minute"},
	{"RENEWAL_UNFIT", "the certificate that the miner sent does not fit the machine", "it is for another machine or key, or is not in force by this machine's clock", "set both clocks by NTP; the machine asks again by itself"},
	{"RENEW_INVALID", "a request for a certificate is not valid", "the two programs are of different versions", "use the same version of basilica on both machines"},
	{"RENEW_KEY", "a renewal asks for another key than the enrolled one", "receipts and proofs are pinned to the key of the enrolment", "join the machine again with a new token"},
	{"RENEW_RATE", "an executor asks for certificates too often", "renewals are limited per executor", "wait a minute"},
	{"TOKEN_OTHER_MINER", "who answers at a join token's address is not the miner that made the token", "another machine has that address, or the miner's keys were rotated after the token was made", "make a new token on the miner: basilica token create"},
}
