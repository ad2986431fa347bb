"""`scripts/setup.sh`: which installer it uses, and where it takes torch from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "setup.sh"
RECORDER = '#!/bin/sh\necho "$@" >>"$RECORD"\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment is there already, and takes note of what is installed into it."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    for folder, name in ((".venv/bin", "python"), ("tools", "uv")):
        (tmp_path / folder).mkdir(parents=True)
        program = tmp_path / folder / name
        # Asked for its version, or for torch, it answers as a Python does that has none.
        ask = 'case "$2" in *version_info*) exit 0 ;; *metadata*) exit 1 ;; esac\n' if name == "python" else ""
        program.write_text(RECORDER.replace("\n", f"\n{ask}", 1))
        program.chmod(0o755)
    return tmp_path


def set_up(checkout: Path, *, expect: int = 0, with_uv: bool = False, **variables: str) -> tuple[list[str], str]:
    """Run the script; return what was installed how, and what it said."""
    record = checkout / "record"
    path = f"{checkout / 'tools'}:/usr/bin:/bin" if with_uv else "/usr/bin:/bin"
    env = {"PATH": path, "HOME": str(checkout), "RECORD": str(record), "PYTHON": sys.executable, **variables}
    script = str(checkout / "scripts" / "setup.sh")
    done = subprocess.run(["sh", script, "runtime"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stderr
    return record.read_text().splitlines() if record.exists() else [], done.stdout + done.stderr


def test_pip_installs_what_is_pinned_and_the_size_is_told_before(checkout: Path) -> None:
    (installed,), said = set_up(checkout)
    assert installed.startswith("-m pip install")
    assert "-c constraints.txt -e ." in installed
    assert (checkout / ".venv" / ".runtime").exists()
    if sys.platform == "linux" and not shutil.which("nvidia-smi", path="/usr/bin:/bin"):
        assert said.index("TORCH_INDEX=cpu") < said.index("installing")


def test_uv_is_used_where_it_is_there_unless_told_otherwise(checkout: Path) -> None:
    (installed,), said = set_up(checkout, with_uv=True)
    assert installed.startswith("pip install")
    assert "--python .venv/bin/python -c constraints.txt -e ." in installed
    assert "with uv" in said
    assert set_up(checkout, with_uv=True, UV="no")[0][-1].startswith("-m pip install")


@pytest.mark.parametrize("with_uv", [False, True])
def test_torch_comes_from_the_index_that_is_named_and_nothing_else_does(checkout: Path, with_uv: bool) -> None:
    (torch, rest), said = set_up(checkout, with_uv=with_uv, TORCH_INDEX="cpu")
    assert torch.endswith("--no-deps --index-url https://download.pytorch.org/whl/cpu torch")
    assert "index" not in rest
    assert "CUDA" not in said
    assert "https://mirror.example/cu128 torch" in set_up(checkout, TORCH_INDEX="https://mirror.example/cu128")[0][-2]


def test_programs_of_a_checkout_that_was_moved_are_told_of_its_new_place(checkout: Path) -> None:
    set_up(checkout)
    program = checkout / ".venv" / "bin" / "jade"
    program.write_text(f"#!{checkout}/.venv/bin/python\nimport flows\n")
    (checkout / ".venv" / "bin" / "python").unlink()
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    moved = checkout.parent / f"{checkout.name} moved"
    checkout.rename(moved)
    _, said = set_up(moved, with_uv=True)
    assert f"moved from {checkout}" in said
    program = moved / ".venv" / "bin" / "jade"
    assert program.read_text() == f"#!{moved}/.venv/bin/python\nimport flows\n"
    assert "moved" not in set_up(moved, with_uv=True)[1]


def test_an_index_that_is_none_is_refused(checkout: Path) -> None:
    installed, said = set_up(checkout, expect=2, TORCH_INDEX="cuda")
    assert not installed
    assert "TORCH_INDEX is 'cuda'" in said
