// Package wirepb is the generated form of the messages between a miner and its executors; it refuses to know our nouns.
package wirepb
