#!/bin/sh
# Writes constraints.txt: every package of a fresh environment with the runtime and dev extras, pinned.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==${TORCH:-2.13.0}" -e ".[dev]"
{
  echo "# Made by \`make lock\`; what \`make compare\` and \`make test\` install."
  "$folder/venv/bin/python" -m pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+.*/\1/' | grep -v ' @ '
} >"$folder/constraints.txt"
mv "$folder/constraints.txt" constraints.txt
