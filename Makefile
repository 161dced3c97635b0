# make demo   the whole network on this machine: chain, validator, miner, executors, one job
# make test   everything that must hold before a change lands
# make adversary: every liar against the verifier, counted; make cheats: the same over a network; make honest: bad luck, counted
# make gpu    what the GPU of this machine can do, and the tests that need one
.POSIX:
.PHONY: demo test check race network lint generate bench fuzz build tools clean kernels adversary cheats honest flood crash escape gpu

BUILD = CGO_ENABLED=0 go build -trimpath
# The flags of the build, so that what it compiled is not compiled again.
LIKE_BUILD = CGO_ENABLED=0 GOFLAGS="$$(go env GOFLAGS) -trimpath"

# What only computes is ten times slower when watched: the race detector leaves SQLite's translated C, others' arithmetic and the
# PTX interpreter of the tests alone.
UNWATCHED = modernc.org/sqlite/lib modernc.org/libc/... modernc.org/memory github.com/consensys/gnark-crypto/... \
	github.com/oasisprotocol/curve25519-voi/... golang.org/x/crypto/argon2 golang.org/x/crypto/scrypt \
	basilica/nvidia/ptxsim
# `check` vets all of it, with every analyser; go test would read every dependency again for a few of them.
RACE = -race -vet=off $$(for p in $(UNWATCHED); do printf -- '-gcflags=%s=-race=false ' $$p; done)

demo: build
	scripts/setup.sh demo
	bin/basilica up --once

# Packages are installed while what needs none of them is built and checked. A failed test keeps no other from running.
test:
	@mkdir -p bin
	scripts/setup.sh test >bin/setup.log 2>&1 & setup=$$!; checked=0; $(MAKE) build check || checked=$$?; \
	wait $$setup || { cat bin/setup.log >&2; exit 1; }; scripts/kernels.sh check || checked=$$?; exit $$checked
	@status=0; $(MAKE) race || status=$$?; $(MAKE) network || status=$$?; exit $$status

build:
	mkdir -p bin
	$(BUILD) -ldflags '-s -w' -o bin/basilica ./cmd/basilica
	$(BUILD) -ldflags '-s -w' -o bin/gpu-attestor ./cmd/gpu-attestor
	$(BUILD) -ldflags '-s -w' -tags adversary -o bin/gpu-attestor-cheat ./cmd/gpu-attestor
	@! go version -m bin/basilica | grep purego || { echo 'bin/basilica links purego; only gpu-attestor may' >&2; exit 1; }

tools:
	scripts/tools.sh

# Everything but tests: formatting, vet, staticcheck, generated code, go.mod.
check: tools
	@bin/tools/gofumpt -d $$(git ls-files '*.go' ':!*.pb.go') >bin/gofumpt.diff; test ! -s bin/gofumpt.diff || { cat bin/gofumpt.diff; exit 1; }
	$(LIKE_BUILD) go vet ./...
	$(LIKE_BUILD) go vet -tags adversary ./cmd/gpu-attestor
	$(LIKE_BUILD) go vet -tags nocuda ./cmd/gpu-attestor ./nvidia
	$(LIKE_BUILD) bin/tools/staticcheck ./...
	scripts/generated.sh
	go mod tidy -diff

# What takes longest begins first, so that no long one runs alone at the end.
FIRST = basilica/internal/official basilica/localnet basilica/node basilica/validator basilica/cmd/basilica basilica/executor basilica/attest

# Packages at once: those that take longest wait for blocks and containers much of their time.
SIDE_BY_SIDE = $$((3 * $$(nproc) / 2))

# The official clients are there: scripts/setup.sh test installed them.
race:
	BASILICA_OFFICIAL=1 go test $(RACE) -p $(SIDE_BY_SIDE) -timeout 15m $(FIRST) $$(go list ./... | grep -v '^basilica/internal/testnet$$')

# The network's tests mostly wait for blocks; five seconds of every fuzz target and a tenth of the lab's liars fill the gaps, at the
# lowest priority.
network:
	@mkdir -p bin
	{ status=0; nice -n 19 scripts/fuzz.sh 5s || status=$$?; \
	BASILICA_ADVERSARY=0.1 $(LIKE_BUILD) nice -n 19 go test -vet=off -count=1 -timeout 15m -run '^TestAdversary$$' ./attest/adversary || status=$$?; \
	exit $$status; } >bin/fuzz.log 2>&1 & fuzz=$$!; \
	status=0; go test $(RACE) -timeout 15m -parallel 2 ./internal/testnet || status=$$?; \
	wait $$fuzz || status=$$?; cat bin/fuzz.log; exit $$status

# Kills every role at every crash point, KILLS times each, and prints point, kills, jobs lost, doubled, orphans.
crash:
	KILLS=$${KILLS:-5} go test -count=1 -timeout 12h -parallel 8 -v -run '^TestCrash$$' ./internal/testnet

lint: check

generate: tools
	bin/tools/buf generate
	scripts/kernels.sh
	go run ./cmd/basilica explain --markdown >bin/errors.md && mv bin/errors.md docs/errors.md

# What the chain asks of us, each beside a baseline of the same run; then every benchmark.
bench:
	scripts/bench.sh
	go test -run '^$$' -bench . -benchmem $$(go list ./... | grep -v '^basilica/subtensor$$')

fuzz:
	scripts/fuzz.sh 60s

# 20 s of 1,000 requests a second on each door of a running network, and 200,000 fresh keys at the axon's replay store.
flood:
	BASILICA_FLOOD=1 go test -count=1 -v -timeout 20m -run '^TestUpFromOutside$$' ./internal/testnet
	BASILICA_FLOOD_KEYS=200000 go test -count=1 -v -timeout 20m -run '^TestCaseA2_4ReplayMemoryIsNoTarget$$' ./axon

# A hostile program in a stranger's container: attempt, what happened, held. It holds the host's free disk and memory to what
# they were, so nothing else should run meanwhile.
escape:
	@mkdir -p bin; BASILICA_ESCAPE=alone BASILICA_ESCAPE_ROUNDS=20 go test -count=1 -v -timeout 20m -run '^TestEscape$$' ./executor >bin/escape.log; status=$$?; \
	sed -n -E 's/^    (.* (held|GOT OUT) .*|[0-9]+ attempts: .*)$$/\1/p' bin/escape.log; \
	test $$status = 0 && grep -q ': nothing got out$$' bin/escape.log || { grep -v time= bin/escape.log | tail -n 20; exit 1; }

clean:
	rm -rf bin

# The PTX of every GPU kernel against the CPU prover, at more shapes and with more seeds than `make test` does.
kernels:
	BASILICA_KERNELS=long go test -count=1 -v -timeout 20m -run '^TestKernels$$' ./nvidia/ptxsim

# On a machine with an NVIDIA GPU: what the card can do, beside the bounds of the specification, and the tests that no other machine runs.
gpu:
	@mkdir -p bin; $(BUILD) -o bin/gpu-attestor ./cmd/gpu-attestor
	bin/gpu-attestor selftest --device cuda
	BASILICA_GPU=1 go test -count=1 -v -timeout 20m -run '^TestCard' ./nvidia

# The long versions of tests that `make test` runs short. Every liar and every honest machine of the lab against the verifier's
# state machine: 10,000 rounds where a lie may be believed at all, 200 elsewhere, always the same ones.
adversary:
	BASILICA_ADVERSARY=1 go test -count=1 -timeout 120m -v -run '^(TestAdversary|TestManyFaults|TestSplitModel)$$' ./attest/adversary

# Lies over real SSH connections and in the whole network.
cheats: build
	BASILICA_CHEAT_NETWORK_ROUNDS=20 go test -count=1 -timeout 60m -v -run '^TestCheatsOverSSH$$' ./validator
	BASILICA_CHEAT_KINDS=all go test -count=1 -timeout 60m -v -run '^TestCheatingProver$$' ./internal/testnet

honest:
	BASILICA_HONEST_ROUNDS=500 BASILICA_HANDICAP_ROUNDS=200 go test -count=1 -timeout 60m -v -run '^TestHonestBadLuck$$' ./validator
