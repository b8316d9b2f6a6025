# Each target is a thin call to `python -m langmerge`; README.md has the same for PowerShell.
# Arguments: make book ARGS="--language ben_Beng"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
ARGS ?=
ADDRESS ?= http://localhost/langmerge/

COMMANDS := book test base tune verify-reference bench kit

.PHONY: $(COMMANDS) install reference reference-full languages publish-check doctor clean
.DELETE_ON_ERROR:

$(COMMANDS): $(INSTALLED)
	@$(BIN) -m langmerge $@ $(ARGS)

# The other targets install too, where it is missing; this one does nothing else.
install: $(INSTALLED)
	@echo "Ready: call $(VENV)/bin/langmerge, or 'source $(VENV)/bin/activate' and then langmerge"

# What the Pages workflow publishes, in _build/publish, with everything checked.
publish-check: book
	@$(BIN) -m langmerge publish-check --address "$(ADDRESS)"

# Before and after installing: it needs nothing but Python.
doctor:
	@"$$(test -x $(BIN) && echo $(BIN) || echo "$(PYTHON)")" lib/langmerge/doctor.py $(ARGS)

# The verdicts on the three findings: sixteen languages on three bases, on one with all controls.
reference: $(INSTALLED)
	@$(BIN) -m langmerge reference $(ARGS)
	@$(BIN) -m langmerge reference --profile reference-three-bases $(ARGS)

# Another night: two more bases, three languages with every family of further models, at twice the
# rate of CT six others, four other bases and two of another trace, and a larger model, whose base
# is trained first (data/profiles).
reference-full: $(INSTALLED)
	@$(BIN) -m langmerge reference --profile reference-five-bases $(ARGS)
	@$(BIN) -m langmerge reference --profile reference-full $(ARGS)
	@$(BIN) -m langmerge reference --profile reference-baselines $(ARGS)
	@$(BIN) -m langmerge reference --profile reference-trained $(ARGS)
	@$(BIN) -m langmerge reference --profile reference-faster $(ARGS)
	@$(BIN) -m langmerge reference --profile reference-faster-bases $(ARGS)
	@$(BIN) -m langmerge reference --profile reference-traces $(ARGS)
	@$(BIN) -m langmerge reference --profile reference-faster-traces $(ARGS)
	@$(BIN) -m langmerge reference --profile reference-large --train-bases $(ARGS)

# Every shipped language through the notebooks, as small as they go (make test takes one in turn).
languages: $(INSTALLED)
	@$(BIN) -m langmerge languages --run

# Only a change of what is to be installed installs again. pip compiles what it installs on one
# core, tests included; compileall takes all cores, and what does not compile nobody imports.
$(INSTALLED): requirements.txt constraints.txt pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Installing into $(VENV): two to four minutes and 2 GB with the CPU wheel of torch"
	@test -x $(BIN) || "$(PYTHON)" -m venv $(VENV)
	@start=$$(date +%s) && \
	  $(BIN) -m pip install --disable-pip-version-check --no-compile \
	    -r requirements.txt -c constraints.txt && \
	  $(BIN) -m pip install --disable-pip-version-check --no-build-isolation --no-deps -e . && \
	  { $(BIN) -m compileall -q -j 0 -x '/tests?/' $(VENV)/lib >/dev/null 2>&1 || true; } && \
	  torch=$$($(BIN) -c 'from importlib.metadata import version; print(version("torch"))') && \
	  echo "seconds=$$(( $$(date +%s) - start )) torch=$$torch" > $@ && \
	  echo "Installed: $$(cat $@)"

# The store of finished cells (build/store) stays: it is hours of computing, not output.
clean:
	rm -rf _build build/notebooks build/site build/smoke build/jupyter book/_executed
