"""`jade completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(*, shell: str) -> None:
    """Print what lets a SHELL complete commands and flags.

    \b
    bash: jade completion bash >> ~/.bashrc
    zsh:  jade completion zsh >> ~/.zshrc
    fish: jade completion fish > ~/.config/fish/completions/jade.fish
    """  # noqa: D301 - \b is click's mark for lines that are left as they are
    from flows.cli import jade

    if (kind := get_completion_class(shell)) is not None:
        click.echo(kind(jade, {}, "jade", "_JADE_COMPLETE").source())
