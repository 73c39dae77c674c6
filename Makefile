# Thin on purpose: each target is the one line that does it. `make help` tells them.
SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
CLBRIDGE := $(TARGET)/release/clbridge
SECONDS_TO_FUZZ ?= 600
.DEFAULT_GOAL := help
.PHONY: help deps build demo test bench faults campaign soak fuzz sim mdt-sim compose-test

help: ## these lines
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 19

deps: ## what the build needs (installed by apt-get as root, else the line to type is printed)
	@tests/up install build

build: deps ## the release binaries
	cargo build --release --workspace

demo: deps ## two simulated MDTs to consumer groups in under 40 s; ARGS='--sink nats --broker HOST:PORT' or '--watch DIR'
	cargo build --release --bin clbridge
	$(CLBRIDGE) demo $(ARGS)

test: deps ## everything that proves it works: lints, unit tests, simulation, every fault on real brokers, fuzzing, interop
	tests/lib/steps

bench: deps ## the table of rates, ratios and latencies; writes target/report/bench.json; ARGS='kafka' for a part
	cargo build --release --workspace --bins --examples
	tests/up run -- $(TARGET)/release/examples/bench $(ARGS)

faults: deps ## the long fault runs on a real Kafka: kills, MDT crashes, broker, groups; ARGS is a part of a test's name
	tests/up run -- cargo test --release -p clbridge-tests --test faults -- --nocapture $(ARGS)

campaign: deps ## the full numbers of every fault, hours; can be interrupted and goes on; writes docs/delivery; ARGS: parts of names
	tests/lib/campaign run $(ARGS)

soak: deps ## everything at once for MINUTES minutes (default 60): random faults, memory and descriptors over time
	CLB_MINUTES=$(or $(MINUTES),60) tests/up run --own -- cargo test --release -p clbridge-tests --test soak -- --nocapture

fuzz: deps ## fuzzes the record codec for SECONDS_TO_FUZZ seconds (default 600)
	schemas/fuzz/run $(SECONDS_TO_FUZZ)

sim: deps ## the deterministic simulation; SEEDS=FROM..TO for as many schedules as wished, SEED=N for one with its trace
	cargo test --release -p clbridge-tests --test simulation -- --nocapture

mdt-sim: deps ## a simulated MDT to play with; ARGS are those of `mdt-sim serve`
	cargo run --release --bin mdt-sim -- serve $(ARGS)

compose-test: deps ## the container stack with a real Docker engine: every container is killed; ARGS: profiles, or --help
	cargo build --release --bin clbridge --bin mdt-sim
	compose/test $(ARGS)
