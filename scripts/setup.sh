#!/bin/sh
# Makes .venv with what is asked for: `setup.sh runtime` or `setup.sh dev`. Names what is missing before it tries anything.
#   PYTHON=...       the Python to use
#   TORCH_INDEX=cpu  torch without CUDA, or another package index to take torch from, by its address
#   UV=no            install with pip although uv is there
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

case ${TORCH_INDEX:-} in
  cpu) torch_index=https://download.pytorch.org/whl/cpu ;;
  '' | http://* | https://* | file://*) torch_index=${TORCH_INDEX:-} ;;
  *) fail "TORCH_INDEX is '$TORCH_INDEX'; it is cpu, or an address such as https://download.pytorch.org/whl/cu128" ;;
esac

has_uv=no
if [ "${UV:-uv}" != no ] && command -v "${UV:-uv}" >/dev/null 2>&1; then has_uv=yes; fi

if [ ! -x .venv/bin/python ] || ! is_new_enough .venv/bin/python; then
  echo "jade setup: making .venv with $("$python" --version 2>&1)"
  if [ "$has_uv" = yes ]; then
    "${UV:-uv}" venv --quiet --seed --clear --python "$(command -v "$python")" .venv
  else
    "$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no venv module (Debian: apt-get install python3-venv)"
    "$python" -m venv --clear .venv
  fi
fi

# Programs in .venv name the place where they were installed.
here=$(pwd -P)
if [ -f .venv/.checkout ] && [ "$(cat .venv/.checkout)" != "$here" ]; then
  echo "jade setup: this checkout was moved from $(cat .venv/.checkout)"
  .venv/bin/python -c '
import pathlib, sys
old, new = (place.encode() for place in sys.argv[1:])
for file in pathlib.Path(".venv/bin").iterdir():
    if not file.is_symlink() and file.is_file() and (text := file.read_bytes()).startswith(b"#") and old in text:
        file.write_bytes(text.replace(old, new))
' "$(cat .venv/.checkout)/.venv" "$here/.venv"
fi

# Compiling every module of every package takes a minute and more; Python compiles those that are imported, once.
if [ "$has_uv" = yes ]; then
  install() { "${UV:-uv}" pip install --quiet --python .venv/bin/python -c constraints.txt "$@"; }
  takes="some minutes at most"
else
  install() { .venv/bin/python -m pip install --no-compile --quiet --disable-pip-version-check --progress-bar off -c constraints.txt "$@"; }
  takes="a few minutes"
fi

has_torch() { .venv/bin/python -c 'import importlib.metadata; importlib.metadata.version("torch")' 2>/dev/null; }

if [ -n "$torch_index" ]; then
  echo "jade setup: torch from $torch_index"
  # By itself: what else stands in that index is not what constraints.txt means.
  install --no-deps --index-url "$torch_index" torch || fail "torch could not be installed from $torch_index; the message is above"
elif [ "$(uname -s)" = Linux ] && ! has_torch && ! command -v nvidia-smi >/dev/null 2>&1; then
  echo "jade setup: note: the usual torch brings CUDA, 6 GB in all; \`make compare TORCH_INDEX=cpu\` takes 1.4 GB, and this machine shows no GPU"
fi
extra=; [ "$wanted" = dev ] && extra='[dev]'
echo "jade setup: installing pinned packages with $([ "$has_uv" = yes ] && echo uv || echo pip) (the first time takes $takes)"
install -e ".$extra" || fail "the packages could not be installed; the message is above. Run the same command again to retry"
echo "$here" >.venv/.checkout
touch .venv/.runtime
[ "$wanted" = dev ] && touch .venv/.dev
exit 0
