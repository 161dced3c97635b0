"""bittensor 11.3.0, a step a line: reads {"do": STEP, ...} and writes {"ok": VALUE} or {"error": TEXT}."""

import json
import sys

import bittensor as bt

sub = None
endpoint = None


def connect(url):
    global sub, endpoint
    endpoint = url
    sub = bt.Subtensor(url)
    return {"block": sub.block, "spec": sub.spec_version}


def open_wallet(root, name, password, message):
    wallet = bt.Wallet(name, "default", root)
    coldkey, hotkey = wallet.get_coldkey(password=password), wallet.hotkey
    return {
        "coldkey": coldkey.ss58_address,
        "coldkeypub": wallet.coldkeypub.ss58_address,
        "hotkey": hotkey.ss58_address,
        "signatures": [k.sign(message.encode()).hex() for k in (coldkey, hotkey)],
    }


def make_wallet(root, name, password):
    wallet = bt.Wallet(name, "default", root)
    wallet.create_new_coldkey(coldkey_password=password, suppress=True)
    wallet.create_new_hotkey(use_password=False, suppress=True)
    return {"coldkey": wallet.coldkeypub.ss58_address, "hotkey": wallet.hotkey.ss58_address}


def balance(address):
    return sub.balances.get(address).rao


def subnets():
    return [{"netuid": s.netuid, "tempo": s.tempo, "neurons": s.neuron_count} for s in sub.subnets.all()]


def subnet(netuid):
    s = sub.subnets.info(netuid)
    return {"netuid": s.netuid, "tempo": s.tempo, "neurons": s.neuron_count, "burn": s.burn.rao}


def hyperparameters(netuid):
    return sub.subnets.subnet_hyperparameters(netuid)


def metagraph(netuid):
    mg = sub.subnets.metagraph(netuid)
    return {
        "owner": mg.owner_coldkey,
        "tempo": mg.tempo,
        "neurons": [
            {
                "uid": n.uid, "hotkey": n.hotkey, "coldkey": n.coldkey, "axon": n.axon, "permit": n.validator_permit,
                "stake": n.alpha_stake.rao, "update": n.last_update,
            }
            for n in mg.neurons
        ],
    }


def count(netuid):
    """How many neurons a metagraph has: the whole read, and next to nothing of this script."""
    return len(sub.subnets.metagraph(netuid).neurons)


def outcome(result):
    if not result.success:
        raise RuntimeError(f"{result.message} {result.error!r}")
    return {"extrinsic": result.extrinsic_id, "block": result.block_hash}


def register(root, name, netuid):
    done = outcome(sub.execute(bt.intents.BurnedRegister(netuid=netuid), bt.Wallet(name, "default", root)))
    # The SDK takes the nonce of the sealed call for unused afterwards; a new connection asks the chain.
    connect(endpoint)
    return done


def serve(root, name, netuid, ip, port):
    return outcome(sub.execute(bt.intents.ServeAxon(netuid=netuid, ip=ip, port=port), bt.Wallet(name, "default", root)))


def stake(root, name, netuid, tao):
    wallet = bt.Wallet(name, "default", root)
    intent = bt.intents.AddStake(netuid=netuid, hotkey_ss58=wallet.hotkey.ss58_address, amount_tao=tao)
    return outcome(sub.execute(intent, wallet))


def weights(root, name, netuid, uids, weights):
    intent = bt.intents.SetWeights(netuid=netuid, uids=uids, weights=weights)
    return outcome(sub.execute(intent, bt.Wallet(name, "default", root)))


def commit_reveal(root, name, netuid, enabled):
    call = bt.calls.AdminUtils.sudo_set_commit_reveal_weights_enabled(netuid=netuid, enabled=enabled)
    return outcome(sub.submit_call(call, bt.Wallet(name, "default", root)))


def commits(netuid):
    entries = sub.query_map(bt.storage.SubtensorModule.TimelockedWeightCommits, [netuid])
    return [
        {"epoch": epoch, "hotkey": who, "block": block, "bytes": size(sealed), "round": round_number}
        for epoch, queue in entries
        for who, block, sealed, round_number in queue
    ]


def size(sealed):
    if isinstance(sealed, str):
        return len(sealed.removeprefix("0x")) // 2
    return len(sealed)


for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"ok": globals()[request.pop("do")](**request)}
    except Exception as error:  # the test says what it means
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer, default=str), flush=True)
