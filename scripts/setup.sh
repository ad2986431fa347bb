#!/bin/sh
# Makes .venv with what is asked for: `setup.sh runtime` or `setup.sh dev`. Names what is missing before it tries anything.
set -eu
cd "$(dirname "$0")/.."
wanted=${1:-runtime}

fail() { echo "jade setup: $1" >&2; exit 2; }

command -v make >/dev/null 2>&1 || echo "jade setup: note: make is not installed; \`make compare\` needs it (Debian: apt-get install make)" >&2

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ -n "${PYTHON:-}" ]; then
  command -v "$PYTHON" >/dev/null 2>&1 || fail "PYTHON=$PYTHON is not a program here"
  is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1); Jade needs Python 3.11 or newer"
  python=$PYTHON
else
  python=
  for candidate in python3.11 python3.12 python3.13 python3 python; do
    if command -v "$candidate" >/dev/null 2>&1 && is_new_enough "$candidate"; then python=$candidate; break; fi
  done
  [ -n "$python" ] || fail "no Python 3.11 or newer found (looked for python3.11, python3.12, python3.13, python3, python). Install one, or name it: make compare PYTHON=/path/to/python3.11"
fi
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no venv module (Debian: apt-get install python3-venv)"

if [ ! -x .venv/bin/python ] || ! is_new_enough .venv/bin/python; then
  echo "jade setup: making .venv with $("$python" --version 2>&1)"
  "$python" -m venv --clear .venv
fi
extra=; [ "$wanted" = dev ] && extra='[dev]'
echo "jade setup: installing pinned packages (the first time takes a few minutes)"
# Compiling every module of every package takes a minute and more; Python compiles those that are imported, once.
.venv/bin/python -m pip install --no-compile --quiet --disable-pip-version-check --progress-bar off -c constraints.txt -e ".$extra" \
  || fail "pip could not install the packages; its message is above. Run the same command again to retry"
touch .venv/.runtime
[ "$wanted" = dev ] && touch .venv/.dev
exit 0
