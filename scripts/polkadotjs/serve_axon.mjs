// Usage: node serve_axon.mjs ws://127.0.0.1:9944 [hotkey URI] [coldkey URI]
//
// Connects as any polkadot.js client does, registers the hotkey through its coldkey where it is not registered yet
// (register_limit, at most 1 TAO), publishes its axon with serve_axon, checks the extrinsic's own ExtrinsicSuccess and
// reads the axon back, while it is subscribed to heads and to the coldkey's account. Prints one JSON object; exit code 0 only if all of that held.

import { ApiPromise, Keyring, WsProvider } from '@polkadot/api';

const [url, hotURI = '//Dave//hot', coldURI = '//Dave'] = process.argv.slice(2);
const netuid = Number(process.env.NETUID ?? 39);
const deadline = setTimeout(() => fail(new Error('no end within 60 s')), 60_000);

function fail(err) {
  console.error(err);
  process.exit(1);
}

// submit signs, sends and waits for finality; it gives the block's hash and the events of the extrinsic.
function submit(api, call, signer) {
  return new Promise((resolve, reject) => {
    const states = [];
    call.signAndSend(signer, ({ status, events, dispatchError }) => {
      states.push(status.type);
      if (status.isInvalid || status.isDropped || status.isUsurped || status.isFinalityTimeout) {
        reject(new Error(`extrinsic is ${status.type}`));
      }
      if (!status.isFinalized) {
        return;
      }
      if (dispatchError) {
        const { section, name } = dispatchError.isModule
          ? api.registry.findMetaError(dispatchError.asModule)
          : { section: 'DispatchError', name: dispatchError.toString() };
        reject(new Error(`${section}.${name}`));
        return;
      }
      const names = events.map(({ event }) => `${event.section}.${event.method}`);
      if (!names.includes('system.ExtrinsicSuccess')) {
        reject(new Error(`no ExtrinsicSuccess in ${names}`));
        return;
      }
      resolve({ block: status.asFinalized.toHex(), events: names, states });
    }).catch(reject);
  });
}

async function main() {
  if (!url) {
    throw new Error('usage: node serve_axon.mjs ws://HOST:PORT [hotkey URI] [coldkey URI]');
  }
  const api = await ApiPromise.create({ provider: new WsProvider(url), noInitWarn: true, throwOnConnect: true });
  const keyring = new Keyring({ type: 'sr25519' });
  const hotkey = keyring.addFromUri(hotURI);
  const coldkey = keyring.addFromUri(coldURI);

  const heads = [];
  const nonces = [];
  const unsubscribe = [
    await api.rpc.chain.subscribeNewHeads((header) => heads.push(header.number.toNumber())),
    await api.query.system.account(coldkey.address, ({ nonce }) => nonces.push(nonce.toNumber())),
  ];

  const uids = api.query.subtensorModule.uids;
  let registration = null;
  if ((await uids(netuid, hotkey.address)).isNone) {
    registration = await submit(api, api.tx.subtensorModule.registerLimit(netuid, hotkey.address, 1_000_000_000n), coldkey);
  }
  const ip = 0x7f000002; // 127.0.0.2: the chain refuses 127.0.0.1
  const port = 8091;
  const served = await submit(api, api.tx.subtensorModule.serveAxon(netuid, 1, ip, port, 4, 4, 0, 0), hotkey);
  const axon = (await api.query.subtensorModule.axons(netuid, hotkey.address)).unwrap();
  if (axon.ip.toNumber() !== ip || axon.port.toNumber() !== port) {
    throw new Error(`the chain has another axon: ${axon}`);
  }
  const uid = (await uids(netuid, hotkey.address)).unwrap().toNumber();
  const version = api.runtimeVersion;
  console.log(JSON.stringify({
    genesis: api.genesisHash.toHex(),
    specName: version.specName.toString(),
    specVersion: version.specVersion.toNumber(),
    metadata: api.runtimeMetadata.version,
    slotDuration: api.consts.aura.slotDuration.toNumber(),
    netuid, uid, hotkey: hotkey.address,
    registration, served, axon: axon.toJSON(), heads, nonces,
  }));
  unsubscribe.forEach((stop) => stop());
  await api.disconnect();
}

main().then(() => clearTimeout(deadline), fail);
