package attestor

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"

	"basilica/attest"
)

// SoftwareMemory is what a software device says it has, in bytes; its challenges take a few MiB of it.
const SoftwareMemory = 64 << 20

// Worker is a Device that does not say what it is: attest.CPU, or in tests of validators one that lies.
type Worker interface {
	Fill(ctx context.Context, p attest.Params, seed attest.Digest) (layerRoots []attest.Node, err error)
	Walk(ctx context.Context, key attest.Digest) (batchRoots []attest.Node, err error)
	Mix(ctx context.Context, key attest.Digest) (lastRoot attest.Node, err error)
	Trace(ctx context.Context) (otherRoots []attest.Node, err error)
	Block(ctx context.Context, i uint64) ([]byte, error)
	Open(ctx context.Context, q attest.OpenRequest) (attest.Opened, error)
	Release()
}

// software is the CPU prover as a Device.
type software struct {
	Worker
	info attest.DeviceInfo
}

// Info describes the device, labelled as software.
func (s software) Info() attest.DeviceInfo { return s.info }

// NewSoftware makes software device number index of the machine with this attestation key. Its UUID follows from both.
func NewSoftware(spki []byte, index int, w Worker) Device {
	return software{Worker: w, info: attest.DeviceInfo{
		UUID: SoftwareUUID(spki, index), Name: "software", VRAMBytes: SoftwareMemory, FreeBytes: SoftwareMemory, Software: true,
	}}
}

// SoftwareUUID is the UUID (version 8) of software device number index of the machine with this attestation key.
func SoftwareUUID(spki []byte, index int) attest.UUID {
	b := append([]byte("BSLSOFT\x00"), spki...)
	h := sha256.Sum256(binary.LittleEndian.AppendUint32(b, uint32(index)))
	u := attest.UUID(h[:16])
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}

// Workers gives a Parallel of so many goroutines; 0 or less means one per processor that Go may use.
func Workers(n int) attest.Parallel {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	if n == 1 {
		return attest.Serial
	}
	return func(items int, f func(i int)) {
		var next atomic.Int64
		var wg sync.WaitGroup
		for range min(n, items) {
			wg.Go(func() {
				for i := int(next.Add(1)) - 1; i < items; i = int(next.Add(1)) - 1 {
					f(i)
				}
			})
		}
		wg.Wait()
	}
}
