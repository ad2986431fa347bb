"""What a person meets who lists, rents, looks at and frees machines: RunPod's fake behind the commands themselves."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from flows.cli import run
from tasks.provisioning import registry
from tasks.provisioning.entries import LeaseState
from tasks.provisioning.keys import RentalKeys
from tasks.provisioning.ledger import Purpose
from tasks.provisioning.provisioner import InstanceState, Offer
from tasks.settings.load import load_settings
from tests.fakes.runpod_server import Fault, RunPodServer
from tests.fakes.runpod_world import RunPodWorld, runpod_world


class Said(NamedTuple):
    out: str
    err: str


Jade = Callable[..., Said]
OFFER = Offer("runpod", "NVIDIA L4", "L4", 24, 0.39)


@pytest.fixture
def world() -> Iterator[RunPodWorld]:
    with runpod_world() as found:
        yield found
        assert found.server.violations == []
        assert found.others_untouched()


@pytest.fixture
def runpod(world: RunPodWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPodServer:
    for name, value in {
        "JADE_CONFIG_DIR": str(tmp_path / "config"),
        "JADE_STATE_DIR": str(tmp_path / "state"),
        "RUNPOD_API_KEY": world.server.api_key,
        "JADE_RUNPOD_URL": world.server.url,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return world.server


@pytest.fixture
def jade(runpod: RunPodServer, capsys: pytest.CaptureFixture[str]) -> Jade:
    """Runs a command; returns what it printed."""

    def call(*arguments: str, expect: int = 0) -> Said:
        capsys.readouterr()
        assert run(list(arguments)) == expect, capsys.readouterr()
        said = capsys.readouterr()
        assert runpod.api_key not in said.out + said.err
        return Said(*said)

    return call


@pytest.fixture
def quick(world: RunPodWorld, runpod: RunPodServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is given up after milliseconds."""
    found = registry.provider_of(world.provisioner, registry.UseSettings())
    monkeypatch.setitem(registry.FACTORIES, "runpod", lambda settings: found)


def request(provider: str = "runpod") -> str:
    """A request of a run that has just begun; returns its identifier."""
    opened = registry.open_registry()
    offer = replace(OFFER, provider=provider)
    entry = opened.ledger.request(offer, Purpose("a-run", "", ("k",)), claim="", max_hours=2.0, orphan_grace_s=900)
    opened.close()
    return entry.request_id


DRY = ("compare", "--host", "runpod", "--accept-unreaped", "--dry-run")


def test_offers_are_listed_from_the_cheapest_with_what_cannot_be_had(jade: Jade) -> None:
    lines = jade("offers", "--provider", "runpod").out.splitlines()
    names = [re.split("  +", line)[1] for line in lines if line.startswith(" runpod")]
    assert names == ["NVIDIA RTX A4000", "NVIDIA L4", "NVIDIA GeForce RTX 4090", "NVIDIA H100 80GB HBM3"]
    assert "sold out" in lines[3]
    found = json.loads(jade("offers", "--provider", "runpod", "--gpu", "rtx 4090", "--json").out)["offers"]
    assert [(offer["kind"], offer["price_usd_per_hour"]) for offer in found] == [("NVIDIA GeForce RTX 4090", 0.44)]


def test_offers_of_all_tell_each_provider_that_cannot_be_asked_once(
    jade: Jade, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["offers", "--max-price", "0.01"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "None of 4 offers fits." in said.err
    assert "\nec2: connect: the request was refused: no region is set: `region` in [ec2] of jade.toml" in said.err


@pytest.mark.parametrize("command", [("offers", "--provider", "runpod"), DRY, ("compare", "--host", "runpod")])
def test_without_a_key_it_is_said_where_to_put_it_before_anything_is_prepared(
    jade: Jade, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY")
    assert (
        jade(*command, expect=2).err == "error: runpod: connect: no API key. Set RUNPOD_API_KEY in the environment.\n"
    )
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("status", "said", "advice"),
    [
        (401, "the API key was refused", "Check that the key is whole, not revoked"),
        (403, "the API key was refused", "Check that the key is whole, not revoked"),
        (402, "the account's balance does not suffice", "Top it up"),
    ],
)
def test_a_refusal_says_what_was_asked_what_came_and_what_to_do(
    jade: Jade, runpod: RunPodServer, status: int, said: str, advice: str
) -> None:
    runpod.faults.append(Fault("answer", "GET", times=9, status=status, detail="no"))
    for command in (("offers", "--provider", "runpod"), (*DRY, "--gpu", "L4")):
        answer = jade(*command, expect=2).err
        assert answer.startswith(f"error: runpod: list GPUs: {said}: ({status})")
        assert advice in answer


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--gpu", "RTX 4080"), "no GPU called 'RTX 4080'. Did you mean 'RTX 4090'"),
        (("--gpu", "L4", "--max-price", "0.3"), "the cheapest is L4 at 0.39 USD/h. Raise --max-price"),
        (("--gpu", "L4", "--budget", "0.03"), "The budget of 0.03 USD a month leaves too little for 0.39 USD/h"),
        (("--gpu", "L4", "--spot"), "runpod offers no spot machines of L4 now"),
        ((), "say what may be rented of runpod: --gpu NAME[,NAME...], --max-price USD an hour, or both"),
        (("--gpu", "L4", "--owner", "x y"), "--owner: an owner is 4 to 40 letters and digits"),
        (("--gpu", "L4", "--max-hours", "0"), "--max-hours: Input should be greater than 0"),
    ],
)
def test_what_cannot_be_rented_is_refused_with_what_could(
    jade: Jade, runpod: RunPodServer, flags: tuple[str, ...], said: str
) -> None:
    assert said in jade(*DRY, *flags, expect=2).err
    assert runpod.count("POST") == 0


def test_a_misspelt_provider_is_answered_with_the_closest_name(jade: Jade) -> None:
    assert "Did you mean 'runpod'?" in jade("compare", "--host", "runpd", "--gpu", "L4", expect=2).err


def test_without_a_reaper_it_is_said_how_to_get_one(jade: Jade) -> None:
    command = ("compare", "--host", "runpod", "--gpu", "L4", "--dry-run")
    assert "was never seen. Start the deployment reap/every-10-minutes, or call" in jade(*command, expect=2).err
    jade("reap", "--scheduled")
    assert "L4" in jade(*command).out


def test_a_dry_run_tells_hours_and_cost_within_the_budget_and_rents_nothing(jade: Jade, runpod: RunPodServer) -> None:
    table = jade(*DRY, "--gpu", "L4,RTX 4090", "--max-hours", "2", "--budget", "0.6").out
    rows = [line.split() for line in table.splitlines() if re.match(r" \d", line)]
    assert rows == [["1", "L4", "0.390", "1.5", "0.60", "yes"], ["2", "RTX", "4090", "0.440", "1.4", "0.60", "yes"]]
    told = json.loads(jade(*DRY, "--gpu", "L4,H100 SXM", "--max-hours", "1", "--budget", "0.2", "--json").out)
    assert [(item["title"], item["hours"], item["max_cost_usd"]) for item in told["candidates"]] == [
        ("L4", 0.5128, 0.2),
        ("H100 SXM", 0.0, 0.0),
    ]
    assert json.loads(jade("rented", "--json").out)["machines"] == []
    assert {request.partition(" ")[0] for request in runpod.requests} == {"GET"}


def test_each_candidate_that_could_not_be_had_is_told_and_what_to_do(
    jade: Jade, runpod: RunPodServer, small_file: Path
) -> None:
    train = ("train", "--loss", "crf", "--data-path", str(small_file), "--host", "runpod", "--accept-unreaped")
    runpod.sold_out, runpod.forbidden = {"NVIDIA L4"}, {"NVIDIA GeForce RTX 4090"}
    said = jade(*train, "--gpu", "L4,RTX 4090", expect=1).err
    assert "renting L4 at 0.39 USD/h for at most 4 h: 1.56 USD at most" in said
    last = said.splitlines()[-1]
    assert "no candidate could be had or used. Name others with --gpu, or try again later" in last
    assert "L4 at 0.39 USD/h: runpod: create a pod with NVIDIA L4: none to be had now: (400)" in last
    assert "not for this account or API key: (403) Forbidden: access denied. A read-only key rents nothing" in last
    runpod.faults.append(Fault("answer", "POST", status=402, detail="insufficient balance"))
    assert "insufficient balance. Top it up with the provider" in jade(*train, "--gpu", "H100 SXM", expect=2).err
    before = runpod.count("POST")
    assert "Raise --budget" in jade(*train, "--gpu", "H100 SXM", "--budget", "0.1", expect=2).err
    assert runpod.count("POST") == before
    assert runpod.costing == []
    assert json.loads(jade("rented", "--json").out) == {"machines": [], "spent_this_month_usd": 0, "problems": {}}


@pytest.mark.usefixtures("quick")
def test_a_provider_that_is_down_is_told_with_what_to_do(jade: Jade, world: RunPodWorld) -> None:
    world.go_down()
    answer = "runpod: list GPUs: no answer: (503) Error: upstream is away. Try again later."
    assert jade("offers", "--provider", "runpod", expect=1).err == f"error: {answer}\n"
    rented = jade("rented", expect=1).err
    assert rented.splitlines()[-1] == "runpod: list pods: no answer: (503) Error: upstream is away. Try again later."
    assert json.loads(jade("offers", "--provider", "runpod", "--json", expect=1).err)["error"] == "ProviderUnavailable"


def test_a_provider_that_nobody_reaches_is_told(
    jade: Jade, world: RunPodWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(world.server.__class__, "url", f"http://127.0.0.1:{closed.getsockname()[1]}/v2")
        found = registry.provider_of(world.connect(), registry.UseSettings())
        monkeypatch.setitem(registry.FACTORIES, "runpod", lambda settings: found)
        assert "out of reach: ConnectError" in jade("offers", "--provider", "runpod", expect=1).err


@pytest.mark.usefixtures("quick")
def test_what_is_rented_is_listed_and_the_reaper_frees_it(jade: Jade, world: RunPodWorld) -> None:
    request_id = request()
    opened = registry.open_registry()
    rental = opened.ledger.entry(request_id)
    pod = world.server.add_foreign(rental.name)
    pod.is_foreign = False
    machine = world.provisioner.describe(pod.id)
    assert machine.state in {InstanceState.STARTING, InstanceState.RUNNING}
    opened.ledger.advance(request_id, LeaseState.PROVISIONING, instance=machine)
    opened.close()
    (shown,) = json.loads(jade("rented", "--json").out)["machines"]
    assert (shown["machine_id"], shown["state"], shown["run_id"]) == (pod.id, "provisioning", "a-run")
    assert "would free" in jade("reap", "--dry-run").out
    assert len(world.server.costing) == 1
    assert "freed" in jade("reap").out
    assert world.server.costing == []
    assert "terminated" in jade("rented", "--all").out
    assert json.loads(jade("reap", "--json").out) == []


def test_the_reaper_removes_keys_that_are_left_of_a_rental_that_has_ended(jade: Jade) -> None:
    ended, begun = request(), request()
    opened = registry.open_registry()
    keys = {request_id: RentalKeys(opened.keys_folder / request_id) for request_id in (ended, begun)}
    for each in keys.values():
        each.make()
    opened.ledger.advance(ended, LeaseState.FAILED)
    opened.close()
    jade("reap", "--dry-run")
    assert keys[ended].exist()
    jade("reap")
    assert not keys[ended].folder.exists()
    assert keys[begun].exist()


@pytest.mark.parametrize("command", ["rented", "reap"])
def test_an_owner_that_is_none_is_refused(jade: Jade, command: str) -> None:
    assert "an owner is 4 to 40 letters and digits" in jade(command, "--owner", "x y", expect=2).err


def test_a_provider_without_credentials_hinders_the_reaper_only_where_it_has_machines(
    jade: Jade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    found = registry.FACTORIES["ec2"](load_settings())  # made once: boto3 is slow to make clients
    monkeypatch.setitem(registry.FACTORIES, "ec2", lambda settings: found)
    jade("rented")
    jade("reap")
    request("ec2")
    assert "no API key" in jade("rented", expect=1).err
    (told,) = json.loads(jade("reap", "--json", expect=1).out)
    assert (told["deed"], told["provider"]) == ("failed", "ec2")
