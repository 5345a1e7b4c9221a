# make setup  the environment in .venv and zoo:raptor      make demo   a flight, with its report
# make test   checks and tests (does its own set-up)       make check  ruff, pyright, import-linter

PY := .venv/bin/python
RUN := env -u _ROS_WHEELS_BOOTSTRAP_COMPLETE ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST \
	AMENT_PREFIX_PATH=$(CURDIR)/.venv PATH="$(CURDIR)/.venv/bin:$$PATH"
STAMP := .venv/.installed
RAPTOR := robot_policies/zoo/raptor/policy.json
PYTHON ?= >=3.11,<3.14

# uv does not read pip's setting: pass the folder of local wheels on, where one is named.
ifneq ($(PIP_FIND_LINKS),)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

# An installed uv, or one of our own below .uv.
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)

.PHONY: setup demo test check onboard clean
setup: $(STAMP) $(RAPTOR)

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/python -m pip install --quiet uv

$(STAMP): setup.py constraints.txt $(filter .uv/bin/uv,$(UV))
	test -x $(PY) || $(UV) venv --quiet --python "$(PYTHON)" .venv
	$(UV) pip install --quiet --python $(PY) -c constraints.txt -e ".[train,logs,ros,test]"
	touch $@

$(RAPTOR): $(STAMP) robot_policies/contract.py robot_policies/importers/raptor.py robot_policies/export.py \
		robot_policies/graph.py
	$(RUN) $(PY) -m robot_policies.cli import raptor --output robot_policies/zoo/raptor --replace

demo: setup
	$(RUN) $(PY) -m sim.demo

check: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/pyright

test: setup check onboard
	$(RUN) $(PY) -m pytest

# The onboard half on Python 3.12, the version of Jazzy's robots, where such an interpreter is found:
# by uv, or among pyenv's, whose placeholders on the PATH uv cannot use.
PYTHON312 ?= $(or $(shell $(UV) python find --no-python-downloads 3.12 2>/dev/null),$(lastword \
	$(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.12*/bin/python)))
onboard: setup
	@python="$(PYTHON312)"; if test -n "$$python"; then \
	  test -x .venv-onboard/bin/python || \
	    $(UV) venv --quiet --no-python-downloads --python "$$python" .venv-onboard; \
	  $(UV) pip install --quiet --python .venv-onboard/bin/python -c constraints.txt \
	    numpy onnxruntime pyyaml tyro rich mcap mcap-ros2-support matplotlib \
	    pytest hypothesis cryptography onnx && \
	  PYTHONPATH=. .venv-onboard/bin/python -m pytest test/onboard; \
	else echo "onboard: no Python 3.12 here; its tests run under $$($(PY) --version) only"; fi

clean:
	rm -rf .venv .venv-onboard .uv build install log dist *.egg-info robot_policies/zoo/raptor
