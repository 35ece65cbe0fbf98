# Everything a developer or CI runs. Each line does its own set-up; nothing is hidden elsewhere.

SWIFT_BUILD = swift build -c release --build-tests
BIN = .build/release
# About two minutes of chaos come before the tests; `make chaos` is the whole of it.
CHAOS_FAULTS = 22
# And a minute and a half of rank groups; `remote-g2 run --tp 3` plays all their scenes.
RANK_SCENES = 'pull,one rank hangs,two of three fail,rank killed'
# And two of saving; `make load` plays those of a loaded machine.
SAVING_SCENES = 'right after ready,saved again'
LOAD_SCENES = 'fifty pulls,twenty stops,six at once,beside a prefill'

.PHONY: all setup build run test check bench format reference sim chaos load sanitize mutants clean

all: build

setup:
	@scripts/setup

build: setup
	@$(SWIFT_BUILD)

# The main job: two workers, one real model, eleven scenes. RUN_FLAGS adds flags, e.g. --json FILE.
run: build
	@$(BIN)/remote-g2 run $(RUN_FLAGS)
	@echo 'the same pull over the transports that UCX chooses (cma on one host):'
	@$(BIN)/remote-g2 run --transport auto --scenes pull

# Ten thousand seeded worlds; SIM_FLAGS adds flags, e.g. --profile crash.
sim: build
	@$(BIN)/remote-g2 sim --seeds 10000 --steps 2000 $(SIM_FLAGS)

# Faults thrown at real workers; CHAOS_FLAGS adds flags, e.g. --faults 22.
chaos: build
	@$(BIN)/remote-g2 chaos --faults 330 $(CHAOS_FLAGS)

# What a loaded machine does to pulls, and pulls to others.
load: build
	@$(BIN)/remote-g2 run --scenes $(LOAD_SCENES)

# All tests, in the same configuration and folder as run and bench.
test: build
	@$(BIN)/remote-g2 chaos --if-possible --faults $(CHAOS_FAULTS)
	@$(BIN)/remote-g2 run --if-possible --tp 3 --scenes $(RANK_SCENES)
	@$(BIN)/remote-g2 run --if-possible --scenes $(SAVING_SCENES)
	@swift test -c release --skip-build --no-parallel $(TEST_FLAGS)

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

# Ten one-line changes of the code, each of which the tests must notice.
mutants: setup
	@scripts/mutants

# Compares 64 greedy tokens with llama.cpp on an F32 file of the same weights.
reference: build
	@scripts/reference

clean:
	@rm -rf .build .build-*
