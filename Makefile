# Mica: a thin front for CMake. `make help` lists what there is.
#
#   build/             release build: build/mica, build/libmica.so
#   build/<preset>/    the other presets of CMakePresets.json (debug, asan+ubsan, tsan, fuzz)

PREFIX ?= /usr/local
DESTDIR ?=
JOBS ?=
FUZZ_SECONDS ?= 20
CTEST_FLAGS ?= --output-on-failure --no-tests=error

BUILD = build
SETUP_HINT = { echo "make: the build could not be configured; 'make deps' installs what it needs" >&2; exit 1; }

all: build

help:
	@echo 'make            release build: $(BUILD)/mica and $(BUILD)/libmica.so'
	@echo 'make deps       install the Debian packages that build and tests need'
	@echo 'make demo       set up, build, and draw four pictures: demo.png'
	@echo 'make test       set up, build, and run every test'
	@echo 'make test-cuda  build with the CUDA backend and run what needs a GPU'
	@echo 'make sanitize   asan+ubsan build of the unit, kernel, parser and replay tests, and run them'
	@echo 'make bench      operations and two full-width Qwen-Image blocks on this machine'
	@echo 'make lint       layering, exported symbols, sizes, formatting'
	@echo 'make format     run clang-format over the sources'
	@echo 'make fuzz       libFuzzer builds (clang) and FUZZ_SECONDS=$(FUZZ_SECONDS) of each target'
	@echo 'make install    into PREFIX=$(PREFIX), below DESTDIR'
	@echo 'make clean      remove $(BUILD)/'

deps:
	@tools/install_deps.sh

build: configure
	@cmake --build $(BUILD) --target mica_program $(if $(JOBS),-j $(JOBS))

configure:
	@cmake --preset release --log-level=WARNING || $(SETUP_HINT)

# Everything: tests, their tools, benchmarks.
build-all: configure
	@cmake --build $(BUILD) $(if $(JOBS),-j $(JOBS))

demo: deps
	@$(MAKE) --no-print-directory build
	@echo 'The demo model (models/demo, 23 MB, emoji-like pictures) draws four prompts into demo.png:'
	$(BUILD)/mica image --seed 5 --sheet auto --show -o demo.png \
	    -p 'a red fox in the snow' -p 'a purple car on a yellow background' \
	    -p 'a rocket in space' -p 'a blue heart above a red car'
	@echo "Try your own: $(BUILD)/mica image -p 'an owl at night'. README.md says how to get a real model."

test: deps
	@$(MAKE) --no-print-directory build-all
	@ctest --test-dir $(BUILD) $(CTEST_FLAGS)

# A build of its own, so that the ordinary one stays what it is.
CUDA_BUILD = $(BUILD)/cuda
test-cuda: deps
	@cmake --preset cuda --log-level=WARNING || $(SETUP_HINT)
	@cmake --build --preset cuda $(if $(JOBS),-j $(JOBS))
	@MICA=$(CUDA_BUILD)/mica COMPARE=$(CUDA_BUILD)/tests/compare/compare_backends \
	    GOLDEN_CLI=$(CUDA_BUILD)/tests/cli/golden_cli PIXELS=$(CUDA_BUILD)/tests/cli/picture_pixels \
	    TRACE_SAME=$(CUDA_BUILD)/tests/cli/trace_same \
	    LOST=$(CUDA_BUILD)/tests/compare/lost_device VOICE_TESTS=$(CUDA_BUILD)/tests/golden \
	    DATA=tests/golden DEMO=models/demo \
	    LD_LIBRARY_PATH="$(CURDIR)/$(CUDA_BUILD):$$LD_LIBRARY_PATH" \
	    tests/cuda/gpu_suite.sh $(CUDA_BUILD)/gpu_suite.log

sanitize: deps
	@cmake --preset asan+ubsan --log-level=WARNING || $(SETUP_HINT)
	@cmake --build --preset asan+ubsan $(if $(JOBS),-j $(JOBS))
	@ctest --preset asan+ubsan $(CTEST_FLAGS) -L 'unit|kernel|fuzz'

bench: build
	$(BUILD)/mica bench --kernels
	$(BUILD)/mica bench --synthetic qwen-image:layers=2 -W 512 -H 512

lint: build
	@tools/lint/lint.sh $(BUILD)

format:
	@tools/lint/list_sources.sh | xargs -r clang-format -i

fuzz:
	@tools/install_deps.sh --fuzz
	@cmake --preset fuzz --log-level=WARNING || $(SETUP_HINT)
	@cmake --build --preset fuzz $(if $(JOBS),-j $(JOBS))
	@tests/fuzz/run_fuzzers.sh $(BUILD)/fuzz $(FUZZ_SECONDS)

install: build
	@DESTDIR='$(DESTDIR)' cmake --install $(BUILD) --prefix '$(PREFIX)'

clean:
	@rm -rf $(BUILD)

.PHONY: all help deps configure build build-all demo test test-cuda sanitize bench lint format fuzz install clean
