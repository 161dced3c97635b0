package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"basilica/client"
)

// secondInterrupt gives a context that ends with the second signal of this process: the first one ends the verb's own.
// After stop, and after the second signal, the next one kills.
func secondInterrupt() (leave context.Context, stop func()) {
	leave, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer signal.Stop(signals)
		for range 2 {
			select {
			case <-signals:
			case <-leave.Done():
				return
			}
		}
		cancel()
	}()
	return leave, cancel
}

// exitCodes is the table of `run --help` and `attach --help`.
const exitCodes = `Exit codes:
  0..255  the job's own, as its command gave it
  122     lost: the machine went away, what the job did there is unknown
  123     this command ended before the job did: left by a second Ctrl-C, or the miner is away
  124     timed out: over --max-seconds
  125     Basilica failed before the job, or does not trust what came back; stderr has a code
  126     the job's command never ran: no machine takes it, no such image
  127     the image has no such command, as a shell says it
  130     cancelled
A job may end with one of these itself; --json has the state apart from the code.`

const interrupts = `Ctrl-C (or SIGTERM) cancels the job after two seconds and waits for its end. A second one
within the two seconds leaves the job running; a later one leaves without waiting.`

// codeOf gives an error of a followed task its exit code.
func codeOf(err error) error {
	if coded := (exit{}); errors.As(err, &coded) {
		return err
	}
	return exit{client.ExitCodeOf(err), err}
}
