# Each target sets up .venv by itself from a bare Python >= 3.10.
# TORCH names the torch to install: the default is the CPU build on a machine without a GPU index;
# `make run TORCH=torch` takes the newest one that pip finds.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
OUT ?= runs

.PHONY: run table report inside speed shares inside-speed test lowest clip lmms demo demo-test demo-load lint types wheel pictures clean

# torch goes first and alone, so that no other package pulls another build of it.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

# The main job: the bundled LLaVA on the bundled probe, methods of every kind at three budgets, table
# and pictures.
run: .venv/ready
	$(BIN)/lvlm-prune eval --benchmark probe --out $(OUT)/probe

# Every method on the bundled models, one table: about 20 minutes on two cores.
MODELS ?= llava-pictogram,qwen-pictogram,internvl-pictogram
table: .venv/ready
	$(BIN)/lvlm-prune eval --benchmark probe --model $(MODELS) --method all --pairs identity --out $(OUT)/models

# Five methods at two budgets with the whole report: two minutes on two cores.
report: .venv/ready
	$(BIN)/lvlm-prune eval --benchmark probe --keep 0.25,0.125 \
		--method random,grid,cls,visionzip,divprune --out $(OUT)/report

# Everything inside the LLM on the same models, alone and behind visionzip: stages that send 12 visual
# tokens on from layer 1, reweightings, and captions; an hour on two cores.
inside: .venv/ready
	$(BIN)/lvlm-prune eval --benchmark probe --model $(MODELS) --method identity,visionzip --keep 0.25 \
		--layers all@1:12 --reweight all,var:official_code,pai:code --captions --out $(OUT)/inside

# One process a core; any test file also runs alone, with `pytest FILE`.
test: .venv/ready
	$(BIN)/pytest --numprocesses auto --dist loadfile

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type checkers do not follow the package-dir mapping, so they get an installed copy.
types: .venv/ready
	rm -rf build/typecheck
	$(BIN)/pip install --quiet --no-deps --target build/typecheck .
	cd build/typecheck && ../../$(BIN)/mypy -p lvlm_prune --config-file ../../pyproject.toml

# The wheel holds every package, the model and the probe, and works where it is installed alone.
wheel: .venv/ready
	rm -rf build/wheel build/lib
	$(BIN)/python -m build --wheel --outdir build/wheel . > /dev/null
	$(BIN)/python tests/check_wheel.py build/wheel

# The same tests on the oldest transformers of the range.
.venv-lowest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet "$(TORCH)" "transformers==5.18.0" pytest pytest-xdist matplotlib
	.venv-lowest/bin/pip install --quiet --editable .
	touch $@

lowest: .venv-lowest/ready
	.venv-lowest/bin/pytest --numprocesses auto --dist loadfile

# The tests of the clip extra, alone: open_clip brings torchvision, whose registry build brings the
# CUDA torch and breaks transformers beside any other. So neither resolves dependencies here.
TORCHVISION ?= torchvision==0.28.0
.venv-clip/ready: pyproject.toml
	$(PYTHON) -m venv .venv-clip
	.venv-clip/bin/pip install --quiet "$(TORCH)"
	.venv-clip/bin/pip install --quiet --editable . ftfy regex pytest
	.venv-clip/bin/pip install --quiet --no-deps "$(TORCHVISION)" timm "open-clip-torch>=3.0"
	touch $@

# confcutdir: torchvision's operators must be declared before anything imports transformers.
clip: .venv-clip/ready
	LVLM_PRUNE_CLIP=1 .venv-clip/bin/pytest --confcutdir=tests/clip_extra tests/clip_extra

# The tests with lmms-eval, alone: its own dependencies bring torchvision, and with it a CUDA torch.
LMMS_EVAL ?= lmms-eval==0.7.3
.venv-lmms/ready: pyproject.toml
	$(PYTHON) -m venv .venv-lmms
	.venv-lmms/bin/pip install --quiet "$(TORCH)"
	.venv-lmms/bin/pip install --quiet --editable ".[lmms-eval]" pytest
	.venv-lmms/bin/pip install --quiet --no-deps "$(LMMS_EVAL)"
	touch $@

lmms: .venv-lmms/ready
	LVLM_PRUNE_LMMS=1 .venv-lmms/bin/pytest tests/integrations_extra

# The demo's tests, alone: its server, gradio's client, and the browser tests (marker e2e), which
# need Debian's chromium.
.venv-demo/ready: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install --quiet "$(TORCH)"
	.venv-demo/bin/pip install --quiet --editable ".[demo]" playwright pytest
	touch $@

demo: .venv-demo/ready
	.venv-demo/bin/lvlm-prune demo

demo-test: .venv-demo/ready
	LVLM_PRUNE_DEMO=1 .venv-demo/bin/pytest tests/demo_extra

# Eight clients for two minutes: errors, wrong answers, and the server's memory.
demo-load: .venv-demo/ready
	.venv-demo/bin/python tests/demo_extra/load.py --clients 8 --seconds 120

speed: .venv/ready
	$(BIN)/lvlm-prune speed --out $(OUT)/speed

# What signals and selection cost alone; the second needs 5 GiB and some minutes a round.
shares: .venv/ready
	$(BIN)/lvlm-prune speed --preset signals --repeats 1 --out $(OUT)/signals
	$(BIN)/lvlm-prune speed --preset selection-2880 --repeats 1 --out $(OUT)/selection-2880

# What reweighting and stages inside the LLM cost; ten minutes on a quiet core.
inside-speed: .venv/ready
	$(BIN)/lvlm-prune speed --reweight var --repeats 5 --new-tokens 8 --out $(OUT)/reweight-speed
	$(BIN)/lvlm-prune speed --layers fastv,pyramiddrop,sparsevlm,dart --repeats 5 --new-tokens 8 \
		--out $(OUT)/layers-speed

# The README's tables and pictures, from fresh runs of the commands that it names.
CHROMIUM ?= chromium
pictures: run table report inside speed shares inside-speed .venv-demo/ready
	$(CHROMIUM) --headless=new --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,1440 \
		--screenshot=$(abspath assets/images/report.png) file://$(abspath $(OUT)/report/report.html)
	$(BIN)/lvlm-prune inspect assets/probe/images/scene_000003.jpg "Is there an umbrella in the image?" \
		--keep 49 --layers fastv@2:16 --plant-sinks --save assets/images/inspect.png
	$(BIN)/python assets/build/hero.py
	.venv-demo/bin/python assets/build/demo_pictures.py --chromium $$(command -v $(CHROMIUM))
	$(BIN)/python assets/build/refresh_readme.py --models $(OUT)/models --inside $(OUT)/inside \
		--pictures $(OUT)/probe --speed $(OUT)/speed \
		--signals $(OUT)/signals --selection $(OUT)/selection-2880 \
		--reweight-speed $(OUT)/reweight-speed --layers-speed $(OUT)/layers-speed

clean:
	rm -rf .venv .venv-lowest .venv-clip .venv-lmms .venv-demo build runs
