"""What travels to a host is all that a training there needs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jade_model.core.job import code_digest, load_job
from tasks.core.errors import HostNotReady
from tasks.core.layout import RunLayout
from tasks.execution.bundle import (
    code_bundle,
    input_files,
    job_key,
    send_code,
    write_remote_job,
)
from tasks.hosts.errors import CommandFailed
from tasks.hosts.host import RemotePlace
from tasks.hosts.preflight import bootstrap, check_ready
from tests.fakes.local_host import LocalHost

PLACE = RemotePlace("jade", sys.executable, 60)


@pytest.fixture
def host(tmp_path: Path) -> LocalHost:
    return LocalHost(tmp_path / "host", name="ci")


def test_the_sources_alone_train_and_give_the_same_run_keys(host: LocalHost, tmp_path: Path) -> None:
    bundle = code_bundle()
    send_code(host, PLACE, bundle)
    code = tmp_path / "host" / PLACE.code(bundle.digest)
    # No site-packages path leads to this checkout there; -P keeps the working folder out, too.
    program = (
        "import sys, jade_model.__main__, jade_model.core.worker\n"
        "from jade_model.core.job import code_digest\n"
        "others = {'torchcrf', 'pandas', 'pyarrow', 'scipy', 'matplotlib', 'prefect', 'paramiko', 'tasks', 'flows'}\n"
        "assert not others & set(sys.modules), others & set(sys.modules)\n"
        "print(jade_model.__file__, code_digest())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(code / "jade_model" / "__init__.py"), code_digest()]


def test_sources_that_are_there_are_not_sent_again(host: LocalHost, tmp_path: Path) -> None:
    bundle = code_bundle()
    send_code(host, PLACE, bundle)
    (first,) = (tmp_path / "host" / "jade" / "code").glob("*/jade_model/core/job.py")
    before = first.stat().st_mtime_ns
    send_code(host, PLACE, bundle)
    assert first.stat().st_mtime_ns == before


def test_a_jobs_key_is_of_its_trainings_and_not_of_the_run_that_asks(small_run: RunLayout, tmp_path: Path) -> None:
    job = load_job(small_run.job_json)
    key = job_key(job.trainings)
    assert job_key(job.trainings[::-1]) == key
    assert job_key(job.trainings[1:]) != key
    assert job_key([replace(job.trainings[0], output_dir="elsewhere"), *job.trainings[1:]]) != key
    write_remote_job(job, job.trainings[1:], key, tmp_path / "a.json")
    write_remote_job(replace(job, run_id="another"), job.trainings[1:], key, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert load_job(tmp_path / "a.json").trainings == job.trainings[1:]


def test_only_what_the_trainings_read_is_sent(small_run: RunLayout) -> None:
    job = load_job(small_run.job_json)
    one = [training for training in job.trainings if training.fold == 1]
    assert sorted(input_files(job, one, small_run.root)) == ["arrays/small.npz", "splits/small-seed0-fold1.npz"]


def test_a_host_that_can_train_is_accepted(host: LocalHost) -> None:
    check_ready(host, PLACE)


def test_a_host_without_torch_is_refused_with_the_command_that_helps(host: LocalHost, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\necho \'{"python_version": [3, 12, 2], "python": "/usr/bin/python3"}\'\n')
    bare.chmod(0o755)
    with pytest.raises(HostNotReady) as caught:
        check_ready(host, replace(PLACE, python=str(bare), device="cuda"))
    for said in ("numpy: none", "torch: none", "--bootstrap"):
        assert said in str(caught.value)
    with pytest.raises(HostNotReady) as caught:
        check_ready(host, replace(PLACE, python=str(bare), provider="runpod", device="cuda"))
    for said in ("numpy: none", "torch: none", "in [runpod] of jade.toml: `image` with Python 3.11+"):
        assert said in str(caught.value)
    assert "jade hosts" not in str(caught.value)
    assert "--bootstrap" not in str(caught.value)


def test_bootstrap_makes_an_environment_of_ours_and_says_where_its_python_is(host: LocalHost, tmp_path: Path) -> None:
    stub = tmp_path / "python"
    # Stands in for `python -m venv` and for the pip of what that makes.
    stub.write_text(
        "#!/bin/sh\n"
        'if [ "$2" = venv ]; then mkdir -p venv/bin && cp "$0" venv/bin/python; else echo "$@" > pip-was-told; fi\n'
    )
    stub.chmod(0o755)
    python = bootstrap(host, replace(PLACE, python=str(stub)))
    folder = tmp_path / "host" / "jade"
    assert python == str(folder / "venv" / "bin" / "python")
    assert (folder / "pip-was-told").read_text() == "-m pip install --quiet numpy>=1.26 torch>=2.4\n"


def test_a_bootstrap_that_fails_shows_what_was_said(host: LocalHost, tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\necho 'No module named venv' >&2; exit 1\n")
    stub.chmod(0o755)
    with pytest.raises(CommandFailed, match="No module named venv"):
        bootstrap(host, replace(PLACE, python=str(stub)))
