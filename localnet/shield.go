package localnet

import (
	"crypto/mlkem"
	"crypto/sha512"

	"basilica/pallet"
	"basilica/scale"
	"basilica/shield"
)

const (
	shieldIndex = 30
	// maxShieldedPeriod is the longest era of a submit_encrypted.
	maxShieldedPeriod = 8
	// openableKeys is how many of the last announced keys the author still opens: that of the last block that a carrier
	// can be made at, and those in between.
	openableKeys = 12
)

// shieldStore has the public keys to which extrinsics are sealed.
type shieldStore struct{ current, pending, next value[[]byte] }

var eventEncrypted = eventID{shieldIndex, 0}

func (rt *runtime) shieldPallet() module {
	p := &prefix{pallet: "MevShield"}
	sealed := as(bounded(tU8), cBytes)
	rt.shield = &shieldStore{newOptional(p, "CurrentKey", sealed), newOptional(p, "PendingKey", sealed), newOptional(p, "NextKey", sealed)}
	return module{
		name: "MevShield", crate: "pallet_shield", index: shieldIndex, storage: p,
		calls: []call{
			{0, "announce_next_key", []field{{"enc_key", option(bounded(tU8)), "Option<ShieldEncKey>"}}, false, weight{refTime: 300_000_000 + baseWeight}, func(_ *runtime, r *scale.Reader) dispatch {
				if r.Option() {
					r.Bytes()
				}
				return dispatch{run: func(*execution, origin) error { return badOrigin }} // the author's inherent
			}},
			{1, "submit_encrypted", []field{{"ciphertext", bounded(tU8), "BoundedVec<u8, ConstU32<8192>>"}}, false, weight{refTime: 139_000_000 + baseWeight}, func(_ *runtime, r *scale.Reader) dispatch {
				ciphertext := r.Bytes()
				if len(ciphertext) > shield.MaxCiphertext {
					r.Fail(errUndecodable)
				}
				return dispatch{sealed: &ciphertext, run: func(x *execution, from origin) error {
					if from.root {
						return badOrigin
					}
					id := pallet.Blake2b256(scale.AppendBytes(append([]byte{}, from.who[:]...), ciphertext))
					x.emit(eventEncrypted, id[:], from.who[:])
					return nil
				}}
			}},
		},
		events: []arm{eventEncrypted.arm("EncryptedSubmitted", field{"id", tHash, "T::Hash"}, field{"who", tAccount, "T::AccountId"})},
		errors: plainArms("BadEncKeyLen", "Unreachable", "TooManyPendingExtrinsics", "WeightExceedsAbsoluteMax"),
	}
}

// admitShielded is what CheckShieldedTxValidity asks of a submit_encrypted that stands alone: a short era, so that what is
// inside cannot be held back for long, and a ciphertext of the right form. Which key it is sealed to is not asked.
func admitShielded(ext *extrinsic) error {
	switch {
	case ext.call.sealed == nil:
		return nil
	case ext.era.IsImmortal() || ext.era.Period > maxShieldedPeriod:
		return invalid(dataStale)
	}
	if _, err := shield.CheckForm(*ext.call.sealed); err != nil {
		return customInvalid(23) // FailedShieldedTxParsing
	}
	return nil
}

// announceKey moves the keys on: what was next is pending, what was pending is current.
func (rt *runtime) announceKey(x *execution, key []byte) {
	s := rt.shield
	for _, step := range [][2]value[[]byte]{{s.current, s.pending}, {s.pending, s.next}} {
		if later, has := x.get(step[1].prefix); has {
			x.put(step[0].prefix, later)
		}
	}
	s.next.set(x, key)
}

// shieldKey is the key that the author announces in a block. It follows from the genesis hash, as the author's own key is
// a development key: nothing here is secret to who knows the chain.
func (c *Chain) shieldKey(number uint64) (*mlkem.DecapsulationKey768, error) {
	if key, made := c.shieldKeys[number]; made {
		return key, nil
	}
	seed := sha512.Sum512(append(append([]byte("basilica localnet shield"), c.hashes.genesis[:]...), u64(number)...))
	key, err := mlkem.NewDecapsulationKey768(seed[:])
	if err != nil {
		return nil, err
	}
	c.shieldKeys[number] = key
	if number >= openableKeys {
		delete(c.shieldKeys, number-openableKeys)
	}
	return key, nil
}

// openShielded opens what the head's carriers hold and puts it at the front of the pool, byte for byte as it was signed.
// What does not open or may not come is dropped.
func (c *Chain) openShielded(x *execution) {
	carriers := c.carriers
	c.carriers = nil
	var opened []*extrinsic
	for _, ciphertext := range carriers {
		raw, found := c.openSealed(ciphertext)
		if !found {
			continue
		}
		ext, err := c.rt.decodeExtrinsic(raw)
		if err == nil {
			err = c.rt.verify(ext, x, x.block, c.hashes.genesis)
		}
		if err == nil {
			err = c.pool.add(x, ext, nil, x.block)
		}
		if err != nil {
			c.log.Debug("a shielded extrinsic may not come", "block", x.block, "error", err)
			continue
		}
		opened = append(opened, ext)
	}
	c.pool.advance(opened)
}

func (c *Chain) openSealed(ciphertext []byte) ([]byte, bool) {
	hash, err := shield.CheckForm(ciphertext)
	if err != nil {
		return nil, false
	}
	head := c.head()
	for n := head; n > 0 && head-n < openableKeys; n-- {
		key, err := c.shieldKey(n)
		if err != nil || shield.KeyHash(key.EncapsulationKey().Bytes()) != hash {
			continue
		}
		raw, err := shield.Open(key, ciphertext)
		return raw, err == nil
	}
	return nil, false
}

// recallCarriers finds the carriers of the head again, after a restart.
func (c *Chain) recallCarriers() {
	for _, raw := range c.blocks[c.head()].extrinsics {
		if ext, err := c.rt.decodeExtrinsic(raw); err == nil && ext.call.sealed != nil {
			c.carriers = append(c.carriers, *ext.call.sealed)
		}
	}
}
