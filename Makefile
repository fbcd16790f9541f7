# Needs python3 >= 3.11 and make; everything else is installed into .venv, with the versions in constraints.txt.
# PYTHON makes .venv; EPOCHS is how long `make demo` trains.
PYTHON ?= python3
EPOCHS ?= 40

PY := .venv/bin/python
PYTEST := $(PY) -m pytest -n logical --maxprocesses 4 --dist worksteal
# Has torch and its matrix libraries compute as on a CPU without AVX.
OLD_CPU := ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41

.PHONY: help demo test test-slow test-gpu docs clean

help:
	@echo "make demo       train PPO on CartPole-v1, save the policy and draw its learning curve"
	@echo "make test       what CI runs: ruff, mypy and the tests"
	@echo "make test-slow  the long tests as well"
	@echo "make test-gpu   the tests that need a CUDA device"
	@echo "make docs       build the site, docs/_build/html, and say where it is"
	@echo "make clean      remove .venv and caches; runs in data/ stay"

# Every demo has a folder of its own, so that its picture shows its run alone.
demo: .venv/demo.stamp
	@out="$${SPINUP_DATA_DIR:-data}/demo-$$(date +%Y%m%d-%H%M%S)" && run="$$out/demo/demo_s0" && \
	$(PY) -m spinup.run ppo --env CartPole-v1 --exp_name demo --epochs $(EPOCHS) --data_dir "$$out" && \
	$(PY) -m spinup.run plot "$$out" --out "$$out/curve.png" && \
	ls "$$run/model.pt" "$$run/progress.txt" "$$out/curve.png" >/dev/null && \
	printf '%s\n' "" "policy  $$run/model.pt" "table   $$run/progress.txt" "curve   $$out/curve.png" \
	"(for the commands above, first: source .venv/bin/activate)"

test: .venv/test.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PYTEST)
	$(OLD_CPU) $(PYTEST) -q tests/test_capture.py -k "same or layers"

test-slow: .venv/slow.stamp test
	$(PY) -m pytest -m slow
	$(PYTEST) -q --hypothesis-profile=random tests/test_fuzz.py tests/test_cli.py tests/test_faults.py

test-gpu: .venv/test.stamp
	$(PY) -m pytest -m gpu

# Every warning is an error: a link without a target, a page that no menu has, an equation without its line of code.
docs: .venv/docs.stamp
	@rm -rf docs/_build/html
	$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@printf '%s\n' "the site   $(CURDIR)/docs/_build/html/index.html"

clean:
	rm -rf .venv build docs/_build spinup.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- set-up: done once, and again when what it depends on changes

.venv/demo.stamp: EXTRAS =
.venv/docs.stamp: EXTRAS = [docs]
.venv/test.stamp: EXTRAS = [dev,mpi,mujoco,video,docs,triton]
.venv/slow.stamp: EXTRAS = [dev,mpi,mujoco,video,docs,triton,ray]
.venv/demo.stamp .venv/docs.stamp .venv/test.stamp .venv/slow.stamp: pyproject.toml setup.py constraints.txt spinup/__init__.py | $(PY)
	@echo "installing into .venv: the first time takes minutes (torch is large)"
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".$(EXTRAS)"
	@touch $@

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "spinup needs Python 3.11 or newer, and $(PYTHON) is not; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
