package basilica

// chainCodes are about the chain and its node. The chain's own refusals have a dot in their names and come from its metadata.
var chainCodes = []Explanation{
	{"ADDRESS", "that is not an SS58 address of this network", "it was cut, mistyped, or is of another network", "give an address of 48 characters that begins with 5"},
	{"BALANCE_SHORT", "the balance does not cover a call and its fee", "nothing was sent; the price may have risen, or the money is on another key", "send TAO to the key that pays, or choose a smaller amount"},
	{"BLOCK_UNKNOWN", "the node does not know a block", "it is not synchronised, or has dropped old blocks", "use a node that is synchronised; for old blocks an archive node"},
	{"BURN_SHARE", "the burn share is outside 0..1", "it is a part of the whole", "set burn_share between 0 and 1"},
	{"CALL_MISSING", "the chain's runtime has no such call", "it is older than the call, or has dropped it", "use a node of a later runtime, or another verb that does the same"},
	{"CHAIN_API_MISSING", "the node does not answer a question that its runtime should know", "its runtime is too old, or the node hides its runtime APIs", "use a node of a later runtime"},
	{"CHAIN_BUSY", "the chain's node limits how often it may be asked", "public nodes serve many", "wait a little, or use a node of your own"},
	{"CHAIN_GENESIS", "the node is of another chain", "its block 0 is not the one that is stored here", "point the configuration at a node of the right network, or use a new data directory for a new chain"},
	{"CHAIN_NOT_READ", "the metagraph has not been read yet", "the node has not answered since the start", "check [chain] url and that the node answers"},
	{"CHAIN_REFUSED", "the node did not take a transaction", "its own words stand behind the sentence", "try again in a moment"},
	{"CHAIN_STALE", "the metagraph was not read lately", "the node does not answer; permits that may have ended are not honoured", "check [chain] url and that the node answers; come again in a minute"},
	{"CHAIN_STOPPED", "the localnet makes no more blocks", "its process is stuck or its disk is full", "restart the localnet and read its log"},
	{"CHAIN_UNREACHABLE", "the chain's node does not answer", "it does not run, or its address is wrong", "check that the node runs and that its address in the configuration is right"},
	{"COMMITMENT_SIZE", "a commitment is longer than the chain takes", "one field holds 512 bytes at most", "publish a hash or an address of it instead"},
	{"COMMIT_REVEAL", "the subnet takes weights by commit-reveal only", "this version sets plain weights", "ask the subnet's owner to switch commit-reveal off, or set weights with another tool"},
	{"COMMIT_REVEAL_ON", "the subnet takes commitments of weights only", "this version sets plain weights", "ask the subnet's owner to switch commit-reveal off"},
	{"REGISTRATION_CAP", "a registration needs a highest price that the chain can hold to", "the price moves between asking and paying", "give the highest price that you are ready to pay, and use a node of a runtime that can cap it"},
	{"STALE_METAGRAPH", "the node's metagraph is older than a block that was finalized already", "the node lags behind, or another one answered", "use a node that is synchronised"},
	{"SUBNET_OWNER", "the subnet belongs to another coldkey", "only its owner may do this", "sign with the coldkey that owns the subnet"},
	{"SUBNET_UNKNOWN", "the chain has no such subnet", "netuid is wrong, or the node is of another network", "check netuid in the configuration, and that the node is of the right network"},
	{"TRANSACTION_DROPPED", "the node gave a transaction up", "its pool was full, or it became invalid", "try again; if it goes on, ask another node"},
	{"TRANSACTION_LOST", "a transaction is in no block up to its last", "it was never included and can take no effect any more", "try again; it can take no effect any more"},
	{"TRANSACTION_USURPED", "another transaction of the same key took this one's place", "two programs sign with one key", "make sure that only one program uses this key, and try again"},
}
