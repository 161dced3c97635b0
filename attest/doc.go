// Package attest is the GPU proof GPOW1: the challenge, the reference prover, the verifier, signed evidence, the delay
// function and the record of a run, both ends; it refuses to know clocks, connections, goroutines and drivers.
//
// The integers and bytes are those of the project's specification of the proof (gpu-proof.md). Two state machines
// speak the protocol: Verifier for the validator, Prover for the attestor. Neither does I/O. A validator's loop over a
// connection with deadlines:
//
//	v, err := attest.NewVerifier(setup, rand.Reader, sign)
//	for !v.Done() {
//		conn.SetDeadline(v.Deadline())
//		if f, ok := v.Next(); ok { // a frame to write; Sent starts the clock of its answer
//			_, err := conn.Write(f)
//			… v.Fail(attest.FailureOf(err), err.Error(), now()) on error, else v.Sent(now())
//			continue
//		}
//		f, err := attest.ReadFrame(conn, v.Cap)
//		… v.Fail as above on error, else v.Receive(f, now())
//	}
//	judgement := v.Judgement()
//	record, err := v.Record() // record.WriteTo(file); ReadRecord and Judge verify it again, offline
//
// drive in drive_test.go is that loop in full. Fail after the decision only drops what was still to be sent, so the
// loop ends in any case. Nothing but PASS means that a machine was proven, and the zero Result is not PASS.
package attest
