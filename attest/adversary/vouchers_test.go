package adversary

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"basilica/attest"
	"basilica/attest/attestpb"
	"basilica/keys"
)

// device is a confidential-computing report that a device once gave to another nonce, with its chain and the root that is pinned.
type device struct{ report, chain, root []byte }

// fixture is that of attest's tests, whose keys were thrown away.
var fixture = sync.OnceValue(func() device {
	read := func(name string) []byte { return must(os.ReadFile(filepath.Join("..", "testdata", "ccreport", name))) }
	root, _ := pem.Decode(read("root.pem"))
	return device{read("report.bin"), read("chain.pem"), root.Bytes}
})

// impostor is a device that nobody vouches for but itself.
var impostor = sync.OnceValues(func() (key *ecdsa.PrivateKey, chain []byte) {
	key = must(ecdsa.GenerateKey(elliptic.P384(), cryptorand.Reader))
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a device"}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Unix(1_700_000_000, 0), NotAfter: time.Unix(2_000_000_000, 0),
	}
	der := must(x509.CreateCertificate(cryptorand.Reader, c, c, &key.PublicKey, key))
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
})

// Places in a report: of the nonce in the request, and of the signature from the end.
const (
	reportNonce     = 4
	reportSignature = 96
)

// answering is the report with the nonce of a run put in; the signature is as it was.
func answering(report, transcript []byte) []byte {
	report = slices.Clone(report)
	copy(report[reportNonce:], transcript)
	return report
}

// impersonated is a report signed by the impostor.
func impersonated(report []byte) []byte {
	key, _ := impostor()
	sum := sha512.Sum384(report[:len(report)-reportSignature])
	r, s, err := ecdsa.Sign(cryptorand.Reader, key, sum[:])
	must(0, err)
	sig := report[len(report)-reportSignature:]
	r.FillBytes(sig[:len(sig)/2])
	s.FillBytes(sig[len(sig)/2:])
	return report
}

// quote is what a TPM would say over a nonce (TPM 2.0 Library, Part 2, section 10.12.12), signed by a key.
func quote(nonce []byte, k *keys.P256) []byte {
	sized := func(b, x []byte) []byte { return append(binary.BigEndian.AppendUint16(b, uint16(len(x))), x...) }
	b := binary.BigEndian.AppendUint32(nil, 0xff544347)
	b = binary.BigEndian.AppendUint16(b, 0x8018)
	b = sized(sized(b, append([]byte{0, 0x0b}, make([]byte, 32)...)), nonce)
	b = append(b, make([]byte, 8+4+4)...) // clock, resets, restarts
	b = append(b, 1)                      // safe
	b = append(b, make([]byte, 8)...)     // firmware
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint16(b, 0x000b)
	b = sized(append(b, 3, 0xff, 0, 0), make([]byte, 32))
	return append(sized(nil, b), must(k.Sign(b))...)
}

// vouchers show what others are to have vouched for. Their proofs hold, and count for no more than a proof without: as one of a
// machine whose report or quote was refused.
func vouchers() (cs []class) {
	const held = "flagged: PASS"
	// why is in what a validator reads of a report that it refuses.
	reported := func(attack, why string, forge func(transcript []byte) (report, chain []byte)) class {
		c := told("CC report: "+attack, "11 CC report", func(c *challenge) {
			c.setup.Policy.CCRoot = fixture().root
			c.statement = func(_ *run, st *attestpb.Statement) { st.CcReport, st.CcChain = forge(st.GetTranscript32()) }
		}, held)
		c.believed = func(_ *challenge, j attest.Judgement) bool {
			return j.CCReport == nil || j.CCReport.Verified || !strings.Contains(j.CCReport.Detail, why) || j.Class != attest.ClassSoftware
		}
		return c
	}
	quoted := func(attack string, forge func(c *challenge, transcript []byte) []byte) class {
		c := told("TPM quote: "+attack, "11 TPM quote", func(c *challenge) {
			c.greet.TPM, c.greet.Caps = true, 1
			c.statement = func(_ *run, st *attestpb.Statement) { st.TpmQuote = forge(c, st.GetTranscript32()) }
		}, held)
		c.believed = func(c *challenge, j attest.Judgement) bool {
			return j.Class != attest.ClassSoftware || verifiedQuote(c.run.frames, j)
		}
		return c
	}
	return []class{
		reported("that of another run", "another nonce", func([]byte) (report, chain []byte) { return fixture().report, fixture().chain }),
		reported("another run's with this one's nonce put in", "signature does not verify", func(transcript []byte) (report, chain []byte) {
			return answering(fixture().report, transcript), fixture().chain
		}),
		reported("signed under a root of its own", "pinned root", func(transcript []byte) (report, chain []byte) {
			_, own := impostor()
			return impersonated(answering(fixture().report, transcript)), own
		}),
		reported("signed by a key of its own, with a device's chain", "signature does not verify", func(transcript []byte) (report, chain []byte) {
			return impersonated(answering(fixture().report, transcript)), fixture().chain
		}),
		reported("a certificate of its own in front of a device's chain", "pinned root", func(transcript []byte) (report, chain []byte) {
			_, own := impostor()
			return impersonated(answering(fixture().report, transcript)), slices.Concat(own, fixture().chain)
		}),
		quoted("that of another run", func(c *challenge, _ []byte) []byte { return quote(noise(c.rng, 32), c.lab.key) }),
		quoted("signed by another key", func(c *challenge, transcript []byte) []byte { return quote(transcript, c.lab.other) }),
		quoted("one bit changed", func(c *challenge, transcript []byte) []byte { return flipped(c.rng, quote(transcript, c.lab.key)) }),
		quoted("none, though HELLO says that the key lives in a TPM", func(*challenge, []byte) []byte { return nil }),
	}
}

// verifiedQuote says that the EVIDENCE among frames has a quote that holds for the judgement.
func verifiedQuote(frames []attest.Frame, j attest.Judgement) bool {
	var e attestpb.Evidence
	var st attestpb.Statement
	must(0, unpack(frames[len(frames)-1], &e))
	must(0, proto.Unmarshal(e.GetPayload(), &st))
	_, err := attest.VerifyTPMQuote(j.SPKI, st.GetTpmQuote(), j.Transcript)
	return err == nil && bytes.Equal(st.GetTranscript32(), j.Transcript[:])
}
