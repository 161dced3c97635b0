package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// testDevice is a certificate authority of our own, in the shape of a GPU vendor's, and a device key under it. Nothing of it
// is NVIDIA's.
type testDevice struct {
	key   *ecdsa.PrivateKey
	root  *x509.Certificate
	chain []byte // PEM, device first
	fwid  []byte
}

// ccYear is when the certificates of the fixture are valid: from its first day on, without an end (RFC 5280, section 4.1.2.5).
const ccYear = 2024

func newTestDevice(t testing.TB, curve elliptic.Curve, leafUsage x509.KeyUsage) *testDevice {
	t.Helper()
	d := &testDevice{fwid: bytes.Repeat([]byte{0xf1}, 48)}
	var parent *x509.Certificate
	var parentKey *ecdsa.PrivateKey
	var certs [][]byte
	names := []pkix.Name{
		{CommonName: "Basilica Test Device Root"},
		{CommonName: "Basilica Test Model"},
		{CommonName: "Basilica Test Device Identity", SerialNumber: "TEST0001"},
		{CommonName: "Basilica Test Firmware"},
	}
	for i, name := range names {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: name, SignatureAlgorithm: x509.ECDSAWithSHA384,
			NotBefore: time.Date(ccYear, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		}
		if i < len(names)-1 {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		} else {
			if key, err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
				t.Fatal(err)
			}
			c.KeyUsage = leafUsage
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 23, 133, 5, 4, 1}, Value: compositeID(t, key, d.fwid)}}
		}
		if parent == nil {
			parent, parentKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
		if err != nil {
			t.Fatal(err)
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		if parentKey = key; i == 0 {
			d.root = parent
		}
		certs = append(certs, der)
	}
	d.key = parentKey
	slices.Reverse(certs)
	d.chain = pemChain(certs)
	return d
}

func pemChain(certs [][]byte) (out []byte) {
	for _, der := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// certsOf takes a chain apart.
func certsOf(chain []byte) (certs [][]byte) {
	for {
		block, rest := pem.Decode(chain)
		if block == nil {
			return certs
		}
		certs, chain = append(certs, block.Bytes), rest
	}
}

func compositeID(t testing.TB, key *ecdsa.PrivateKey, fwid []byte) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	type firmware struct {
		Algorithm asn1.ObjectIdentifier
		Digest    []byte
	}
	b, err := asn1.Marshal(struct {
		Version int
		Key     asn1.RawValue
		FWID    firmware
	}{1, asn1.RawValue{FullBytes: spki}, firmware{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, fwid}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ccBody is a report without its signature.
func ccBody(nonce [32]byte, fields map[uint16][]byte) []byte {
	b := append([]byte{spdmVersion, spdmRequest, 1, 0xff}, nonce[:]...)
	b = append(b, 0) // slot
	var record []byte
	for i := range 64 {
		record = append(record, byte(i+1), spdmDMTF, 51, 0, 1, 48, 0)
		sum := sha512.Sum384([]byte{byte(i)})
		record = append(record, sum[:]...)
	}
	b = append(b, spdmVersion, spdmResponse, 0, 0, 64, byte(len(record)), byte(len(record)>>8), 0)
	b = append(b, record...)
	b = append(b, bytes.Repeat([]byte{0x77}, 32)...)
	var opaque []byte
	for kind := range uint16(30) {
		if data, ok := fields[kind]; ok {
			opaque = binary.LittleEndian.AppendUint16(opaque, kind)
			opaque = binary.LittleEndian.AppendUint16(opaque, uint16(len(data)))
			opaque = append(opaque, data...)
		}
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(opaque)))
	return append(b, opaque...)
}

func (d *testDevice) sign(t testing.TB, body []byte) []byte {
	t.Helper()
	sum := sha512.Sum384(body)
	r, s, err := ecdsa.Sign(rand.Reader, d.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, ccSignatureBytes)
	r.FillBytes(sig[:ccSignatureBytes/2])
	s.FillBytes(sig[ccSignatureBytes/2:])
	return append(bytes.Clone(body), sig...)
}

// report is what the device answers to a nonce.
func (d *testDevice) report(t testing.TB, nonce [32]byte) []byte {
	t.Helper()
	return d.sign(t, ccBody(nonce, map[uint16][]byte{ccFieldDriver: []byte("000.00.test\x00"), ccFieldVBIOS: {1, 2, 3, 4}, ccFieldFWID: d.fwid}))
}

// NewCCDevice is a test device for whole runs: its root (DER), and its report and chain for a nonce.
func NewCCDevice(t testing.TB) (root []byte, answer func(nonce Digest) (report, chain []byte)) {
	d := newTestDevice(t, elliptic.P384(), x509.KeyUsageDigitalSignature)
	return d.root.Raw, func(nonce Digest) (report, chain []byte) { return d.report(t, nonce), d.chain }
}

var ccTime = time.Date(ccYear, 6, 1, 0, 0, 0, 0, time.UTC)

// The fixture: a report, its chain and the root of a test authority, whose keys were thrown away. BASILICA_UPDATE=1 makes
// another one.
func ccFixture(t testing.TB) (report, chain []byte, root *x509.Certificate) {
	t.Helper()
	file := func(name string) string { return filepath.Join("testdata", "ccreport", name) }
	if os.Getenv("BASILICA_UPDATE") != "" {
		d := newTestDevice(t, elliptic.P384(), x509.KeyUsageDigitalSignature)
		for name, b := range map[string][]byte{
			"report.bin": d.report(t, [32]byte(ramp(0, 32))), "chain.pem": d.chain, "root.pem": pemChain([][]byte{d.root.Raw}),
		} {
			if err := os.WriteFile(file(name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(file(name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	root, err := x509.ParseCertificate(certsOf(read("root.pem"))[0])
	if err != nil {
		t.Fatal(err)
	}
	return read("report.bin"), read("chain.pem"), root
}

func TestCCReport(t *testing.T) {
	t.Parallel()
	report, chain, root := ccFixture(t)
	nonce := [32]byte(ramp(0, 32))
	r, err := VerifyCCReport(report, chain, nonce, root, ccTime)
	if err != nil {
		t.Fatal(err)
	}
	want := sha512.Sum384([]byte{41})
	if r.Driver() != "000.00.test" || r.Device != "TEST0001" || len(r.Measurements) != 64 || !bytes.Equal(r.Measurements[42], want[:]) || !bytes.Equal(r.VBIOS(), []byte{1, 2, 3, 4}) || r.Nonce != nonce {
		t.Errorf("%+v", r)
	}
	refused := func(name string, report, chain []byte, nonce [32]byte, root *x509.Certificate, at time.Time) {
		t.Helper()
		if r, err := VerifyCCReport(report, chain, nonce, root, at); !errors.Is(err, ErrCCReport) || r != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := 0; i < len(report); i += 397 { // every byte is under the signature
		b := bytes.Clone(report)
		b[i] ^= 0x40
		refused("a changed byte", b, chain, nonce, root, ccTime)
	}
	for _, b := range [][]byte{nil, report[:100], report[1:], report[:len(report)-1], append(bytes.Clone(report), 0), make([]byte, maxCCReport+1)} {
		refused("another length", b, chain, nonce, root, ccTime)
	}
	refused("another nonce", report, chain, [32]byte{}, root, ccTime)
	refused("before its time", report, chain, nonce, root, ccTime.AddDate(-1, 0, 0))
	certs := certsOf(chain)
	other := newTestDevice(t, elliptic.P384(), x509.KeyUsageDigitalSignature)
	refused("another root of the same name", report, chain, nonce, other.root, ccTime)
	refused("the chain of another device", report, other.chain, nonce, root, ccTime)
	refused("no chain", report, nil, nonce, root, ccTime)
	refused("device alone", report, pemChain(certs[:1]), nonce, root, ccTime)
	refused("a link left out", report, pemChain(slices.Delete(slices.Clone(certs), 1, 2)), nonce, root, ccTime)
	refused("from the root down", report, pemChain([][]byte{certs[3], certs[2], certs[1], certs[0]}), nonce, root, ccTime)
	refused("not PEM", report, append(slices.Clone(chain), "more"...), nonce, root, ccTime)
	refused("too many", report, pemChain(slices.Repeat(certs, 3)), nonce, root, ccTime)
	refused("too long", report, append(slices.Clone(chain), make([]byte, maxCCChain)...), nonce, root, ccTime)
	refused("no certificate", report, pemChain([][]byte{{1, 2, 3}}), nonce, root, ccTime)
	if _, err := VerifyCCReport(report, pemChain(certs[:3]), nonce, root, ccTime); err != nil {
		t.Errorf("a chain without its root: %v", err)
	}
}

// TestCCReportOfAnotherKind: signed in order, but not what a device may sign, or may sign with.
func TestCCReportOfAnotherKind(t *testing.T) {
	t.Parallel()
	var nonce [32]byte
	good := newTestDevice(t, elliptic.P384(), x509.KeyUsageDigitalSignature)
	if _, err := VerifyCCReport(good.report(t, nonce), good.chain, nonce, good.root, ccTime); err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]*testDevice{
		"a key of P-256":              newTestDevice(t, elliptic.P256(), x509.KeyUsageDigitalSignature),
		"a key that may not sign":     newTestDevice(t, elliptic.P384(), x509.KeyUsageKeyAgreement),
		"other firmware than its key": func() *testDevice { d := *good; d.fwid = bytes.Repeat([]byte{0xf2}, 48); return &d }(),
	} {
		if _, err := VerifyCCReport(d.report(t, nonce), d.chain, nonce, d.root, ccTime); !errors.Is(err, ErrCCReport) {
			t.Errorf("%s: %v", name, err)
		}
	}
	body := ccBody(nonce, nil)
	edit := func(at int, b ...byte) []byte {
		out := bytes.Clone(body)
		copy(out[at:], b)
		return out
	}
	for name, b := range map[string][]byte{
		"SPDM 1.2":                  edit(0, 0x12),
		"a challenge":               edit(1, 0x83),
		"an answer of SPDM 1.0":     edit(37, 0x10),
		"an error":                  edit(38, 0x7f),
		"no measurements":           edit(41, 0),
		"a measurement less":        edit(41, 63),
		"a measurement more":        edit(41, 65),
		"a longer record":           edit(42, 0xff, 0xff, 0xff),
		"another specification":     edit(46, 2),
		"an index twice":            edit(45+55, 1),
		"a measurement longer":      edit(47, 52),
		"a value longer":            edit(50, 49),
		"opaque data longer":        edit(len(body)-2, 1),
		"a field without a header":  append(edit(len(body)-2, 3), 1, 0, 0),
		"a field longer":            append(edit(len(body)-2, 5), 3, 0, 2, 0, 9),
		"a field twice":             append(edit(len(body)-2, 8), 3, 0, 0, 0, 3, 0, 0, 0),
		"bytes after the signature": append(bytes.Clone(body), 0),
	} {
		report := good.sign(t, b)
		if _, err := VerifyCCReport(report, good.chain, nonce, good.root, ccTime); !errors.Is(err, ErrCCReport) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A report without fields has nothing to compare and holds.
	if _, err := VerifyCCReport(good.sign(t, body), good.chain, nonce, good.root, ccTime); err != nil {
		t.Error(err)
	}
}

func TestClasses(t *testing.T) {
	t.Parallel()
	for s, want := range map[Shown]Class{
		{}: ClassA, {TPMKey: true}: ClassB, {CCReport: true}: ClassA, {CPUQuote: true}: ClassA,
		{TPMKey: true, CCReport: true}: ClassB, {CPUQuote: true, CCReport: true}: ClassC, {true, true, true}: ClassC,
	} {
		if got := s.Class(); got != want {
			t.Errorf("%+v is of class %s, want %s", s, got, want)
		}
	}
}

func FuzzParseCCReport(f *testing.F) {
	report, _, _ := ccFixture(f)
	f.Add(report)
	f.Add(append(ccBody([32]byte{1}, nil), make([]byte, ccSignatureBytes)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseCCReport(b)
		if err != nil {
			if !errors.Is(err, ErrCCReport) {
				t.Fatal(err)
			}
			return
		}
		total := ccRequestBytes + ccResponseHeader + 34 + ccSignatureBytes
		for _, m := range r.Measurements {
			total += 7 + len(m)
		}
		for _, d := range r.Fields {
			total += 4 + len(d)
		}
		if total != len(b) || len(r.Measurements) == 0 {
			t.Fatalf("%d of %d bytes are accounted for", total, len(b))
		}
	})
}

// FuzzVerifyDevice reads any chain: nothing but one that leads to the pinned root may be taken.
func FuzzVerifyDevice(f *testing.F) {
	_, chain, root := ccFixture(f)
	f.Add(chain)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	leaf := certsOf(chain)[0]
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := verifyDevice(b, root, ccTime)
		if err == nil && !bytes.Equal(c.Raw, leaf) || err != nil && !errors.Is(err, ErrCCReport) {
			t.Fatalf("%v", err)
		}
	})
}
