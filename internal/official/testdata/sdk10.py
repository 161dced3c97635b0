"""bittensor 10.5.0, a step a line: reads {"do": STEP, ...} and writes {"ok": VALUE} or {"error": TEXT}.

Its Dendrite and Axon ask the Internet for their own address, which no test may need: here the answer is from RFC 5737.
"""

import json
import sys
import typing

import bittensor as bt
from bittensor.utils import networking
from bittensor.utils.balance import Balance
from bittensor_wallet import Wallet

networking.get_external_ip = lambda: "192.0.2.1"

sub = None
axon = None


class Offer(bt.Synapse):
    """A class of our bridge: the request and the reply are JSON in text."""

    request: str
    reply: typing.Optional[str] = None
    required_hash_fields: typing.ClassVar[tuple[str, ...]] = ("request",)


class Plan(Offer):
    """Another one."""


class Prompt(bt.Synapse):
    """The class of this axon."""

    text: str
    count: int = 1
    reply: typing.Optional[str] = None
    required_hash_fields: typing.ClassVar[tuple[str, ...]] = ("text",)


def connect(url):
    global sub
    sub = bt.Subtensor(network=url)
    return {"block": sub.block}


def open_wallet(root, name, password, message):
    wallet = Wallet(name=name, hotkey="default", path=root)
    coldkey, hotkey = wallet.get_coldkey(password=password), wallet.hotkey
    return {
        "coldkey": coldkey.ss58_address,
        "coldkeypub": wallet.coldkeypub.ss58_address,
        "hotkey": hotkey.ss58_address,
        "signatures": [k.sign(message.encode()).hex() for k in (coldkey, hotkey)],
    }


def make_wallet(root, name, password):
    wallet = Wallet(name=name, hotkey="default", path=root)
    wallet.create_new_coldkey(n_words=12, use_password=True, coldkey_password=password, suppress=True)
    wallet.create_new_hotkey(n_words=12, use_password=False, suppress=True)
    return {"coldkey": wallet.coldkeypub.ss58_address, "hotkey": wallet.hotkey.ss58_address}


def balance(address):
    return sub.get_balance(address).rao


def subnets():
    return [{"netuid": s.netuid, "tempo": s.tempo} for s in sub.all_subnets()]


def subnet(netuid):
    s = sub.subnet(netuid)
    return {"netuid": s.netuid, "tempo": s.tempo, "burn": sub.recycle(netuid).rao}


def hyperparameters(netuid):
    return dict(vars(sub.get_subnet_hyperparameters(netuid)))


def metagraph(netuid, lite=True):
    mg = sub.metagraph(netuid, lite=lite)
    return {
        "neurons": [
            {
                "uid": int(n.uid), "hotkey": n.hotkey, "coldkey": n.coldkey, "axon": f"{n.axon_info.ip}:{n.axon_info.port}",
                "permit": bool(n.validator_permit), "stake": Balance.from_tao(float(mg.alpha_stake[i])).rao, "update": int(n.last_update),
            }
            for i, n in enumerate(mg.neurons)
        ],
    }


def count(netuid):
    """How many neurons a metagraph has: the whole read, and next to nothing of this script."""
    return len(sub.metagraph(netuid).neurons)


def outcome(response):
    if not response.success:
        raise RuntimeError(f"{response.message} {response.error!r}")
    return {"function": response.extrinsic_function}


def register(root, name, netuid):
    return outcome(sub.register(Wallet(name=name, hotkey="default", path=root), netuid))


def serve(root, name, netuid, ip, port):
    it = bt.Axon(wallet=Wallet(name=name, hotkey="default", path=root), port=port, ip="127.0.0.1", external_ip=ip, external_port=port)
    return outcome(sub.serve_axon(netuid, it))


def stake(root, name, netuid, tao):
    wallet = Wallet(name=name, hotkey="default", path=root)
    return outcome(sub.add_stake(wallet, netuid, wallet.hotkey.ss58_address, Balance.from_tao(tao)))


def weights(root, name, netuid, uids, weights, block_time):
    wallet = Wallet(name=name, hotkey="default", path=root)
    uid = sub.get_uid_for_hotkey_on_subnet(wallet.hotkey.ss58_address, netuid)
    while sub.blocks_since_last_update(netuid, uid) <= sub.weights_rate_limit(netuid):
        sub.wait_for_block()  # the SDK itself would give up without a word
    return outcome(sub.set_weights(wallet, netuid, uids, weights, block_time=block_time))


def commits(netuid):
    return [
        {"hotkey": who, "block": block, "bytes": len(sealed.removeprefix("0x")) // 2, "round": round_number}
        for who, block, sealed, round_number in sub.get_timelocked_weight_commits(netuid)
    ]


def dendrite(root, name, ip, port, hotkey, kind, request, timeout=12):
    it = bt.Dendrite(wallet=Wallet(name=name, hotkey="default", path=root))
    target = bt.AxonInfo(version=10005000, ip=ip, port=port, ip_type=4, hotkey=hotkey, coldkey=hotkey)
    synapse = globals()[kind](request=request) if kind != "Synapse" else bt.Synapse()
    answer = it.query(axons=[target], synapse=synapse, deserialize=False, timeout=timeout)[0]
    return {
        "success": answer.is_success, "code": answer.dendrite.status_code, "message": answer.dendrite.status_message,
        "axon_code": answer.axon.status_code, "reply": getattr(answer, "reply", None),
    }


def prompt(synapse: Prompt) -> Prompt:
    if synapse.text == "boom":
        raise RuntimeError("boom")
    synapse.reply = "hi " + synapse.text * synapse.count
    return synapse


def start_axon(root, name, port, listed):
    global axon

    def blacklist(synapse: Prompt) -> typing.Tuple[bool, str]:
        return synapse.dendrite.hotkey == listed, "listed"

    axon = bt.Axon(wallet=Wallet(name=name, hotkey="default", path=root), port=port, ip="127.0.0.1", external_ip="127.0.0.1")
    axon.attach(forward_fn=prompt, blacklist_fn=blacklist)
    axon.start()
    return axon.wallet.hotkey.ss58_address


for line in sys.stdin:
    step = json.loads(line)
    try:
        answer = {"ok": globals()[step.pop("do")](**step)}
    except Exception as error:  # the test says what it means
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer, default=str), flush=True)
