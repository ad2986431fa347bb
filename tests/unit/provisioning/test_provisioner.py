"""Names of machines: owner and request are told from a name alone, and no name is another owner's."""

from __future__ import annotations

import uuid

import pytest

from tasks.provisioning.provisioner import check_owner, instance_name, owner_and_request


def test_a_name_tells_owner_and_request() -> None:
    owner = check_owner(str(uuid.uuid4()))
    assert owner_and_request(instance_name(owner, "0123456789abcdef")) == (owner, "0123456789abcdef")


@pytest.mark.parametrize("name", ["jade-abcd", "jade-abcd-xyz", "my-jade-abcd-01234567", "jade-ab-cd-01234567", ""])
def test_names_of_others_tell_nothing(name: str) -> None:
    assert owner_and_request(name) is None


@pytest.mark.parametrize("owner", ["", "abc", "a b c d", "../../etc", "x" * 41])
def test_what_is_no_tag_is_refused(owner: str) -> None:
    with pytest.raises(ValueError, match="an owner is"):
        check_owner(owner)


def test_no_name_is_made_of_a_tag_with_a_dash() -> None:
    with pytest.raises(ValueError, match="make no name"):
        instance_name("ab-cd", "0123456789abcdef")
