"""What every place for records must do: subclasses give `records`."""

from __future__ import annotations

import threading

import pytest

from tasks.artifacts.backend import Records
from tasks.artifacts.errors import NameRefused, PreconditionFailed

NAME = "claims/0a1b"


class RecordContract:
    def test_what_was_written_is_read_with_its_version(self, records: Records) -> None:
        assert records.read(NAME) is None
        version = records.write(NAME, b"one", replaces=None)
        found = records.read(NAME)
        assert found is not None
        assert (found.content, found.version) == (b"one", version)
        assert 0 <= records.age_s(found) < 60

    def test_only_what_was_read_is_replaced(self, records: Records) -> None:
        first = records.write(NAME, b"one", replaces=None)
        with pytest.raises(PreconditionFailed):
            records.write(NAME, b"two", replaces=None)
        second = records.write(NAME, b"two", replaces=first)
        with pytest.raises(PreconditionFailed):
            records.write(NAME, b"three", replaces=first)
        found = records.read(NAME)
        assert found is not None
        assert (found.content, found.version) == (b"two", second)

    def test_what_is_gone_is_not_replaced(self, records: Records) -> None:
        version = records.write(NAME, b"one", replaces=None)
        records.remove(NAME)
        records.remove(NAME)
        with pytest.raises(PreconditionFailed):
            records.write(NAME, b"two", replaces=version)
        assert records.read(NAME) is None

    def test_only_what_was_read_is_removed(self, records: Records) -> None:
        first = records.write(NAME, b"one", replaces=None)
        second = records.write(NAME, b"two", replaces=first)
        with pytest.raises(PreconditionFailed):
            records.remove(NAME, version=first)
        assert records.read(NAME) is not None
        records.remove(NAME, version=second)
        records.remove(NAME, version=second)
        assert records.read(NAME) is None

    def test_the_records_of_a_folder_are_listed_by_age(self, records: Records) -> None:
        for name in ("claims/one", "claims/two", "running/three"):
            records.write(name, b"", replaces=None)
        # An S3 endpoint tells its time in whole seconds.
        assert records.names("claims", older_than_s=-60) == ("claims/one", "claims/two")
        assert records.names("claims", older_than_s=60) == ()
        assert records.names("nothing", older_than_s=-60) == ()

    @pytest.mark.parametrize("name", ["", "../up", "/abs", "a/../../up", "a\\b"])
    def test_no_name_becomes_a_path_unchecked(self, records: Records, name: str) -> None:
        with pytest.raises(NameRefused):
            records.read(name)
        with pytest.raises(NameRefused):
            records.write(name, b"", replaces=None)

    def test_a_record_stays_small(self, records: Records) -> None:
        with pytest.raises(ValueError, match="larger than"):
            records.write(NAME, bytes(2**17), replaces=None)

    def test_of_many_writers_at_once_each_version_has_one_successor(self, records: Records) -> None:
        version = records.write(NAME, b"start", replaces=None)
        won: list[int] = []

        def race(number: int) -> None:
            try:
                records.write(NAME, f"by {number}".encode(), replaces=version)
            except PreconditionFailed:
                return
            won.append(number)

        threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = records.read(NAME)
        assert found is not None
        assert found.content == f"by {won[-1]}".encode()
        assert len(won) == 1
