package localnet

import (
	"errors"
	"fmt"
	"math/bits"

	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

// maxExtrinsic bounds one extrinsic in bytes.
const maxExtrinsic = 256 << 10

// Rejection is why the pool refused an extrinsic, in the words of a node's JSON-RPC.
type Rejection struct {
	Code    int
	Message string
	Data    string
}

// Error gives code, message and data in one line.
func (r *Rejection) Error() string { return fmt.Sprintf("%d: %s: %s", r.Code, r.Message, r.Data) }

// RPCError gives the parts of a JSON-RPC error object.
func (r *Rejection) RPCError() (code int, message, data string) { return r.Code, r.Message, r.Data }

func invalid(data string) *Rejection { return &Rejection{1010, "Invalid Transaction", data} }

func customInvalid(code uint8) *Rejection { return invalid(fmt.Sprintf("Custom error: %d", code)) }

// The refusals with a sentence of their own.
const (
	dataStale     = "Transaction is outdated"
	dataFuture    = "Transaction will be valid in the future"
	dataBadProof  = "Transaction has a bad signature"
	dataAncient   = "Transaction has an ancient birth block"
	dataPayment   = "Inability to pay some fees (e.g. account balance too low)"
	dataMandatory = "Transaction dispatch is mandatory; transactions must not be validated."
	dataBadSigner = "Invalid signing address"
)

var alreadyImported = &Rejection{1013, "Transaction Already Imported", "Transaction is already imported to the pool"}

var errBadSigner = errors.New("not the sudo key")

// extrinsic is a signed extrinsic, decoded but not yet believed.
type extrinsic struct {
	raw    []byte // with its length prefix
	hash   [32]byte
	who    account
	scheme keys.Scheme
	sig    []byte
	era    pallet.Era
	nonce  uint32
	tip    uint64
	mode   uint8 // of CheckMetadataHash
	call   decoded
	signed []byte // call and extra, the first parts of the payload
}

// decodeExtrinsic reads a signed extrinsic of version 4.
func (rt *runtime) decodeExtrinsic(raw []byte) (*extrinsic, error) {
	outer := scale.NewReader(raw)
	body := outer.Raw(outer.Count(1))
	if err := outer.Done(); err != nil {
		return nil, &Rejection{1001, "Extrinsic has invalid format", err.Error()}
	}
	r := scale.NewReader(body)
	if preamble := r.U8(); preamble != 0x84 {
		if preamble == 0x04 || preamble == 0x05 {
			return nil, invalid(dataMandatory)
		}
		return nil, badFormat()
	}
	x := &extrinsic{raw: raw, hash: pallet.Blake2b256(raw)}
	x.who = readAddress(r)
	switch tag := r.U8(); tag {
	case 0:
		x.scheme = keys.Ed25519
	case 1:
		x.scheme = keys.Sr25519
	default:
		if r.Err() == nil {
			return nil, invalid(dataBadProof) // ECDSA signers have accounts of another kind, which do not exist here
		}
	}
	x.sig = r.Raw(64)
	extraStart := r.Pos()
	x.era = pallet.ReadEra(r)
	x.nonce = r.Compact32()
	x.tip = r.Compact()
	x.mode = r.U8()
	if rt.code.Payload {
		r.U8() // any byte will do
	}
	callStart := r.Pos()
	if r.Err() != nil {
		return nil, badFormat()
	}
	var err error
	if x.call, err = rt.decodeCall(r); err != nil {
		return nil, badFormat()
	}
	if err := r.Done(); err != nil {
		return nil, badFormat()
	}
	x.signed = append(append([]byte{}, body[callStart:]...), body[extraStart:callStart]...)
	return x, nil
}

// badFormat refuses what does not decode, in the words of a node, which says no more.
func badFormat() *Rejection {
	return &Rejection{1002, "Verification Error: Runtime error: Execution failed", `RuntimeApi("Execution failed")`}
}

// fee is what the extrinsic pays before it runs, tip included.
func (x *extrinsic) fee() uint64 { return x.feeOf(x.call.price()) }

// feeOf is what it pays where its call costs c.
func (x *extrinsic) feeOf(c cost) uint64 {
	total, carry := bits.Add64(c.fee(len(x.raw)), x.tip, 0)
	if carry != 0 {
		return 1<<64 - 1
	}
	return total
}

// verify checks what the signature covers: the genesis, spec and transaction version, and the era's birth block.
func (rt *runtime) verify(x *extrinsic, view reader, block uint64, genesis [32]byte) error {
	checkpoint := genesis
	if !x.era.IsImmortal() {
		birth := x.era.Birth(block)
		hash, known := rt.system.blockHash.find(view, uint32(birth))
		if !known {
			return invalid(dataAncient)
		}
		checkpoint = hash
	}
	if x.mode != 0 {
		return &Rejection{1011, "Unknown Transaction Validity", "Could not lookup information required to validate the transaction"}
	}
	payload := append([]byte{}, x.signed...)
	payload = scale.AppendU32(scale.AppendU32(payload, rt.code.spec), txVersion)
	payload = append(append(payload, genesis[:]...), checkpoint[:]...)
	payload = append(payload, 0) // no metadata hash
	if len(payload) > 256 {
		digest := pallet.Blake2b256(payload)
		payload = digest[:]
	}
	if !keys.Verify(x.scheme, x.who, payload, x.sig) || x.who == (account{}) {
		return invalid(dataBadProof)
	}
	return nil
}

// validate is what every block asks of an extrinsic again: era, nonce, payment, guards. The signature has been checked
// by verify; only an era that ended can spoil it.
func (rt *runtime) validate(x *execution, ext *extrinsic) error {
	info := rt.system.account.get(x, ext.who)
	switch {
	case !ext.call.price().free && info.providers == 0 && info.sufficients == 0:
		return invalid(dataPayment)
	case ext.nonce < info.nonce:
		return invalid(dataStale)
	case ext.nonce > info.nonce:
		return invalid(dataFuture)
	}
	return rt.admissible(x, ext)
}

// admissible is validate without the nonce, for extrinsics that wait for their turn.
func (rt *runtime) admissible(x *execution, ext *extrinsic) error {
	if fee := ext.fee(); fee > 0 {
		if rt.system.account.get(x, ext.who).free < fee {
			return invalid(dataPayment)
		}
	}
	err := rt.guard(x, ext.call, ext.who)
	if err == nil {
		if refused := admitShielded(ext); refused != nil {
			return refused
		}
	}
	if err == nil && ext.call.atPool != nil {
		err = ext.call.atPool(x, ext.who)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errBadSigner):
		return invalid(dataBadSigner)
	default:
		return customInvalid(customCode(err))
	}
}
