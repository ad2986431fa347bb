"""Shells complete `jade` by what it prints for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

IN_SHELL = {
    "bash": """
        eval "$(jade completion bash)"; COMP_WORDS=(jade {0}); COMP_CWORD={1}
        _jade_completion jade; echo "${{COMPREPLY[@]}}"
    """,
    "fish": 'jade completion fish | source; complete --do-complete "jade {0}"',
}


@pytest.mark.parametrize("shell", list(IN_SHELL))
@pytest.mark.parametrize(("typed", "offered"), [("doct", "doctor"), ("compare --trac", "--track")])
def test_commands_and_flags_are_completed(shell: str, typed: str, offered: str) -> None:
    script = IN_SHELL[shell].format(typed, len(typed.split()))
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([shell, "-c", script], env=env, capture_output=True, text=True, timeout=300, check=True)
    assert offered in done.stdout.split()


def test_zsh_takes_what_is_printed_for_it(tmp_path: Path) -> None:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = 'autoload -Uz compinit && compinit -D; eval "$(jade completion zsh)"; echo ${_comps[jade]}'
    done = subprocess.run(["zsh", "-fc", script], env=env, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "_jade_completion"
