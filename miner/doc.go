// Package miner is the role of a GPU owner: it enrolls executors, places and follows tasks, and grants validators access.
// It knows neither SQL nor a wire; it decides, and rooms that node hands to it do the rest.
package miner
