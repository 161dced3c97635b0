// Package official drives the official clients of Bittensor, as they are installed by scripts/official.sh, against localnet
// and the axon's bridge: polkadot.js, bittensor 11.3.0 and 10.5.0, each SDK with the btcli of its time. It holds tests alone.
package official
