package basilica

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"basilica/keys"
)

// ReceiptType is the DSSE payload type of a receipt, EndorsementType that of an endorsement, OccupancyType that of an occupancy.
const (
	ReceiptType     = "application/vnd.basilica.receipt+json"
	EndorsementType = "application/vnd.basilica.endorsement+json"
	OccupancyType   = "application/vnd.basilica.occupancy+json"
)

const maxEnvelopePayload = 256 << 10

// What a receipt's ids may be: they stand in lines that a person reads.
var (
	receiptTask     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	receiptExecutor = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
)

// Receipt says what one attempt at a task came to. Its JSON bytes are signed once and never re-encoded.
type Receipt struct {
	Version    int        `json:"version"` // 1
	Task       TaskID     `json:"task"`
	Attempt    int        `json:"attempt"`
	Client     Hotkey     `json:"client"`
	Executor   ExecutorID `json:"executor"`
	Fence      uint64     `json:"fence"`
	GPUs       []string   `json:"gpus"`
	Image      string     `json:"image"`    // as asked for
	ImageID    string     `json:"image_id"` // content address of what ran
	SpecDigest Digest     `json:"spec_digest"`
	State      TaskState  `json:"state"`
	Reason     *Reason    `json:"reason,omitempty"`
	ExitCode   *int       `json:"exit_code,omitempty"`
	Started    time.Time  `json:"started"`
	Ended      time.Time  `json:"ended"`
	Stdout     Digest     `json:"stdout_sha256"`
	Stderr     Digest     `json:"stderr_sha256"`
	LogBytes   int64      `json:"log_bytes"`
	Inputs     []TaskFile `json:"inputs"`
	Outputs    []TaskFile `json:"outputs"`
}

// SignedReceipt is a receipt under two signatures over DSSE's pre-authentication encoding of the same bytes: the
// executor's P-256 key, which Endorsement ties to the miner, and the miner's hotkey (empty until the miner added it).
type SignedReceipt struct {
	Payload     []byte            `json:"payload"`
	ExecutorSig []byte            `json:"executor_signature"` // 64 bytes r | s
	MinerSig    []byte            `json:"miner_signature,omitempty"`
	Endorsement SignedEndorsement `json:"endorsement"`
}

// Endorsement ties an executor's keys to a miner's hotkey.
type Endorsement struct {
	Version    int        `json:"version"` // 1
	Miner      Hotkey     `json:"miner"`
	Scheme     string     `json:"scheme"` // of the miner's hotkey: sr25519 or ed25519
	Executor   ExecutorID `json:"executor"`
	KeySPKI    []byte     `json:"key_spki"`    // DER of the receipt and TLS key
	AttestSPKI []byte     `json:"attest_spki"` // DER of the attestation key
	HostKey    []byte     `json:"host_key"`    // SSH wire encoding
	Issued     time.Time  `json:"issued"`
	Replaces   []byte     `json:"replaces,omitempty"` // DER of the attestation key that AttestSPKI took the place of
}

// SignedEndorsement is an Endorsement's JSON under the miner's hotkey, over DSSE's pre-authentication encoding. One that
// replaces an attestation key is under that key too.
type SignedEndorsement struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
	Former    []byte `json:"former_signature,omitempty"` // by the replaced key: r | s, 64 bytes
}

// Endorse signs e with the miner's hotkey; Version, Miner and Scheme are set here.
func Endorse(e Endorsement, miner keys.Signer) (SignedEndorsement, error) {
	e.Version, e.Miner, e.Scheme = 1, Hotkey(miner.SS58()), miner.Scheme().String()
	payload, err := json.Marshal(e)
	if err != nil {
		return SignedEndorsement{}, fmt.Errorf("encode endorsement: %w", err)
	}
	sig, err := miner.Sign(keys.PAE(EndorsementType, payload))
	if err != nil {
		return SignedEndorsement{}, fmt.Errorf("sign endorsement: %w", err)
	}
	return SignedEndorsement{Payload: payload, Signature: sig}, nil
}

// Open checks the signature by the hotkey that the endorsement itself names, and that of the attestation key that it
// replaces, then parses. The caller compares Miner with whom it expects.
func (s SignedEndorsement) Open() (Endorsement, error) {
	e, err := decodePayload[Endorsement](s.Payload)
	if err != nil {
		return Endorsement{}, fmt.Errorf("endorsement: %w", err)
	}
	if e.Version != 1 {
		return Endorsement{}, E(Invalid, "ENDORSEMENT_VERSION", fmt.Sprintf("endorsement version %d is unknown", e.Version), "use a newer basilica")
	}
	if err := verifyHotkey(e.Scheme, e.Miner, keys.PAE(EndorsementType, s.Payload), s.Signature); err != nil {
		return Endorsement{}, E(Invalid, "ENDORSEMENT_SIGNATURE", "the endorsement is not signed by the miner's hotkey", "ask the miner for the executor's endorsement again").With(err)
	}
	if err := e.formerSigned(s); err != nil {
		return Endorsement{}, err
	}
	return e, nil
}

// Occupancy is a miner's word that a task held an executor's GPUs: what a validator may know of a receipt that is a client's.
// Receipt is the SHA-256 of the receipt's payload, so that whoever has that can show a lie.
type Occupancy struct {
	Version  int        `json:"version"` // 1
	Miner    Hotkey     `json:"miner"`
	Scheme   string     `json:"scheme"` // of the miner's hotkey: sr25519 or ed25519
	Task     TaskID     `json:"task"`
	Executor ExecutorID `json:"executor"`
	State    TaskState  `json:"state"`
	GPUs     []string   `json:"gpus,omitempty"`
	Started  time.Time  `json:"started,omitzero"`
	Ended    time.Time  `json:"ended,omitzero"` // zero while the task is not over, or was lost there
	Receipt  *Digest    `json:"receipt_sha256,omitempty"`
}

// SignedOccupancy is an Occupancy's JSON under the miner's hotkey, over DSSE's pre-authentication encoding.
type SignedOccupancy struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

// SignOccupancy signs o with the miner's hotkey; Version, Miner and Scheme are set here.
func SignOccupancy(o Occupancy, miner keys.Signer) (SignedOccupancy, error) {
	o.Version, o.Miner, o.Scheme = 1, Hotkey(miner.SS58()), miner.Scheme().String()
	payload, err := json.Marshal(o)
	if err != nil {
		return SignedOccupancy{}, fmt.Errorf("encode occupancy: %w", err)
	}
	sig, err := miner.Sign(keys.PAE(OccupancyType, payload))
	if err != nil {
		return SignedOccupancy{}, fmt.Errorf("sign occupancy: %w", err)
	}
	return SignedOccupancy{Payload: payload, Signature: sig}, nil
}

// Open checks that miner signed, then parses.
func (s SignedOccupancy) Open(miner Hotkey) (Occupancy, error) {
	o, err := decodePayload[Occupancy](s.Payload)
	if err != nil {
		return Occupancy{}, fmt.Errorf("occupancy: %w", err)
	}
	if o.Version != 1 || o.Miner != miner {
		return Occupancy{}, E(Invalid, "OCCUPANCY", "an occupancy is of an unknown version or of another miner", "use miners and validators of the same version")
	}
	if err := verifyHotkey(o.Scheme, miner, keys.PAE(OccupancyType, s.Payload), s.Signature); err != nil {
		return Occupancy{}, E(Invalid, "OCCUPANCY", "an occupancy is not signed by the miner's hotkey", "ask the miner again").With(err)
	}
	return o, nil
}

// SignReceipt makes the executor's half of a receipt. sign gives 64 raw bytes r | s over SHA-256 of its argument.
func SignReceipt(r Receipt, endorsement SignedEndorsement, sign func(msg []byte) ([]byte, error)) (SignedReceipt, error) {
	r.Version = 1
	payload, err := json.Marshal(r)
	if err != nil {
		return SignedReceipt{}, fmt.Errorf("encode receipt: %w", err)
	}
	sig, err := sign(keys.PAE(ReceiptType, payload))
	if err != nil {
		return SignedReceipt{}, fmt.Errorf("sign receipt: %w", err)
	}
	return SignedReceipt{Payload: payload, ExecutorSig: sig, Endorsement: endorsement}, nil
}

// Countersign adds the miner's half after checking the executor's.
func (s SignedReceipt) Countersign(miner keys.Signer) (SignedReceipt, error) {
	if _, _, err := s.openExecutor(); err != nil {
		return SignedReceipt{}, err
	}
	sig, err := miner.Sign(keys.PAE(ReceiptType, s.Payload))
	if err != nil {
		return SignedReceipt{}, fmt.Errorf("countersign receipt: %w", err)
	}
	s.MinerSig = sig
	return s, nil
}

// Open checks both signatures and the endorsement, then parses. The caller compares Endorsement.Miner, task, client and
// digests with what it expects.
func (s SignedReceipt) Open() (Receipt, Endorsement, error) {
	r, e, err := s.openExecutor()
	if err != nil {
		return Receipt{}, Endorsement{}, err
	}
	if err := verifyHotkey(e.Scheme, e.Miner, keys.PAE(ReceiptType, s.Payload), s.MinerSig); err != nil {
		return Receipt{}, Endorsement{}, E(Invalid, "RECEIPT_MINER_SIGNATURE", "the receipt is not signed by the miner's hotkey", "do not trust this receipt; ask the miner for it again").With(err)
	}
	return r, e, nil
}

func (s SignedReceipt) openExecutor() (Receipt, Endorsement, error) {
	e, err := s.Endorsement.Open()
	if err != nil {
		return Receipt{}, Endorsement{}, err
	}
	if err := keys.VerifyP256(e.KeySPKI, keys.PAE(ReceiptType, s.Payload), s.ExecutorSig); err != nil {
		return Receipt{}, Endorsement{}, E(Invalid, "RECEIPT_EXECUTOR_SIGNATURE", "the receipt is not signed by the endorsed executor", "do not trust this receipt; ask the miner for it again").With(err)
	}
	r, err := decodePayload[Receipt](s.Payload)
	if err != nil {
		return Receipt{}, Endorsement{}, fmt.Errorf("receipt: %w", err)
	}
	if r.Version != 1 {
		return Receipt{}, Endorsement{}, E(Invalid, "RECEIPT_VERSION", fmt.Sprintf("receipt version %d is unknown", r.Version), "use a newer basilica")
	}
	if r.Executor != e.Executor {
		return Receipt{}, Endorsement{}, E(Invalid, "RECEIPT_EXECUTOR", fmt.Sprintf("the receipt names executor %q, its endorsement %q", r.Executor, e.Executor), "do not trust this receipt; ask the miner for it again")
	}
	if err := r.named(); err != nil {
		return Receipt{}, Endorsement{}, err
	}
	return r, e, nil
}

// named refuses what no executor writes: ids that are none, and a state that is no end.
func (r Receipt) named() error {
	what := ""
	switch {
	case !receiptTask.MatchString(string(r.Task)):
		what = fmt.Sprintf("%.60q is no id of a task", r.Task)
	case !receiptExecutor.MatchString(string(r.Executor)):
		what = fmt.Sprintf("%.60q is no id of an executor", r.Executor)
	case len(r.Client) > 64 || OneLine(string(r.Client)) != string(r.Client):
		what = fmt.Sprintf("%.60q is no hotkey", r.Client)
	case !r.State.Terminal():
		what = fmt.Sprintf("%.60q is no end of a task", r.State)
	default:
		return nil
	}
	return E(Invalid, "RECEIPT_UNREADABLE", "this is not a receipt: "+what, "do not trust it; ask the miner for it again")
}

// verifyHotkey checks a signature of a hotkey given by address and the name of its scheme.
func verifyHotkey(scheme string, hotkey Hotkey, msg, sig []byte) error {
	var s keys.Scheme
	switch scheme {
	case keys.Sr25519.String():
		s = keys.Sr25519
	case keys.Ed25519.String():
		s = keys.Ed25519
	default:
		return fmt.Errorf("signature scheme %.20q is unknown", scheme)
	}
	pub, err := keys.DecodeSS58(string(hotkey))
	if err != nil {
		return err
	}
	if !keys.Verify(s, pub, msg, sig) {
		return errors.New("signature does not verify")
	}
	return nil
}

// decodePayload parses exactly one JSON value with known fields alone: two readers of a signed payload must not see
// different things.
func decodePayload[T any](payload []byte) (T, error) {
	var v T
	if len(payload) > maxEnvelopePayload {
		return v, E(Invalid, "PAYLOAD_SIZE", fmt.Sprintf("signed payload of %d bytes is over %d", len(payload), maxEnvelopePayload), "do not trust it; ask whoever gave it for it again")
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return v, E(Invalid, "PAYLOAD_JSON", "the signed payload is not what its type says", "do not trust it; ask whoever gave it for it again").With(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return v, E(Invalid, "PAYLOAD_JSON", "the signed payload has bytes after its end", "do not trust it; ask whoever gave it for it again")
	}
	return v, nil
}
