package subtensor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

// Bounds of single requests.
const (
	maxKeysPage     = 1000
	maxKeysAll      = 100_000
	maxPairs        = 4096
	maxQueryBlocks  = 4096
	maxQueryKeys    = 4096
	maxWatchedKeys  = 1024
	maxBlockNumbers = 1000
)

// method is one JSON-RPC method: a call, or a subscription whose start runs after its answer is sent.
type method struct {
	call      func(s *Server, session *session, p params) (any, error)
	subscribe func(s *Server, session *session, p params) (result any, start func(), err error)
}

// params are positional parameters; what is missing or null reads as absent.
type params []json.RawMessage

func (p params) present(i int) bool { return i < len(p) && string(p[i]) != "null" }

// into decodes parameter i, which must be there.
func (p params) into(i int, v any) error {
	if !p.present(i) {
		return invalidParams(fmt.Sprintf("parameter %d is missing", i))
	}
	if err := json.Unmarshal(p[i], v); errors.Is(err, errHex) {
		return invalidParams(errHex.Error()) // the words of a node
	} else if err != nil {
		return invalidParams(fmt.Sprintf("parameter %d: %.200s", i, err))
	}
	return nil
}

// at is the block hash in parameter i, or the head.
func (s *Server) at(p params, i int) (basilica.Hash, error) {
	if !p.present(i) {
		return s.node.Head().Hash, nil
	}
	var h basilica.Hash
	err := p.into(i, &h)
	return h, err
}

func call(f func(s *Server, p params) (any, error)) method {
	return method{call: func(s *Server, _ *session, p params) (any, error) { return f(s, p) }}
}

func constant(v any) method { return call(func(*Server, params) (any, error) { return v, nil }) }

// serverMethods is the table of what the server answers.
func serverMethods(cfg ServerConfig) map[string]method {
	type object map[string]any
	unsubscribe := method{call: (*Server).unsubscribe}
	table := map[string]method{
		"system_chain":      constant("Bittensor"),
		"system_chainType":  constant("Local"),
		"system_name":       constant("Basilica localnet"),
		"system_version":    call(func(s *Server, _ params) (any, error) { return s.cfg.Version, nil }),
		"system_properties": constant(object{"ss58Format": 42, "tokenDecimals": 9, "tokenSymbol": "TAO"}),
		"system_health":     constant(object{"peers": 0, "isSyncing": false, "shouldHavePeers": false}),
		"system_nodeRoles":  constant([]string{"Authority"}),
		"system_peers":      constant([]string{}),
		"system_syncState": call(func(s *Server, _ params) (any, error) {
			n := s.node.Head().Number
			return object{"startingBlock": 0, "currentBlock": n, "highestBlock": n}, nil
		}),
		"system_accountNextIndex": call((*Server).nextIndex),
		"account_nextIndex":       call((*Server).nextIndex),

		"chain_getBlockHash": call((*Server).blockHash),
		"chain_getHeader":    call((*Server).header),
		"chain_getBlock":     call((*Server).block),

		"state_getStorage":     call((*Server).storage),
		"state_getStorageAt":   call((*Server).storage),
		"state_getKeys":        call((*Server).allKeys),
		"state_getKeysPaged":   call((*Server).keysPaged),
		"state_getKeysPagedAt": call((*Server).keysPaged),
		"state_queryStorageAt": call((*Server).queryStorage),
		"state_queryStorage":   {call: (*Server).storageHistory},
		"state_getPairs":       call((*Server).pairs),
		"state_getStorageHash": call((*Server).storageDigest),
		"state_getStorageSize": call((*Server).storageSize),
		"state_getMetadata":    call((*Server).metadata),
		"state_call":           call((*Server).callAPI),
		"state_callAt":         call((*Server).callAPI),

		"author_submitExtrinsic":         call((*Server).submit),
		"author_pendingExtrinsics":       call((*Server).pending),
		"author_submitAndWatchExtrinsic": {subscribe: (*Server).submitAndWatch},
		"author_unwatchExtrinsic":        unsubscribe,

		"payment_queryInfo":       call((*Server).queryInfo),
		"payment_queryFeeDetails": call((*Server).feeDetails),

		"state_subscribeStorage":          {subscribe: (*Server).subscribeStorage},
		"state_unsubscribeStorage":        unsubscribe,
		"state_subscribeRuntimeVersion":   {subscribe: (*Server).subscribeVersion},
		"state_unsubscribeRuntimeVersion": unsubscribe,
	}
	table["chain_getHead"] = call(func(s *Server, _ params) (any, error) { return s.node.Head().Hash, nil })
	for _, name := range []string{"chain_getFinalizedHead", "chain_getFinalisedHead"} {
		table[name] = call(func(s *Server, _ params) (any, error) { return s.node.Finalized().Hash, nil })
	}
	for _, name := range []string{"state_getRuntimeVersion", "chain_getRuntimeVersion"} {
		table[name] = call(func(s *Server, p params) (any, error) { return s.runtimeVersion(p) })
	}
	for name, note := range map[string]string{
		"NewHeads": "chain_newHead", "NewHead": "chain_newHead", "Heads": "chain_newHead", "AllHeads": "chain_allHead",
		"FinalizedHeads": "chain_finalizedHead", "FinalisedHeads": "chain_finalizedHead",
	} {
		table["chain_subscribe"+name] = method{subscribe: func(s *Server, session *session, _ params) (any, func(), error) {
			return s.subscribeHeads(session, note)
		}}
		table["chain_unsubscribe"+name] = unsubscribe
	}
	legacyMethods(table)
	if cfg.Seal != nil {
		table["engine_createBlock"] = call((*Server).createBlock)
	}
	names := []string{"rpc_methods"}
	for name := range table {
		names = append(names, name)
	}
	slices.Sort(names)
	table["rpc_methods"] = constant(object{"version": 1, "methods": names})
	return table
}

func (s *Server) nextIndex(p params) (any, error) {
	var address string
	if err := p.into(0, &address); err != nil {
		return nil, err
	}
	who, err := keys.DecodeSS58(address)
	if err != nil {
		return nil, invalidParams(err.Error())
	}
	return s.pool.NextIndex(who), nil
}

// blockNumber is a number, or its hex in a string.
func blockNumber(raw json.RawMessage) (basilica.BlockNumber, error) {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		text = string(raw)
	}
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return 0, invalidParams(fmt.Sprintf("not a block number: %.40q", text))
	}
	return basilica.BlockNumber(n), nil
}

func (s *Server) blockHash(p params) (any, error) {
	one := func(raw json.RawMessage) (any, error) {
		n, err := blockNumber(raw)
		if err != nil {
			return nil, err
		}
		if hash, known := s.node.BlockHash(n); known {
			return hash, nil
		}
		return nil, nil
	}
	if !p.present(0) {
		return s.node.Head().Hash, nil
	}
	var list []json.RawMessage
	if json.Unmarshal(p[0], &list) != nil {
		return one(p[0])
	}
	if len(list) > maxBlockNumbers {
		return nil, invalidParams(fmt.Sprintf("more than %d block numbers", maxBlockNumbers))
	}
	out := make([]any, len(list))
	for i, raw := range list {
		hash, err := one(raw)
		if err != nil {
			return nil, err
		}
		out[i] = hash
	}
	return out, nil
}

// wireHeader is a header as JSON has it; clients compute the block's hash from it.
type wireHeader struct {
	ParentHash     basilica.Hash `json:"parentHash"`
	Number         string        `json:"number"`
	StateRoot      basilica.Hash `json:"stateRoot"`
	ExtrinsicsRoot basilica.Hash `json:"extrinsicsRoot"`
	Digest         struct {
		Logs []hexBytes `json:"logs"`
	} `json:"digest"`
}

func encodeWireHeader(h pallet.Header) wireHeader {
	out := wireHeader{
		ParentHash: h.Parent, Number: fmt.Sprintf("0x%x", h.Number), StateRoot: h.StateRoot, ExtrinsicsRoot: h.ExtrinsicsRoot,
	}
	out.Digest.Logs = wireList(h.Digest)
	return out
}

func wireList(list [][]byte) []hexBytes {
	out := make([]hexBytes, len(list))
	for i, b := range list {
		out[i] = b
	}
	return out
}

func (s *Server) header(p params) (any, error) {
	at, err := s.at(p, 0)
	if err != nil {
		return nil, err
	}
	if h, _, known := s.node.Block(at); known {
		return encodeWireHeader(h), nil
	}
	return nil, nil
}

func (s *Server) block(p params) (any, error) {
	at, err := s.at(p, 0)
	if err != nil {
		return nil, err
	}
	h, extrinsics, known := s.node.Block(at)
	if !known {
		return nil, nil
	}
	return map[string]any{
		"block":          map[string]any{"header": encodeWireHeader(h), "extrinsics": wireList(extrinsics)},
		"justifications": nil,
	}, nil
}

func (s *Server) storage(p params) (any, error) {
	key, at, err := s.bytesAt(p)
	if err != nil {
		return nil, err
	}
	return s.value(at, key)
}

// bytesAt reads the two parameters that many methods have: bytes, and a block or none for the head.
func (s *Server) bytesAt(p params) (raw hexBytes, at basilica.Hash, err error) {
	if err := p.into(0, &raw); err != nil {
		return nil, at, err
	}
	at, err = s.at(p, 1)
	return raw, at, err
}

// value is a storage value as JSON has it: null where there is none.
func (s *Server) value(at basilica.Hash, key []byte) (any, error) {
	v, found, err := s.node.Storage(at, key)
	if err != nil || !found {
		return nil, err
	}
	return hexBytes(v), nil
}

func (s *Server) allKeys(p params) (any, error) {
	prefix, at, err := s.bytesAt(p)
	if err != nil {
		return nil, err
	}
	list, err := s.node.StorageKeys(at, prefix, nil, maxKeysAll)
	return wireList(list), err
}

func (s *Server) keysPaged(p params) (any, error) {
	var prefix, start hexBytes
	var count int
	if p.present(0) {
		if err := p.into(0, &prefix); err != nil {
			return nil, err
		}
	}
	if err := p.into(1, &count); err != nil {
		return nil, err
	}
	if count < 0 || count > maxKeysPage {
		return nil, &fault{4002, fmt.Sprintf("count exceeds maximum value. value: %d, max: %d", count, maxKeysPage), ""}
	}
	if p.present(2) {
		if err := p.into(2, &start); err != nil {
			return nil, err
		}
	}
	at, err := s.at(p, 3)
	if err != nil {
		return nil, err
	}
	list, err := s.node.StorageKeys(at, prefix, start, count)
	return wireList(list), err
}

// changeSet is what state_queryStorageAt and storage notifications carry.
type changeSet struct {
	Block   basilica.Hash `json:"block"`
	Changes [][2]any      `json:"changes"`
}

func (s *Server) queryStorage(p params) (any, error) {
	var list []hexBytes
	if err := p.into(0, &list); err != nil {
		return nil, err
	}
	if len(list) > maxQueryKeys {
		return nil, invalidParams(fmt.Sprintf("more than %d keys", maxQueryKeys))
	}
	at, err := s.at(p, 1)
	if err != nil {
		return nil, err
	}
	set := changeSet{Block: at, Changes: [][2]any{}}
	for _, key := range list {
		v, err := s.value(at, key)
		if err != nil {
			return nil, err
		}
		set.Changes = append(set.Changes, [2]any{key, v})
	}
	return []changeSet{set}, nil
}

// callAPI is state_call.
func (s *Server) callAPI(p params) (any, error) {
	var name string
	var args hexBytes
	if err := p.into(0, &name); err != nil {
		return nil, err
	}
	if p.present(1) {
		if err := p.into(1, &args); err != nil {
			return nil, err
		}
	}
	at, err := s.at(p, 2)
	if err != nil {
		return nil, err
	}
	answer, err := s.node.CallAPI(at, name, args)
	return hexBytes(answer), err
}

// metadata is state_getMetadata, the largest answer of all: it is kept as it goes over the wire until another runtime's is asked.
func (s *Server) metadata(p params) (any, error) {
	at, err := s.at(p, 0)
	if err != nil {
		return nil, err
	}
	runtime, err := s.node.CallAPI(at, "Core_version", nil)
	if err != nil {
		return nil, err
	}
	s.described.Lock()
	defer s.described.Unlock()
	if s.described.runtime != string(runtime) {
		answer, err := s.node.CallAPI(at, "Metadata_metadata", nil)
		if err != nil {
			return nil, err
		}
		s.described.runtime, s.described.metadata = string(runtime), quotedHex(scale.NewReader(answer).Bytes())
	}
	return s.described.metadata, nil
}

// wireVersion is a runtime version as JSON has it.
type wireVersion struct {
	SpecName           string   `json:"specName"`
	ImplName           string   `json:"implName"`
	AuthoringVersion   uint32   `json:"authoringVersion"`
	SpecVersion        uint32   `json:"specVersion"`
	ImplVersion        uint32   `json:"implVersion"`
	APIs               [][2]any `json:"apis"`
	TransactionVersion uint32   `json:"transactionVersion"`
	SystemVersion      uint8    `json:"systemVersion"`
	StateVersion       uint8    `json:"stateVersion"`
}

func (s *Server) runtimeVersion(p params) (*wireVersion, error) {
	at, err := s.at(p, 0)
	if err != nil {
		return nil, err
	}
	return s.versionAt(at)
}

func (s *Server) versionAt(at basilica.Hash) (*wireVersion, error) {
	answer, err := s.node.CallAPI(at, "Core_version", nil)
	if err != nil {
		return nil, err
	}
	r := scale.NewReader(answer)
	v := &wireVersion{
		SpecName: r.Text(), ImplName: r.Text(), AuthoringVersion: r.U32(), SpecVersion: r.U32(), ImplVersion: r.U32(),
		APIs: [][2]any{},
	}
	for range r.Count(12) {
		id := hexBytes(bytes.Clone(r.Raw(8)))
		v.APIs = append(v.APIs, [2]any{id, r.U32()})
	}
	v.TransactionVersion, v.SystemVersion = r.U32(), r.U8()
	v.StateVersion = v.SystemVersion
	return v, r.Done()
}

func (s *Server) submit(p params) (any, error) {
	var extrinsic hexBytes
	if err := p.into(0, &extrinsic); err != nil {
		return nil, err
	}
	return s.answerSubmit(s.pool.Submit(extrinsic, nil))
}

// createBlock makes a block by hand, as a node with manual seal does: parameters create_empty, finalize (every block is
// final here) and parent_hash, which must be the head where it is given. Codes and words are those of
// sc-consensus-manual-seal.
func (s *Server) createBlock(p params) (any, error) {
	var empty bool
	if err := p.into(0, &empty); err != nil {
		return nil, err
	}
	parent, err := s.at(p, 2)
	if err != nil {
		return nil, err
	}
	if parent != s.node.Head().Hash {
		return nil, &fault{13000, "block: " + parent.String() + " not found", "only the head can have a next block"}
	}
	if !empty && len(s.pool.Pending()) == 0 {
		return nil, &fault{12000, "Transaction pool is empty, set create_empty to true, if you want to create empty blocks", ""}
	}
	head, err := s.cfg.Seal()
	if err != nil {
		return nil, err
	}
	aux := map[string]bool{
		"header_only": false, "clear_justification_requests": false, "needs_justification": false, "bad_justification": false,
		"is_new_best": true,
	}
	return map[string]any{"hash": head.Hash, "aux": aux}, nil
}

func (s *Server) answerSubmit(hash basilica.Hash, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return hash, nil
}

func (s *Server) pending(params) (any, error) { return wireList(s.pool.Pending()), nil }

func (s *Server) queryInfo(p params) (any, error) {
	answer, err := s.askPrice(p, "TransactionPaymentApi_query_info")
	if err != nil {
		return nil, err
	}
	r := scale.NewReader(answer)
	refTime, proofSize, class, fee := r.Compact(), r.Compact(), r.U8(), r.U64()
	if err := r.Done(); err != nil {
		return nil, err
	}
	classes := []string{"normal", "operational", "mandatory"}
	return map[string]any{
		"weight": map[string]uint64{"ref_time": refTime, "proof_size": proofSize},
		"class":  classes[min(int(class), len(classes)-1)], "partialFee": strconv.FormatUint(fee, 10),
	}, nil
}

// submitAndWatch submits and notifies of every step. The subscription ends itself after the last one.
func (s *Server) submitAndWatch(session *session, p params) (any, func(), error) {
	var extrinsic hexBytes
	if err := p.into(0, &extrinsic); err != nil {
		return nil, nil, err
	}
	f, start, err := session.subscribe("author_extrinsicUpdate", nil)
	if err != nil {
		return nil, nil, err
	}
	_, err = s.pool.Submit(extrinsic, func(state string, block basilica.Hash) {
		var result any = state
		if block != (basilica.Hash{}) {
			result = map[string]basilica.Hash{state: block}
		}
		switch state {
		case "finalized", "invalid", "usurped", "dropped":
			f.finish(result)
		default:
			f.push(result)
		}
	})
	if err != nil {
		session.unsubscribe(f.id)
		return nil, nil, err
	}
	return f.id, start, nil
}

func (s *Server) unsubscribe(session *session, p params) (any, error) {
	if session == nil {
		return nil, errSubscribe
	}
	if !p.present(0) {
		return nil, invalidParams("the subscription's id is missing")
	}
	return session.unsubscribe(strings.Trim(string(p[0]), `"`)), nil
}

// subscribeHeads notifies of the head now and of every block after it, or of the final ones.
func (s *Server) subscribeHeads(session *session, note string) (any, func(), error) {
	follow := s.follow
	if note == "chain_finalizedHead" {
		follow = s.followFinalized
	}
	return subscribed(session.subscribe(note, func(ctx context.Context, f *feed) {
		follow(ctx, func(h basilica.Header) bool {
			header, _, kept := s.node.Block(h.Hash)
			if kept {
				f.push(encodeWireHeader(header))
			}
			return kept
		})
	}))
}

func subscribed(f *feed, start func(), err error) (any, func(), error) {
	if err != nil {
		return nil, nil, err
	}
	return f.id, start, nil
}

// follow calls f with the head and with every block after it until ctx ends or f says false.
func (s *Server) follow(ctx context.Context, f func(basilica.Header) bool) {
	head := s.node.Head()
	for f(head) {
		next, err := s.node.NextHead(ctx, head.Number)
		if err != nil {
			return
		}
		head = next
	}
}

// followFinalized is follow for final blocks.
func (s *Server) followFinalized(ctx context.Context, f func(basilica.Header) bool) {
	final := s.node.Finalized()
	for f(final) {
		next, err := s.node.NextFinalized(ctx, final.Number)
		if err != nil {
			return
		}
		final = next
	}
}

// subscribeVersion notifies of the runtime's version now and after each upgrade.
func (s *Server) subscribeVersion(session *session, _ params) (any, func(), error) {
	return subscribed(session.subscribe("state_runtimeVersion", func(ctx context.Context, f *feed) {
		var last uint32
		s.follow(ctx, func(h basilica.Header) bool {
			version, err := s.versionAt(h.Hash)
			if err != nil {
				return false
			}
			if version.SpecVersion != last {
				f.push(version)
			}
			last = version.SpecVersion
			return true
		})
	}))
}

// subscribeStorage notifies of the keys' values now and whenever a block changes one of them.
func (s *Server) subscribeStorage(session *session, p params) (any, func(), error) {
	var list []hexBytes
	if err := p.into(0, &list); err != nil {
		return nil, nil, err
	}
	if len(list) == 0 || len(list) > maxWatchedKeys {
		return nil, nil, invalidParams(fmt.Sprintf("from 1 to %d keys can be watched", maxWatchedKeys))
	}
	return subscribed(session.subscribe("state_storage", func(ctx context.Context, f *feed) {
		last := make([]*string, len(list))
		first := true
		s.follow(ctx, func(h basilica.Header) bool {
			set := changeSet{Block: h.Hash}
			for i, key := range list {
				raw, found, err := s.node.Storage(h.Hash, key)
				if err != nil {
					return false
				}
				now := (*string)(nil)
				var wire any
				if found {
					text := string(raw)
					now, wire = &text, hexBytes(raw)
				}
				if first || (now == nil) != (last[i] == nil) || now != nil && *now != *last[i] {
					set.Changes = append(set.Changes, [2]any{key, wire})
				}
				last[i] = now
			}
			first = false
			if len(set.Changes) > 0 {
				f.push(set)
			}
			return true
		})
	}))
}
