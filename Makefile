# Two commands are enough: `make demo` and `make test`. Both set themselves up on a fresh Debian with
# Rust. The rest is for people who work on Quorate.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# rustup's default place, for shells that have not read its profile.
export PATH := $(PATH):$(HOME)/.cargo/bin

CARGO ?= cargo
PYTHON ?= python3
DEMO_ARGS ?=
DEMO_OUT := demo-out
FUZZ_SECONDS ?= 60
TFHE := --manifest-path tfhe/Cargo.toml --target-dir target --locked

.PHONY: help demo test tfhe lint bench soak mutant fuzz clean setup setup-dev

help:
	@echo "make demo    five banks train one model through key authorities and an aggregator"
	@echo "             (DEMO_ARGS='--rounds 5 --no-faults' passes options on)"
	@echo "make test    every check: layers, format, lints, tests, simulation, mutants, benches once"
	@echo "make tfhe    lints and tests of quorate-tfhe, which no other target builds"
	@echo "make lint    layers, format and lints only"
	@echo "make bench   criterion benches, one measured sum per served scheme, vertical training"
	@echo "make soak    the simulation and the crash tests for much longer"
	@echo "make mutant CHECK=Floor   the attacks with one named check off: must fail"
	@echo "make fuzz    coverage-guided fuzzing of every decoder (nightly, cargo-fuzz)"
	@echo "make clean   remove build outputs and the demo's folder"

setup:
	@scripts/setup.sh

setup-dev:
	@scripts/setup.sh rustfmt clippy

# The second opinion runs outside the binary and shares no code with it: a script trains pooled
# logistic regression on the same fold, and check_demo.py compares.
demo: setup
	$(CARGO) build --release --locked -p quorate-server
	target/release/quorate demo --check $(DEMO_ARGS)
	$(PYTHON) scripts/check_demo.py --out $(DEMO_OUT)

lint: setup-dev
	$(CARGO) xtask layers
	$(CARGO) xtask lab
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@if command -v cargo-deny >/dev/null; then \
		$(CARGO) deny --offline check licenses bans sources; \
	else \
		echo "cargo-deny is not installed: licences, bans and sources were not checked"; \
	fi

# One profile and the whole workspace each time, so that nothing is compiled twice: selecting a
# package with -p would resolve other features. `cargo test --workspace` includes the doc tests.
test: lint
	$(CARGO) build --locked -p quorate-server
	$(CARGO) test --workspace --locked
	scripts/phe_interop.sh
	$(CARGO) test --workspace --locked --features quorate-tests/mutants --test mutants
	$(CARGO) test --workspace --locked --bench '*'
	$(CARGO) doc --workspace --no-deps --locked
	$(PYTHON) scripts/check_demo.py --self-test

# A workspace of its own, which is never built with the others; the folder is shared, because most of its
# dependencies are the same.
tfhe: setup-dev
	$(CARGO) fmt --manifest-path tfhe/Cargo.toml --check
	$(CARGO) clippy $(TFHE) --all-targets -- -D warnings
	$(CARGO) test $(TFHE)
	$(CARGO) doc $(TFHE) --no-deps
	@if command -v cargo-deny >/dev/null; then \
		$(CARGO) deny --offline --manifest-path tfhe/Cargo.toml check licenses bans sources; \
	else \
		echo "cargo-deny is not installed: licences, bans and sources were not checked"; \
	fi

bench: setup
	$(CARGO) bench --locked -p quorate-benches
	$(CARGO) build --release --locked -p quorate-server
	target/release/quorate bench sum --scheme pad --parties 10 --dim 1000000 --json
	target/release/quorate bench sum --scheme ddh-mcfe --parties 10 --dim 2000 --json
	target/release/quorate bench sum --scheme paillier --parties 10 --dim 10000 --bits 32 --json
	target/release/quorate bench sum --scheme elgamal --parties 10 --dim 10000 --bits 20 --json
	target/release/quorate bench vertical --rows 100000 --json

soak: setup
	QUORATE_SIM_SEEDS=$${QUORATE_SIM_SEEDS:-100000} QUORATE_CRASH_JOBS=$${QUORATE_CRASH_JOBS:-500} \
		$(CARGO) test --release --workspace --locked -- --include-ignored

mutant: setup
	QUORATE_MUTANT=$(CHECK) $(CARGO) test --workspace --locked --features quorate-tests/mutants --test attacks

fuzz: setup
	@command -v cargo-fuzz >/dev/null || { echo "needs: cargo install cargo-fuzz, and a nightly toolchain"; exit 1; }
	cd tests/fuzz && for target in $$($(CARGO) +nightly fuzz list); do \
		$(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS); \
	done

clean:
	$(CARGO) clean
	rm -rf $(DEMO_OUT)
