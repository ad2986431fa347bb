"""Every command line that README and docs show is one that the commands take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from flows.cli import COMMANDS, run

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
UNKNOWN = re.compile("No such option|no command|No such command|is no more|unexpected extra")


def blocks_and_mentions(page: Path) -> tuple[set[str], set[str]]:
    """Return the lines of code that call `jade`, and what of such stands between backticks in the text."""
    text = page.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = {part.strip().removeprefix(".venv/bin/") for block in blocks for part in re.split("[\n;]", block)}
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    mentions = {" ".join(found.split()) for found in re.findall(r"`(jade [a-z][^`<.]+)`", prose)}
    return {line for line in lines if line.startswith("jade ") and "..." not in line}, mentions


def understand(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Let a command take its line, and do nothing."""
    monkeypatch.setattr(click.Command, "invoke", lambda *_: None)
    return run(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_command_lines_are_understood(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, mentions = blocks_and_mentions(page)
    assert lines | mentions or page.name in {"CONTRIBUTING.md", "features.md"}
    for line in sorted(lines):
        assert understand(line, monkeypatch) == 0, f"{line}\n{capsys.readouterr().err}"
    for mention in sorted(mentions):
        understand(mention, monkeypatch)
        assert not UNKNOWN.search(said := capsys.readouterr().err), f"{mention}\n{said}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_make_targets_links_and_files_exist(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert "://" in link or (page.parent / link).exists(), link
    for name in re.findall(
        r"`((?:jade_model|tasks|flows|benchmarks|tests|deployments|scripts)/(?:[\w./-]*(?:/|\.py|\.sh|\.md|\.yaml|\.json))?)`",
        text,
    ):
        assert (ROOT / name).exists(), name


def test_the_readme_names_every_command_and_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    # `champion`, `promote RUN` stand in one cell: the first alone has the program before it.
    named = set(re.findall(r"[`(](?:jade )?([a-z][a-z-]*)", text))
    assert set(COMMANDS) <= named
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= set(re.findall(r"docs/([\w-]+\.md)", text))


def test_documented_deploy_commands_name_one_deployment_each() -> None:
    """Options count for one deployment only: Prefect ignores them where a name stands for several."""
    described = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    known = [f"{item['entrypoint'].rpartition(':')[2]}/{item['name']}" for item in described]
    named = [name for page in PAGES for name in re.findall(r"prefect deploy --name (\S+)", page.read_text())]
    assert named
    assert [known.count(name) for name in named] == [1] * len(named)
