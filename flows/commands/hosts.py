"""`jade hosts`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from flows.commands.common import json_option, print_json, print_table, tell
from tasks.core.errors import SettingsError
from tasks.settings.load import Settings, forget_host, load_settings, save_host
from tasks.settings.models import DAY_S, HostEntry, checked, parse_address


@click.group("hosts", epilog="Every command takes --json.")
def command() -> None:
    """Add, list, check or remove hosts to train on."""


@command.command("add")
@click.argument("name")
@click.option(
    "--host",
    required=True,
    metavar="ADDRESS",
    help="Address, DNS name or name in ~/.ssh/config; also USER@HOST, HOST:PORT, ssh://USER@HOST:PORT.",
)
@click.option("--port", type=click.IntRange(1, 65_535), help="[default: that of ~/.ssh/config, else 22]")
@click.option("--user", help="[default: that of ~/.ssh/config, else root]")
@click.option(
    "--key", metavar="FILE", help="Private key's file; without it, the agent's keys and the usual files in ~/.ssh."
)
@click.option(
    "--fingerprint",
    multiple=True,
    metavar="SHA256:...",
    help="The server's key must be this one; may be given several times.",
)
@click.option("--jump", metavar="NAME", help="Another known host to go through.")
@click.option("--trust-first-use", is_flag=True, help="Accept, and remember, the key that the server shows first.")
@click.option("--folder", default="~/.jade", show_default=True, help="Where our files lie over there.")
@click.option("--python", default="python3", show_default=True, help="The program that trains.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--time-limit-s",
    type=click.IntRange(1),
    default=DAY_S,
    show_default=True,
    help="The host ends a job after this long.",
)
@click.option(
    "--connect-timeout-s",
    type=click.IntRange(1),
    help="How long a connection and the login may take.  [default: 30]",
)
@click.option("--replace", is_flag=True, help="Write a host of that name anew.")
@json_option
def add(
    *,
    name: str,
    host: str,
    port: int | None,
    user: str | None,
    key: str | None,
    jump: str | None,
    replace: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Write a host into the user's jade.toml. The file names the key's file, never a key."""
    from tasks.hosts.access import access_of

    if jump is not None:
        load_settings().entry(jump)
    host, its_port, its_user = parse_address(host)
    for what, flag, given in (("port", port, its_port), ("user", user, its_user)):
        if flag is not None and given is not None and flag != given:
            raise SettingsError(f"--host names {what} {given}, --{what} says {flag}")
    told = {"port": port or its_port, "user": user or its_user, "key": _checked_key(key)}
    entry = checked(HostEntry, {"name": name, "host": host, "jump": jump, **fields, **told}, f"host {name!r}")
    # What ~/.ssh/config says of it must make sense, too, before it is written down.
    address = access_of(Settings(hosts={**load_settings().hosts, name: entry}), name).address
    path = save_host(entry, replace=replace)
    used = load_settings().sources[name]
    if as_json:
        shown = {**dataclasses.asdict(entry), "port": address.port, "user": address.user}
        print_json({"file": str(path), "host": shown, "used_from": str(used)})
        return
    click.echo(f"{name} is {address}, in {path}. `jade hosts check {name}` looks it over.")
    if used != path:
        click.echo(f"warning: {used} describes {name!r}, too, and comes first", err=True)


def _checked_key(key: str | None) -> str | None:
    if key is None:
        return None
    path = Path(key).expanduser()
    if not path.is_file():
        raise SettingsError(f"there is no file {path}; --key names the private key's file, such as ~/.ssh/id_ed25519")
    if path.suffix == ".pub" or path.read_bytes().startswith((b"ssh-", b"ecdsa-", b"sk-")):
        raise SettingsError(f"{path} is a public key; --key names the private key's file: {path.with_suffix('')}")
    # The settings may be read from another working folder.
    return key if key.startswith("~") else str(path.absolute())


@command.command("list")
@json_option
def list_hosts(*, as_json: bool) -> None:
    """List the known hosts and the file that describes each."""
    settings = load_settings()
    if as_json:
        found: list[dict[str, Any]] = [
            {
                **dataclasses.asdict(entry),
                "port": entry.address.port,
                "user": entry.address.user,
                "file": str(settings.sources[name]),
                "is_default": name == settings.host,
            }
            for name, entry in settings.hosts.items()
        ]
        print_json(found)
        return
    if not settings.hosts:
        click.echo("No host is known. `jade hosts add NAME --host ADDRESS` adds one.", err=True)
        return
    rows = [
        [
            name + (" (default)" if name == settings.host else ""),
            str(entry.address),
            entry.device,
            entry.jump or "",
            ", ".join(entry.fingerprint) or ("first use" if entry.trust_first_use else "known hosts"),
            str(settings.sources[name]),
        ]
        for name, entry in settings.hosts.items()
    ]
    print_table(None, ["host", "address", "device", "through", "server key", "file"], rows, numeric_from=6)


@command.command("remove")
@click.argument("name")
@json_option
def remove(*, name: str, as_json: bool) -> None:
    """Take a host out of the user's jade.toml. What lies on the host stays."""
    path = forget_host(name)
    tell({"file": str(path), "removed": name}, f"{name} is no longer in {path}.", as_json=as_json)


@command.command("check")
@click.argument("name")
@click.option("--timeout-s", type=click.FloatRange(1), default=120.0, show_default=True)
@click.option("--bootstrap", "wants_bootstrap", is_flag=True, help="First install torch and numpy there, with pip.")
@json_option
@click.pass_context
def check(context: click.Context, *, name: str, timeout_s: float, wants_bootstrap: bool, as_json: bool) -> None:
    """Look a host over: reachability, server key, GPU, Python, torch, disk, clock.

    Changes nothing there, unless --bootstrap says so. Exit code 1 if something hinders training.
    """
    from tasks.hosts.access import access_of
    from tasks.hosts.host import place_on
    from tasks.hosts.preflight import bootstrap, check_host
    from tasks.hosts.ssh import open_host

    settings = load_settings()
    entry = settings.entry(name)
    host = open_host(settings, name, connect_timeout_s=min(timeout_s, 30.0))
    address = access_of(settings, name).address
    try:
        if wants_bootstrap:
            python = bootstrap(host, place_on(entry))
            entry = dataclasses.replace(entry, python=python)
            click.echo(
                f"torch and numpy are installed for {python}, noted in {save_host(entry, replace=True)}", err=True
            )
        report = check_host(host, place_on(entry), timeout_s=timeout_s)
    finally:
        host.close()
    is_ready = not report.problems
    if as_json:
        shown = [{**dataclasses.asdict(finding), "verdict": finding.verdict.value} for finding in report.findings]
        print_json({"host": name, "address": str(address), "is_ready": is_ready, "findings": shown})
    else:
        rows = [[finding.subject, finding.found, finding.verdict.value, finding.advice] for finding in report.findings]
        print_table(f"{name} ({address})", ["what", "found", "verdict", "what to do"], rows, numeric_from=4)
    if not is_ready:
        context.exit(1)
