"""Labels, update masks and identifiers: limits, times, paths."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.model.fieldpaths import map_key, updated_labels, with_key
from containerd_hybrid.model.identifiers import validate_identifier
from containerd_hybrid.model.labels import (
    expiry,
    parse_rfc3339,
    stored_labels,
    validate_label,
    validate_labels,
)

SECOND = 1_000_000_000


def test_a_label_may_have_4096_bytes_and_no_more() -> None:
    validate_label("k", "v" * 4095)
    with pytest.raises(InvalidArgumentError) as raised:
        validate_labels({"fine": "x", "k" * 100: "v" * 3997}, "image.Labels")
    assert raised.value.message == (
        "image.Labels: label key and value length (4097 bytes) greater than maximum size (4096 bytes), "
        f"key: {'k' * 64}: invalid argument"
    )


def test_a_value_needs_a_key() -> None:
    validate_label("", "")
    with pytest.raises(InvalidArgumentError, match=r"^image\.Labels: label key required"):
        validate_labels({"": "v"}, "image.Labels")


def test_a_long_key_is_cut_at_a_character() -> None:
    with pytest.raises(InvalidArgumentError, match=f"key: {'é' * 32}: invalid argument"):
        validate_label("é" * 3000, "")


def test_labels_without_a_value_are_not_stored() -> None:
    assert stored_labels({"a": "1", "b": ""}) == {"a": "1"}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", SECOND * 3 // 2),
        ("1970-01-01T00:00:00.123456789Z", 123456789),
        ("1970-01-01T00:00:00.1234567899Z", 123456789),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T23:00:00-01:00", 0),
        ("2038-01-19T03:14:08Z", 2**31 * SECOND),
        ("1969-12-31T23:59:59Z", -SECOND),
        ("9999-12-31T23:59:59Z", 2**63 - 1),
        ("0001-01-01T00:00:00Z", -(2**63)),
        ("2026-02-29T00:00:00Z", None),
        ("2024-02-29T00:00:00Z", 1709164800 * SECOND),
        ("2026-01-01T24:00:00Z", None),
        ("2026-01-01 00:00:00Z", None),
        ("2026-01-01T00:00:00", None),
        ("2026-01-01", None),
        ("never", None),
        ("", None),
        ("٢026-01-01T00:00:00Z", None),
    ],
)
def test_rfc3339(text: str, nanoseconds: int | None) -> None:
    assert parse_rfc3339(text) == nanoseconds


# Not the zones of this machine, which a small one does not have.
ZONES = st.integers(-14 * 60, 14 * 60).map(
    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))
)


@given(st.datetimes(timezones=ZONES))
def test_rfc3339_agrees_with_python(moment: datetime.datetime) -> None:
    utc = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    nanoseconds = (moment - utc) // datetime.timedelta(microseconds=1) * 1000
    assert parse_rfc3339(moment.isoformat()) == min(max(nanoseconds, -(2**63)), 2**63 - 1)


def test_expiry() -> None:
    assert expiry({}) is None
    assert expiry({"containerd.io/gc.expire": "1970-01-01T00:00:01Z"}) == SECOND
    assert expiry({"containerd.io/gc.expire": "tomorrow"}) is None


def test_map_key() -> None:
    assert map_key("labels.a", "labels") == "a"
    assert map_key("labels.a.b/c", "labels") == "a.b/c"
    assert map_key("labels.", "labels") == ""
    assert map_key("labels", "labels") is None
    assert map_key("labelsx.a", "labels") is None


def test_with_key_leaves_its_arguments_alone() -> None:
    current, given_ = {"a": "1"}, {"b": "2"}
    assert with_key(current, given_, "b") == {"a": "1", "b": "2"}
    assert with_key(current, given_, "a") == {}
    assert current == {"a": "1"}


def test_updated_labels() -> None:
    current, given_ = {"a": "1", "b": "2"}, {"b": "3", "c": "4"}
    assert updated_labels(current, given_, (), "thing") == given_
    assert updated_labels(current, given_, ("labels",), "thing") == given_
    assert updated_labels(current, given_, ("labels.b", "labels.a"), "thing") == {"b": "3"}
    assert updated_labels(current, given_, ("labels.c", "labels"), "thing") == given_
    with pytest.raises(InvalidArgumentError, match='cannot update "size" field on thing: invalid argument'):
        updated_labels(current, given_, ("labels.b", "size"), "thing")


@pytest.mark.parametrize("text", ["a", "A9", "a.b-c_d", "default", "k8s.io", "moby", "a" * 76, "0"])
def test_identifiers(text: str) -> None:
    validate_identifier(text)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "-a", "a-", "a..b", "a.-b", "a b", "a/b", "é", "a\n", "a" * 77, "a\0", "_"]
)
def test_not_identifiers(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="identifier"):
        validate_identifier(text)
