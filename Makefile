# make demo   the whole network on this machine: chain, validator, miner, executors, one job
# make test   everything that must hold before a change lands
.POSIX:
.PHONY: demo test check race fuzz-short lint generate bench fuzz build setup tools clean

BUILD = CGO_ENABLED=0 go build -trimpath

demo: build
	scripts/setup.sh demo
	bin/basilica up --once

test: setup build check race fuzz-short

build:
	mkdir -p bin
	$(BUILD) -ldflags '-s -w' -o bin/basilica ./cmd/basilica
	$(BUILD) -ldflags '-s -w' -o bin/gpu-attestor ./cmd/gpu-attestor
	$(BUILD) -ldflags '-s -w' -tags adversary -o bin/gpu-attestor-cheat ./cmd/gpu-attestor
	@! go version -m bin/basilica | grep purego || { echo 'bin/basilica links purego; only gpu-attestor may' >&2; exit 1; }

setup:
	scripts/setup.sh test

tools:
	scripts/tools.sh

# Everything but tests: formatting, vet, staticcheck, generated code, go.mod.
check: tools
	@bin/tools/gofumpt -d $$(git ls-files '*.go' ':!*.pb.go') >bin/gofumpt.diff; test ! -s bin/gofumpt.diff || { cat bin/gofumpt.diff; exit 1; }
	go vet ./...
	go vet -tags adversary ./cmd/gpu-attestor
	bin/tools/staticcheck ./...
	scripts/generated.sh
	go mod tidy -diff

# The network tests run after the others: they share the machine's cores with nobody.
race:
	go test -race -timeout 15m $$(go list ./... | grep -v '^basilica/internal/testnet$$')
	go test -race -timeout 15m ./internal/testnet

fuzz-short:
	scripts/fuzz.sh 5s

lint: check

generate: tools
	bin/tools/buf generate

bench:
	go test -run '^$$' -bench . -benchmem ./...

fuzz:
	scripts/fuzz.sh 60s

clean:
	rm -rf bin
