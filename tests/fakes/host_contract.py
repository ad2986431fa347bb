"""What every host must do, whatever is behind it: subclasses give the `host` and a folder that both sides see."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.core.names import FileEntry
from tasks.hosts.errors import (
    CommandFailed,
    CommandTimedOut,
    HostError,
    HostUserError,
    NameRefused,
    RemoteFileMissing,
    TransferCorrupted,
)
from tasks.hosts.host import Host
from tasks.hosts.transfer import describe_files, part_name
from tests.helpers.processes import unique_sleep, wait_until_none, words_of

SMALL_BYTES = 100_000

UNSAFE_NAMES = ["../up", "a/../../up", "/absolute", "", ".", "a//b", "a/./b", "a\\b", "line\nbreak", "x" * 2000]


class CommandContract:
    """`Host.run`."""

    def test_run_gives_status_and_both_streams(self, host: Host) -> None:
        result = host.run("printf 'a\\0b'; echo oh >&2; exit 3", timeout_s=60, check=False)
        assert (result.exit_status, result.stdout, result.stderr) == (3, b"a\0b", "oh")

    def test_run_feeds_standard_input_while_it_reads_output(self, host: Host) -> None:
        data = os.urandom(3 * 2**20)
        assert host.run("cat", timeout_s=60, stdin=data).stdout == data

    def test_input_that_nobody_reads_does_no_harm(self, host: Host) -> None:
        assert host.run("echo done", timeout_s=60, stdin=b"x" * 2**20).text == "done\n"

    def test_a_failed_command_carries_its_evidence(self, host: Host) -> None:
        with pytest.raises(CommandFailed) as caught:
            host.run("echo first; echo why >&2; exit 7", timeout_s=60)
        assert caught.value.exit_status == 7
        assert caught.value.stderr_tail == "why"
        assert "why" in str(caught.value)

    @pytest.mark.parametrize(
        ("message", "advice"),
        [
            ("No space left on device", "No space left on .*another disk"),
            ("Permission denied", "No permission on .*another folder"),
            ("No such file or directory", "A file is missing"),
            ("jade: needs setsid", "A program is missing .*Install it"),
        ],
    )
    def test_a_telling_message_becomes_advice(self, host: Host, message: str, advice: str) -> None:
        with pytest.raises(HostUserError, match=advice) as caught:
            host.run(f"echo 'prog: {message}' >&2; exit 1", timeout_s=60)
        assert message in str(caught.value)

    def test_a_full_disk_is_told_as_such(self, host: Host) -> None:
        with pytest.raises(HostUserError, match="No space left"):
            host.run("export LC_ALL=C; echo x > /dev/full", timeout_s=60)
        with pytest.raises(HostUserError, match="No space left"):
            host.run("export LC_ALL=C; echo x | cat > /dev/full", timeout_s=60)

    def test_a_command_past_its_time_is_ended_with_all_that_it_started(self, host: Host) -> None:
        sleep = unique_sleep()
        with pytest.raises(CommandTimedOut):
            host.run(f"{sleep} & {sleep}; echo never", timeout_s=0.5)
        assert wait_until_none(words_of(sleep)) == []

    def test_endless_output_is_stopped(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tasks.hosts.shell.MAX_OUTPUT_BYTES", 2**20)
        with pytest.raises(HostError, match="wrote more than"):
            host.run("exec cat /dev/zero", timeout_s=60)

    def test_standard_error_is_kept_at_its_end(self, host: Host) -> None:
        result = host.run("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo end >&2", timeout_s=60)
        assert result.stderr.endswith("end")
        assert len(result.stderr) <= 2**16

    def test_a_host_that_was_closed_twice_connects_again(self, host: Host) -> None:
        assert host.run("echo first", timeout_s=60).text == "first\n"
        host.close()
        host.close()
        assert host.run("echo again", timeout_s=60).text == "again\n"


class TransferContract:
    """`Host.put` and `Host.get`."""

    @pytest.fixture(autouse=True)
    def _large_files_are_not_that_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tasks.hosts.transfer.SMALL_BYTES", SMALL_BYTES)

    def test_what_was_put_comes_back_as_it_was(self, host: Host, place: Path, tmp_path: Path) -> None:
        files = _sample_files(tmp_path / "here")
        entries = host.put(files, str(place / "some where"), timeout_s=60)
        assert entries == describe_files(files)
        host.get(entries, str(place / "some where"), tmp_path / "back", timeout_s=60)
        for name, path in files.items():
            assert (tmp_path / "back" / name).read_bytes() == path.read_bytes()
            assert (place / "some where" / name).read_bytes() == path.read_bytes()
        assert not list(place.rglob("*.part"))
        assert not list((tmp_path / "back").rglob("*.part"))

    def test_what_is_there_is_not_sent_again(self, host: Host, place: Path, tmp_path: Path) -> None:
        files = _sample_files(tmp_path / "here")
        entries = host.put(files, str(place), timeout_s=60)
        before = {entry.path: (place / entry.path).stat().st_mtime_ns for entry in entries}
        assert host.put(files, str(place), timeout_s=60) == entries
        assert {entry.path: (place / entry.path).stat().st_mtime_ns for entry in entries} == before

    def test_an_upload_goes_on_where_it_was_cut(self, host: Host, place: Path, tmp_path: Path) -> None:
        files = large_file(tmp_path)
        (entry,) = describe_files(files)
        part = place / part_name(entry)
        part.write_bytes(b"other" + files["large"].read_bytes()[5 : SMALL_BYTES // 2])
        with pytest.raises(TransferCorrupted):  # what was there was kept
            host.put(files, str(place), timeout_s=60)
        part.write_bytes(files["large"].read_bytes()[: SMALL_BYTES // 2])
        host.put(files, str(place), timeout_s=60)
        assert (place / "large").read_bytes() == files["large"].read_bytes()

    def test_a_damaged_part_is_found_out_and_the_next_try_succeeds(
        self, host: Host, place: Path, tmp_path: Path
    ) -> None:
        files = large_file(tmp_path)
        (entry,) = describe_files(files)
        (place / part_name(entry)).write_bytes(b"rubbish")
        with pytest.raises(TransferCorrupted, match=entry.sha256) as caught:
            host.put(files, str(place), timeout_s=60)
        assert caught.value.is_transient
        assert not list(place.iterdir())
        host.put(files, str(place), timeout_s=60)
        assert (place / "large").read_bytes() == files["large"].read_bytes()

    def test_a_changed_file_replaces_the_old_one(self, host: Host, place: Path, tmp_path: Path) -> None:
        source = tmp_path / "source"
        for contents in (b"first", b"other"):
            source.write_bytes(contents)
            host.put({"file": source}, str(place), timeout_s=60)
            assert (place / "file").read_bytes() == contents

    def test_a_download_goes_on_where_it_was_cut(self, host: Host, place: Path, tmp_path: Path) -> None:
        files = {**large_file(tmp_path), **_sample_files(tmp_path / "here")}
        entries = host.put(files, str(place), timeout_s=60)
        back = tmp_path / "back"
        back.mkdir()
        part = back / part_name(entries[0])
        part.write_bytes(b"other" + files["large"].read_bytes()[5:90_000])
        with pytest.raises(TransferCorrupted):  # what was there was kept
            host.get(entries, str(place), back, timeout_s=60)
        part.write_bytes(files["large"].read_bytes()[:90_000])
        host.get(entries, str(place), back, timeout_s=60)
        for name, path in files.items():
            assert (back / name).read_bytes() == path.read_bytes()

    def test_wrong_bytes_never_get_the_files_name(self, host: Host, place: Path, tmp_path: Path) -> None:
        (place / "file").write_bytes(b"what came")
        wanted = FileEntry("file", 9, "0" * 64)
        with pytest.raises(TransferCorrupted, match=wanted.sha256):
            host.get([wanted], str(place), tmp_path / "back", timeout_s=60)
        assert not list((tmp_path / "back").iterdir())

    @pytest.mark.parametrize("size", [3, 300], ids=["longer", "shorter"])
    def test_a_file_of_another_size_than_the_manifests_is_refused(
        self, host: Host, place: Path, tmp_path: Path, size: int
    ) -> None:
        (place / "file").write_bytes(b"x" * 100)
        with pytest.raises(TransferCorrupted):
            host.get([FileEntry("file", size, "0" * 64)], str(place), tmp_path / "back", timeout_s=60)
        assert not list((tmp_path / "back").iterdir())

    def test_a_missing_file_is_named(self, host: Host, place: Path, tmp_path: Path) -> None:
        with pytest.raises(RemoteFileMissing, match="nowhere"):
            host.get([FileEntry("nowhere", 3, "0" * 64)], str(place), tmp_path, timeout_s=60)

    def test_a_link_is_not_followed(self, host: Host, place: Path, tmp_path: Path) -> None:
        (place / "secret").write_bytes(b"abc")
        (place / "link").symlink_to("secret")
        (entry,) = describe_files({"link": place / "secret"})
        with pytest.raises(NameRefused, match="link"):
            host.get([entry], str(place), tmp_path / "back", timeout_s=60)

    def test_a_local_link_cannot_lead_a_download_astray(self, host: Host, place: Path, tmp_path: Path) -> None:
        (place / "sub").mkdir()
        (place / "sub" / "file").write_bytes(b"abc")
        (entry,) = describe_files({"sub/file": place / "sub" / "file"})
        outside, back = tmp_path / "outside", tmp_path / "back"
        outside.mkdir()
        back.mkdir()
        (back / "sub").symlink_to(outside)
        with pytest.raises(NameRefused, match="leads out"):
            host.get([entry], str(place), back, timeout_s=60)
        assert not list(outside.iterdir())

    @pytest.mark.parametrize("name", UNSAFE_NAMES)
    def test_names_that_could_leave_the_folder_are_refused(
        self, host: Host, place: Path, tmp_path: Path, name: str
    ) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"x")
        with pytest.raises(ValueError, match="is refused"):
            host.put({name: source}, str(place), timeout_s=60)
        assert not list(place.iterdir())

    def test_a_name_listed_twice_is_refused(self, host: Host, place: Path, tmp_path: Path) -> None:
        entry = FileEntry("file", 1, "0" * 64)
        with pytest.raises(NameRefused, match="twice"):
            host.get([entry, entry], str(place), tmp_path / "back", timeout_s=60)

    def test_nothing_to_move_is_no_error(self, host: Host, place: Path, tmp_path: Path) -> None:
        assert host.put({}, str(place), timeout_s=60) == ()
        host.get([], str(place), tmp_path / "back", timeout_s=60)


def _sample_files(folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "empty": b"",
        "plain.txt": b"hello\n",
        "sub/deeper/with space.bin": os.urandom(70_000),
        "sub/é ü 'quoted' \"$HOME\" -n.json": b"{}",
        "-starts-with-a-dash": b"-",
    }
    files = {}
    for number, (name, data) in enumerate(contents.items()):
        files[name] = folder / str(number)
        files[name].write_bytes(data)
    return files


def large_file(folder: Path, num_bytes: int = 3 * SMALL_BYTES) -> dict[str, Path]:
    """A file that goes up by itself, under the name `large`."""
    source = folder / "large-source"
    source.write_bytes(os.urandom(num_bytes))
    return {"large": source}
