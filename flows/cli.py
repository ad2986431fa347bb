"""`jade <command>`: finds the command, runs it, and turns every known error into a message and an exit code.

Exit codes: 0 done, 1 the run failed, 2 bad usage or bad input. Results go to standard output, everything else to
standard error. Nothing heavy is imported here, so that `jade --help` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from importlib import import_module
from typing import Any

import click

import tasks.core.processes  # noqa: F401 - so that a run can say what its start took

COMMANDS = {
    "compare": "Train the losses, compare them, write the report.",
    "sweep": "Try many recipes, rank them, say what each setting is worth.",
    "retrain": "Train a model on the newest data, and promote it if it passes.",
    "champion": "Show the model in use.",
    "promote": "Make a retrained run the champion.",
    "rollback": "Go back to the champion before.",
    "train": "Train one loss on a data file.",
    "optimize-threshold": "Find the best threshold of a trained model.",
    "predict": "Find spans in new windows with a trained model.",
    "export": "Write a trained model as ONNX or a torch program.",
    "verdict": "Say which of anyone's predictions are better.",
    "hosts": "Add, list, check or remove hosts to train on.",
    "runs": "Show, or stop, what still trains on hosts.",
    "acknowledge": "Let a comparison's trend begin anew, so that its fall is no longer told.",
    "offers": "List the GPUs that can be rented now, with prices.",
    "rented": "List the rented machines: age, cost, the run each serves.",
    "reap": "Free rented machines that no live run claims.",
    "up": "Start a local Prefect server, worker and deployments.",
    "down": "Stop them; runs and history stay.",
    "notify": "Say who is told of failures, regressions and promotions.",
    "doctor": "Look over this installation, and say what to do.",
    "artifacts": "List, verify or prune what is kept of runs.",
    "report": "Write a run's report again.",
    "track": "Tell MLflow of a run, from its files.",
    "diff": "Say what differs between two runs.",
    "validate": "Check a data file against the contract.",
    "window": "Cut raw bars into windows.",
    "completion": "Let a shell complete commands and flags.",
    "sample": "Write the built-in sample data.",
}

# Commands that stand with others in one module, each under its own name.
_MODULES = {
    **dict.fromkeys(("champion", "promote", "rollback"), "champion"),
    **dict.fromkeys(("offers", "rented", "reap"), "rentals"),
    **dict.fromkeys(("runs", "diff", "report", "track", "acknowledge"), "runs"),
    **dict.fromkeys(("up", "down", "doctor", "completion"), "installation"),
    **dict.fromkeys(("validate", "window", "sample"), "windows"),
}

_NO_SERVER = "Failed to reach API at"
"""How Prefect says that the server has gone."""

_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or write to another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "write to another place, or get the right to"),
}
"""What can be done about a file that cannot be written."""


class LazyGroup(click.Group):
    """Imports a command's module only when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command, or None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = import_module(f"flows.commands.{_MODULES.get(name, name)}")
        command: click.Command = getattr(module, name if name in _MODULES else "command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; offer the closest name for a wrong one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"no command {args[0]!r}.{hint} `jade --help` lists them.", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 the run failed, 2 bad usage or bad input.",
)
@click.version_option(package_name="jade-expansions", prog_name="jade")
def jade() -> None:
    """Train and compare span losses on windows of price bars."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Set-up leaves the compiling of modules to their first import. Where containers ask for no bytecode, each command
    # and the server that it starts would compile a thousand of them every time.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run a command line; return the exit code."""
    wants_json = "--json" in arguments
    try:
        # Outside of its standalone mode, click returns the code of a command that exits early.
        left_with = jade.main(arguments, prog_name="jade", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        if isinstance(error, click.NoSuchOption) and error.ctx is not None:
            # What is refused with a word on its successor is nothing to propose.
            hidden = {name for item in error.ctx.command.params if getattr(item, "hidden", False) for name in item.opts}
            possible = [name for name in error.possibilities or () if name not in hidden]
            error = click.NoSuchOption(error.option_name, possibilities=possible, ctx=error.ctx)
        return _complain(error.format_message(), kind="UsageError", code=2, wants_json=wants_json, context=error.ctx)
    except click.ClickException as error:
        return _complain(error.format_message(), kind=type(error).__name__, code=2, wants_json=wants_json)
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", kind="Interrupted", code=1, wants_json=wants_json)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; Python would complain about the flush at exit
        return 1
    except BaseException as error:
        # Not all that ends a command is an Exception: a flow that was stopped is none.
        code = getattr(error, "exit_code", None)
        if isinstance(error, OSError) and error.errno in _ADVICE:
            message = f"{error}; {_ADVICE[error.errno]}"
            return _complain(message, kind=type(error).__name__, code=1, wants_json=wants_json)
        if not isinstance(code, int):
            is_away = any(base.__module__.startswith("httpx") for base in type(error).__mro__)
            if not is_away and not (isinstance(error, RuntimeError) and str(error).startswith(_NO_SERVER)):
                raise
            # The server was there when the command began, or is one for the command alone: see `run_flow`.
            return _complain(f"Prefect's server: {error}", kind=type(error).__name__, code=1, wants_json=wants_json)
        facts = getattr(error, "facts", {})
        return _complain(str(error), kind=type(error).__name__, code=code, wants_json=wants_json, facts=facts)
    return left_with if isinstance(left_with, int) else 0


def _complain(
    message: str,
    *,
    kind: str,
    code: int,
    wants_json: bool,
    context: click.Context | None = None,
    facts: dict[str, Any] | None = None,
) -> int:
    if wants_json:
        told = {"error": kind, "message": message, "exit_code": code}
        click.echo(json.dumps(told | ({"facts": facts} if facts else {}), default=str), err=True)
    else:
        if context is not None:
            click.echo(context.get_usage(), err=True)
        click.echo(f"error: {message}", err=True)
    return code


if __name__ == "__main__":
    main()
