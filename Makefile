# Everything a developer or CI runs. Each line does its own set-up; nothing is hidden elsewhere.

BIN = .build/release
PURE_SUITES = ^(TidyTests|RemoteG2CoreTests|ContentDigestTests|OSThreadsTests|LocalStoreTests|KVTransferTests|KVConnectorTests|KVWorkerTests|RemoteG2EngineTests|RemoteG2LibraryTests|RemoteG2NodeTests|SimulationTests|TraceReplayTests)\.
# About two minutes of chaos come after the tests; `make chaos` is the whole of it.
CHAOS_FAULTS = 24
# And a minute and a half of rank groups; `remote-g2 run --tp 3` plays all their scenes.
RANK_SCENES = 'pull,one rank hangs,two of three fail,rank killed'
# And two of saving; `make load` plays those of a loaded machine.
SAVING_SCENES = 'right after ready,saved again'
LOAD_SCENES = 'fifty pulls,twenty stops,six at once,beside a prefill'

.PHONY: all setup build program library fleet vllm chaos-vllm run unit test check bench format reference sim chaos load sanitize fuzz networks mutants clean

all: build

setup:
	@scripts/setup

build: setup
	@scripts/build tests

# What `make run` and its kin need, and nothing else.
program: setup
	@scripts/build remote-g2

# The main job: two workers, one real model, eleven scenes. RUN_FLAGS adds flags, e.g. --json FILE.
run: program
	@$(BIN)/remote-g2 run $(RUN_FLAGS)
	@echo 'the same pull over the transports that UCX chooses (cma on one host):'
	@$(BIN)/remote-g2 run --transport auto --scenes pull

# What an engine in another language loads, with the tests of its C interface.
library: program
	@scripts/build remote_g2
	@scripts/native
	@scripts/library

# Four workers with the built-in engine, each beside a node, behind a plain load balancer; FLEET_FLAGS adds flags.
fleet: program
	@$(BIN)/remote-g2 fleet $(FLEET_FLAGS)

# Two stock vLLM servers, each beside a node, share one cache; VLLM_FLAGS adds flags, e.g. --json FILE.
vllm: library
	@scripts/vllm $(VLLM_FLAGS)

# A hundred faults with stock vLLM as the client; VLLM_FLAGS adds flags, e.g. --seed 2.
chaos-vllm: library
	@scripts/vllm --scenes chaos $(VLLM_FLAGS)

# Ten thousand seeded worlds of each of two kinds; SIM_FLAGS adds flags, e.g. --doublecheck.
sim: program
	@$(BIN)/remote-g2 sim --seeds 10000 --steps 2000 $(SIM_FLAGS)
	@$(BIN)/remote-g2 sim --profile fleet --seeds 10000 --steps 2000 $(SIM_FLAGS)

# Faults thrown at real workers; CHAOS_FLAGS adds flags, e.g. --faults 22.
chaos: program
	@$(BIN)/remote-g2 chaos --faults 330 $(CHAOS_FLAGS)

# What a loaded machine does to pulls, and pulls to others.
load: program
	@$(BIN)/remote-g2 run --scenes $(LOAD_SCENES)

# The pure suites alone (but for their two longest tests), in a build folder of their own: no process of ours is started. The inner loop.
# UNIT_FLAGS adds flags, e.g. --filter machine.
unit: setup
	@scripts/unit $(UNIT_FLAGS)

# All tests, in the same configuration and folder as run and bench: first the pure suites, then those that
# need the model, NIXL or processes, then faults and scenes with real workers.
test: build
	@scripts/unpack etcd-server ./usr/bin/etcd .deps/etcd/etcd
	@scripts/setup tests
	@swift test -c release --skip-build --no-parallel --filter '$(PURE_SUITES)'
	@swift test -c release --skip-build --no-parallel --skip '$(PURE_SUITES)'
	@scripts/build remote_g2
	@scripts/native
	@scripts/library
	@scripts/metrics
	@scripts/members --if-possible
	@$(BIN)/remote-g2 fleet --requests 32
	@$(BIN)/remote-g2 run --if-possible --scenes $(SAVING_SCENES)
	@$(BIN)/remote-g2 run --if-possible --tp 3 --scenes $(RANK_SCENES)
	@$(BIN)/remote-g2 chaos --if-possible --faults $(CHAOS_FAULTS)

# Warnings are errors in every build; here also the format and the tidy tests.
check: build
	@scripts/format --check
	@swift test -c release --skip-build --filter TidyTests

format:
	@scripts/format

bench: setup
	@scripts/bench $(BENCH_FLAGS)

# The unit and simulation suites under the thread and address sanitizers.
sanitize: setup
	@scripts/sanitize

# Any bytes at all for whatever reads bytes of others, guided by coverage; FUZZ_FLAGS="SECONDS TARGET...".
fuzz: setup
	@scripts/fuzz $(FUZZ_FLAGS)

# Six nodes over networks that are slow, lossy, far, cut, half-open and deaf, and a rolling restart. Needs root.
networks: build
	@scripts/networks $(NETWORKS_FLAGS)

# Ten one-line changes of the code, each of which the tests must notice.
mutants: setup
	@scripts/mutants

# Compares 64 greedy tokens with llama.cpp on an F32 file of the same weights.
reference: build
	@scripts/reference

clean:
	@rm -rf .build .build-*
