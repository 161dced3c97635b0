package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// A confidential-computing (CC) report is the pair of SPDM messages in which a GPU speaks of itself (gpu-proof.md section
// 11; DSP0274 1.1): the GET_MEASUREMENTS request of 37 bytes, then the MEASUREMENTS response, signed by a key of the device
// over both. Integers are little-endian, the signature is r | s.
//
//	request   version 0x11 | 0xe0 | param1 | param2 | nonce 32 | slot
//	response  version 0x11 | 0x60 | param1 | param2 | blocks u8 | record length u24 | record | nonce 32 | opaque length u16 | opaque | signature 96
//	block     index u8 | specification u8 = 1 (DMTF) | size u16 | type u8 | value size u16 | value
//	opaque    type u16 | size u16 | data, repeated
const (
	spdmVersion       = 0x11
	spdmRequest       = 0xe0
	spdmResponse      = 0x60
	spdmDMTF          = 1
	ccRequestBytes    = 37
	ccNonceAt         = 4
	ccResponseHeader  = 8
	ccSignatureBytes  = 96
	maxCCReport       = 32 << 10
	maxCCChain        = 32 << 10
	maxCCCertificates = 8
)

// Types of opaque data that are named here; the others are kept as bytes.
const (
	ccFieldDriver = 3
	ccFieldVBIOS  = 6
	ccFieldFWID   = 20 // digest of the firmware that the device certificate was made for
)

// ErrCCReport says that a CC report is malformed, of another nonce, or not signed under the pinned root.
var ErrCCReport = errors.New("attest: confidential-computing report refused")

// CCReport is what a CC report says. Of one that VerifyCCReport gave, the device of the certificate chain has said it.
type CCReport struct {
	Nonce        [32]byte          // that it answers
	Measurements map[uint8][]byte  // digests by index, as measured
	Fields       map[uint16][]byte // opaque data by type
	Device       string            // serial number of the device identity in the chain; empty before verification
}

// Driver is the version of the driver that the device was started by, as the device says; "" if it does not.
func (r *CCReport) Driver() string {
	return clip(string(bytes.TrimRight(r.Fields[ccFieldDriver], "\x00")), 64)
}

// VBIOS is the version of the device's firmware, or nil.
func (r *CCReport) VBIOS() []byte { return r.Fields[ccFieldVBIOS] }

// VerifyCCReport checks a report offline: its signature by the first certificate of chain (PEM, device first), that chain up to
// the pinned root, its nonce, and that the firmware it names is the one that the certificate was made for. at is the time
// by which certificates must be valid. What it proves is that a device which the root's owner vouches for answered the nonce; not
// that the device is in the machine that sent the report, nor, without reference values, that its firmware is a good one.
func VerifyCCReport(report, chain []byte, nonce [32]byte, root *x509.Certificate, at time.Time) (*CCReport, error) {
	if len(report) > maxCCReport || len(report) < ccRequestBytes+ccResponseHeader+ccSignatureBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrCCReport, len(report))
	}
	leaf, err := verifyDevice(chain, root, at)
	if err != nil {
		return nil, err
	}
	signed, sig := report[:len(report)-ccSignatureBytes], report[len(report)-ccSignatureBytes:]
	sum := sha512.Sum384(signed)
	r, s := new(big.Int).SetBytes(sig[:ccSignatureBytes/2]), new(big.Int).SetBytes(sig[ccSignatureBytes/2:])
	if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !ecdsa.Verify(key, sum[:], r, s) {
		return nil, fmt.Errorf("%w: the device's signature does not verify", ErrCCReport)
	}
	out, err := ParseCCReport(report)
	if err != nil {
		return nil, err
	}
	if out.Nonce != nonce {
		return nil, fmt.Errorf("%w: it answers another nonce", ErrCCReport)
	}
	if fwid := out.Fields[ccFieldFWID]; fwid != nil && !bytes.Equal(fwid, firmwareOf(leaf)) {
		return nil, fmt.Errorf("%w: the device runs other firmware than its certificate was made for", ErrCCReport)
	}
	out.Device = clip(leaf.Issuer.SerialNumber, 64)
	return out, nil
}

// verifyDevice checks a chain of P-384 certificates (PEM, device first) up to the pinned root and gives the device's.
func verifyDevice(chain []byte, root *x509.Certificate, at time.Time) (*x509.Certificate, error) {
	if len(chain) > maxCCChain {
		return nil, fmt.Errorf("%w: a chain of %d bytes", ErrCCReport, len(chain))
	}
	var certs []*x509.Certificate
	for rest := bytes.TrimSpace(chain); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" || len(certs) == maxCCCertificates {
			return nil, fmt.Errorf("%w: the chain is no list of at most %d certificates", ErrCCReport, maxCCCertificates)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: certificate %d of the chain does not parse", ErrCCReport, len(certs))
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%w: no chain", ErrCCReport)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	leaf := certs[0]
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, fmt.Errorf("%w: the first certificate is not one that signs reports", ErrCCReport)
	}
	paths, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, fmt.Errorf("%w: the chain does not lead to the pinned root: %s", ErrCCReport, clip(err.Error(), 200))
	}
	for _, c := range paths[0] {
		if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P384() {
			return nil, fmt.Errorf("%w: a key of the chain is not of P-384", ErrCCReport)
		}
	}
	return leaf, nil
}

// firmwareOf gives the firmware digest in the certificate's composite device identity (TCG DICE, 2.23.133.5.4.1), or nil.
func firmwareOf(c *x509.Certificate) []byte {
	for _, e := range c.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 23, 133, 5, 4, 1}) {
			continue
		}
		var id struct {
			Version int
			Key     asn1.RawValue
			FWID    struct {
				Algorithm asn1.ObjectIdentifier
				Digest    []byte
			}
		}
		if rest, err := asn1.Unmarshal(e.Value, &id); err == nil && len(rest) == 0 {
			return id.FWID.Digest
		}
	}
	return nil
}

// ParseCCReport reads a report without checking who made it: ErrCCReport for every byte that does not belong.
func ParseCCReport(report []byte) (*CCReport, error) {
	malformed := func(what string) (*CCReport, error) {
		return nil, fmt.Errorf("%w: %s", ErrCCReport, what)
	}
	if len(report) > maxCCReport || len(report) < ccRequestBytes+ccResponseHeader+ccSignatureBytes {
		return malformed("its length")
	}
	request, b := report[:ccRequestBytes], report[ccRequestBytes:len(report)-ccSignatureBytes]
	if request[0] != spdmVersion || request[1] != spdmRequest || b[0] != spdmVersion || b[1] != spdmResponse {
		return malformed("not GET_MEASUREMENTS and its answer of SPDM 1.1")
	}
	out := &CCReport{Nonce: [32]byte(request[ccNonceAt:]), Measurements: map[uint8][]byte{}, Fields: map[uint16][]byte{}}
	blocks, length := int(b[4]), int(b[5])|int(b[6])<<8|int(b[7])<<16
	b = b[ccResponseHeader:]
	if length > len(b) {
		return malformed("the length of its measurements")
	}
	record, b := b[:length], b[length:]
	for range blocks {
		if len(record) < 7 || record[1] != spdmDMTF {
			return malformed("a measurement that is not DMTF's")
		}
		size, value := int(binary.LittleEndian.Uint16(record[2:])), int(binary.LittleEndian.Uint16(record[5:]))
		if size != value+3 || size > len(record)-4 || out.Measurements[record[0]] != nil {
			return malformed("a measurement of another size, or twice")
		}
		out.Measurements[record[0]] = record[7 : 7+value]
		record = record[4+size:]
	}
	if len(record) != 0 || blocks == 0 || len(b) < 34 {
		return malformed("the number of its measurements")
	}
	b = b[32:] // the device's own nonce
	if opaque := int(binary.LittleEndian.Uint16(b)); opaque != len(b)-2 {
		return malformed("the length of its opaque data")
	}
	for b = b[2:]; len(b) > 0; {
		if len(b) < 4 {
			return malformed("a field without a header")
		}
		kind, size := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		if size > len(b)-4 || out.Fields[kind] != nil {
			return malformed("a field of another size, or twice")
		}
		out.Fields[kind] = b[4 : 4+size]
		b = b[4+size:]
	}
	return out, nil
}
