package localnet

import (
	"math"

	"basilica/scale"
)

const (
	balancesIndex      = 5
	existentialDeposit = 500 // rao
)

type balancesStore struct{ totalIssuance value[uint64] }

func (rt *runtime) balancesPallet() module {
	p := &prefix{pallet: "Balances"}
	rt.balances = &balancesStore{totalIssuance: newValue(p, "TotalIssuance", cU64, 0)}
	declareHeldBalances(p)
	dest := field{"dest", tMultiAddress, "AccountIdLookupOf<T>"}
	amount := field{"value", compact(tU64), "T::Balance"}
	who := func(name string) field { return field{name, tAccount, "T::AccountId"} }
	rao := func(name string) field { return field{name, tU64, "T::Balance"} }
	transfer := func(keepAlive bool) func(*runtime, *scale.Reader) dispatch {
		return func(rt *runtime, r *scale.Reader) dispatch {
			to, amount := readAddress(r), r.Compact()
			return dispatch{run: func(x *execution, from origin) error {
				if from.root {
					return badOrigin
				}
				return rt.transfer(x, from.who, to, amount, keepAlive)
			}}
		}
	}
	return module{
		name: "Balances", crate: "pallet_balances", index: balancesIndex, storage: p,
		calls: []call{
			{0, "transfer_allow_death", []field{dest, amount}, false, weight{339791000, 7791}, transfer(false)},
			{3, "transfer_keep_alive", []field{dest, amount}, false, weight{339791000, 7791}, transfer(true)},
			{4, "transfer_all", []field{dest, {"keep_alive", tBool, "bool"}}, false, weight{348949000, 7791}, func(rt *runtime, r *scale.Reader) dispatch {
				to, keepAlive := readAddress(r), r.Bool()
				return dispatch{run: func(x *execution, from origin) error {
					if from.root {
						return badOrigin
					}
					free := rt.system.account.get(x, from.who).free
					if keepAlive {
						free -= min(free, existentialDeposit)
					}
					return rt.transfer(x, from.who, to, free, keepAlive)
				}}
			}},
		},
		events: []arm{
			eventEndowed.arm("Endowed", who("account"), rao("free_balance")),
			eventTransfer.arm("Transfer", who("from"), who("to"), rao("amount")),
			eventReserved.arm("Reserved", who("who"), rao("amount")),
			eventUnreserved.arm("Unreserved", who("who"), rao("amount")),
			eventDeposit.arm("Deposit", who("who"), rao("amount")),
			eventWithdraw.arm("Withdraw", who("who"), rao("amount")),
			eventUpgraded.arm("Upgraded", who("who")),
			eventIssued.arm("Issued", rao("amount")),
		},
		errors:    plainArms(balancesErrors[:]...),
		constants: []constant{{"ExistentialDeposit", tU64, scale.AppendU64(nil, existentialDeposit)}},
	}
}

// readAddress reads a MultiAddress; only accounts by their key exist here.
func readAddress(r *scale.Reader) account {
	if r.U8() != 0 {
		r.Fail(errUndecodable)
	}
	return readAccount(r)
}

// transfer moves rao. The receiver must end with the existential deposit at least; the sender too where keepAlive is
// set, and else loses its account when it ends below.
func (rt *runtime) transfer(x *execution, from, to account, amount uint64, keepAlive bool) error {
	if err := rt.withdraw(x, from, amount, keepAlive); err != nil {
		return err
	}
	if err := rt.deposit(x, to, amount); err != nil {
		return err
	}
	x.emit(eventTransfer, from[:], to[:], u64(amount))
	return nil
}

// withdraw takes rao from an account.
func (rt *runtime) withdraw(x *execution, who account, amount uint64, keepAlive bool) error {
	info := rt.system.account.get(x, who)
	switch {
	case rt.balances.totalIssuance.get(x) < amount:
		return underflow
	case info.free < amount:
		return fundsUnavailable
	case info.free-amount < existentialDeposit && (keepAlive || info.consumers > 0):
		return notExpendable
	}
	x.upgrade(who, &info)
	info.free -= amount
	if info.free < existentialDeposit {
		rt.burnDust(x, info.free)
		rt.system.account.del(x, who)
		x.emit(eventKilledAccount, who[:])
		return nil
	}
	rt.system.account.set(x, who, info)
	return nil
}

// upgrade sets the flag that the runtime sets on an account of its genesis the first time its balance moves.
func (x *execution) upgrade(who account, info *accountInfo) {
	if info.flags[0]&newLogic[0] == 0 {
		info.flags[0] |= newLogic[0]
		x.emit(eventUpgraded, who[:])
	}
}

// reserve takes rao out of the free balance for a deposit.
func (rt *runtime) reserve(x *execution, who account, amount uint64) error {
	info := rt.system.account.get(x, who)
	if info.free < amount || info.free-amount < existentialDeposit {
		return listedError("Balances", balancesIndex, balancesErrors[:], "InsufficientBalance")
	}
	x.upgrade(who, &info)
	if info.reserved == 0 && amount > 0 {
		info.consumers++
	}
	info.free, info.reserved = info.free-amount, info.reserved+amount
	rt.system.account.set(x, who, info)
	x.emit(eventReserved, who[:], u64(amount))
	return nil
}

// unreserve gives a deposit back, as much of it as is reserved.
func (rt *runtime) unreserve(x *execution, who account, amount uint64) {
	info := rt.system.account.get(x, who)
	amount = min(amount, info.reserved)
	if info.reserved == amount && amount > 0 {
		info.consumers -= min(info.consumers, 1)
	}
	info.free, info.reserved = info.free+amount, info.reserved-amount
	rt.system.account.set(x, who, info)
	x.emit(eventUnreserved, who[:], u64(amount))
}

func (rt *runtime) burnDust(x *execution, rao uint64) {
	rt.balances.totalIssuance.set(x, rt.balances.totalIssuance.get(x)-rao)
}

// deposit gives rao to an account and creates it where needed.
func (rt *runtime) deposit(x *execution, who account, amount uint64) error {
	info, known := rt.system.account.find(x, who)
	if known && info.providers > 0 {
		if info.free > math.MaxUint64-amount {
			return fundsUnavailable
		}
		x.upgrade(who, &info)
		info.free += amount
		rt.system.account.set(x, who, info)
		return nil
	}
	if amount < existentialDeposit {
		return belowMinimum
	}
	info.free, info.providers, info.flags = info.free+amount, 1, newLogic
	rt.system.account.set(x, who, info)
	x.emit(eventNewAccount, who[:])
	x.emit(eventEndowed, who[:], u64(amount))
	return nil
}

// declareHeldBalances declares what polkadot.js asks of every account: locks and reserves, of which there are none here.
func declareHeldBalances(p *prefix) {
	id := array(8, tU8)
	lock := composite("pallet_balances::types::BalanceLock", []param{{"Balance", &tU64}}, field{"id", id, "LockIdentifier"},
		field{"amount", tU64, "Balance"}, field{"reasons", enum("pallet_balances::types::Reasons", nil, plainArms("Fee", "Misc", "All")...), "Reasons"})
	locks := composite("bounded_collections::weak_bounded_vec::WeakBoundedVec", []param{{"T", &lock}, {"S", nil}}, field{"", vec(lock), "Vec<T>"})
	reserve := composite("pallet_balances::types::ReserveData", []param{{"ReserveIdentifier", &id}, {"Balance", &tU64}},
		field{"id", id, "ReserveIdentifier"}, field{"amount", tU64, "Balance"})
	newMap(p, "Locks", byAccount, raw(locks), []byte{0})
	newMap(p, "Reserves", byAccount, raw(bounded(reserve)), []byte{0})
}

type paymentStore struct{ multiplier value[[2]uint64] }

// Fees as spec 425 charges them, in rao.
const (
	baseWeight = 108157000 // ref_time of an extrinsic without its call
	baseFee    = 54078     // of that weight
)

func (rt *runtime) paymentPallet() module {
	p := &prefix{pallet: "TransactionPayment"}
	multiplier := composite("sp_arithmetic::fixed_point::FixedU128", nil, field{"", tU128, "u128"})
	rt.payment = &paymentStore{multiplier: newValue(p, "NextFeeMultiplier", as(multiplier, cU128), [2]uint64{0, 1e18})}
	return module{
		name: "TransactionPayment", crate: "pallet_transaction_payment", index: 6, storage: p,
		events: []arm{eventFeePaid.arm("TransactionFeePaid", field{"who", tAccount, "T::AccountId"},
			field{"actual_fee", tU64, "BalanceOf<T>"}, field{"tip", tU64, "BalanceOf<T>"})},
		constants: []constant{{"OperationalFeeMultiplier", tU8, []byte{5}}},
	}
}

// fee is the price of an extrinsic in rao: its weight at 0.0005 rao (rounded to nearest, half down), plus its length
// in bytes with the length prefix.
func (c cost) fee(length int) uint64 {
	if c.free {
		return 0
	}
	return baseFee + weightFee(c.refTime-min(c.refTime, baseWeight)) + uint64(length)
}

// weightFee is what ref_time costs: 0.0005 rao each, rounded to nearest, half down.
func weightFee(refTime uint64) uint64 { return refTime/10000*5 + (refTime%10000*5+4999)/10000 }
