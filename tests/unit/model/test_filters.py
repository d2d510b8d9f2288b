"""The filter grammar: what it accepts, what it means, what it says about mistakes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_hybrid.errors import InvalidFilterError
from containerd_hybrid.model.filters import Filters, Operator, Selector, map_value

LABELS = {"foo": "true", "a b": "spaced", 'quo"te': "q", "dotted.key": "d", "empty": ""}


def lookup(path: tuple[str, ...]) -> str | None:
    match path:
        case ("name",):
            return "alpha"
        case ("parent",):
            return ""
        case ("labels", *_):
            return map_value(path, LABELS)
    return None


def matches(*filters: str) -> bool:
    return Filters.parse(filters).match(lookup)


@pytest.mark.parametrize(
    "filter",
    [
        "",
        "name",
        "name==alpha",
        "name!=beta",
        "name~=^al",
        "name~=/^al.*a$/",
        "name~=|^alpha$|",
        'name=="alpha"',
        'name=="\\x61lph\\141"',
        'name=="\\u0061\\U0000006cpha"',
        "name == alpha",
        "  name==alpha",
        "labels.foo",
        "labels.foo==true,name==alpha",
        "labels.foo==true, name==alpha",
        'labels."a b"==spaced',
        'labels."quo\\"te"==q',
        "labels.dotted.key==d",
        'labels."dotted.key"==d',
        "labels.absent!=x",
        "labels.absent~=^$",
        "parent",
        'parent==""',
        "nothing!=x",
    ],
)
def test_holds(filter: str) -> None:
    assert matches(filter)


@pytest.mark.parametrize(
    "filter",
    [
        "nothing",
        "name==beta",
        "name!=alpha",
        "name~=^beta",
        "labels.absent",
        'labels.absent==""',
        'labels.absent!=""',
        'parent!=""',
        "labels.foo==true,name==beta",
        "name~=(",
        "name~=/a\\\\1/",
        "name~=|(?=al)|",
    ],
)
def test_does_not_hold(filter: str) -> None:
    assert not matches(filter)


def test_several_filters_are_alternatives() -> None:
    assert matches("name==beta", "labels.foo")
    assert not matches("name==beta", "labels.bar")
    assert matches("name==beta", "")
    assert matches()


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ("name==foo,", "[name==foo,]: expected field or quoted"),
        ("labels.", "[labels.]: expected field or quoted"),
        ("labels.|foo|==x", "[labels. >|||< foo|==x]: invalid quote encountered"),
        ("name=='x'y", None),
        ("image~=,id?=?fbaq", "[image~= >|,|< id?=?fbaq]: expected value or quoted"),
        ("labels.ns/key==value", "[labels.ns >|/|< key==value]: quoted literal not terminated"),
        ("labels.key==/value", "[labels.key== >|/|< value]: quoted literal not terminated"),
        ("name==/x/", "[name== >|/|< x/]: invalid quote encountered"),
        ("name=foo", '[name >|=|< foo]: unsupported operator "="'),
        ("name===foo", '[name >|=|< ==foo]: unsupported operator "==="'),
        ("name<foo", '[name >|<|< foo]: expected an operator ("=="|"!="|"~=")'),
        ("name==foo ", "[name==foo >| |< ]: unexpected input:  "),
        ("==foo", "[ >|=|< =foo]: expected field or quoted"),
        ('labels."\\g"', '[labels. >|"|< \\g"]: illegal escape sequence'),
        ('labels."\\xaz"', '[labels. >|"|< \\xaz"]: illegal numeric escape sequence'),
        ('name=="\\400"', '[name== >|"|< \\400"]: unquoting failed: quote syntax error'),
        ('name=="a\nb"', '[name== >|"|< a\nb"]: quoted literal not terminated'),
        ("name\0", "[name >|\0|< ]: unexpected null"),
        ("name==.x", "[name== >|.|< x]: expected value or quoted"),
    ],
)
def test_mistakes_are_shown_in_place(filter: str, message: str | None) -> None:
    if message is None:
        # A quote that is none is part of a value.
        assert Filters.parse([filter]).alternatives[0][0].value == "'x'y"
        return
    with pytest.raises(InvalidFilterError) as raised:
        Filters.parse(["name", filter])
    assert raised.value.message == f"filters: parse error: {message}: invalid argument"


def test_parsing_gives_frozen_values() -> None:
    parsed = Filters.parse(["name==a,labels.x", 'id!="b"'])
    assert parsed == Filters(
        (
            (Selector(("name",), Operator.EQUAL, "a"), Selector(("labels", "x"))),
            (Selector(("id",), Operator.NOT_EQUAL, "b"),),
        )
    )
    assert hash(parsed) == hash(Filters.parse(["name==a,labels.x", "id!=b"]))


def test_always() -> None:
    assert Filters.parse([]).always
    assert Filters.parse(["name==x", ""]).always
    assert not Filters.parse(["name"]).always


def test_exact_names_the_only_values_a_match_can_have() -> None:
    assert Filters.parse(["id==a"]).exact("id") == frozenset({"a"})
    assert Filters.parse(["id==a,labels.x", "labels.y,id==b"]).exact("id") == frozenset({"a", "b"})
    assert Filters.parse(["id==a", "labels.x"]).exact("id") is None
    assert Filters.parse(["id!=a"]).exact("id") is None
    assert Filters.parse(["id~=a"]).exact("id") is None
    assert Filters.parse(["id==a", ""]).exact("id") is None
    assert Filters.parse([]).exact("id") is None
    assert Filters.parse(["labels.id==a"]).exact("id") is None


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd\0"))
QUOTED = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n"})


@given(st.lists(TEXT, min_size=1, max_size=3), TEXT)
def test_any_field_and_value_can_be_quoted(path: list[str], value: str) -> None:
    fields = ".".join(f'"{field.translate(QUOTED)}"' for field in path)
    parsed = Filters.parse([f'{fields}=="{value.translate(QUOTED)}"'])
    assert parsed == Filters(((Selector(tuple(path), Operator.EQUAL, value),),))


SNIPPETS = st.sampled_from(
    [
        *"nl.,=!~\"/|'\\ \t\n\0x14u7é牛",
        "name",
        "labels.",
        "==",
        "~=",
        "!=",
        '"a"',
        "/a/",
        "\\x41",
        "\\u00e9",
        "\ufffd",
    ]
)


@given(st.lists(SNIPPETS | st.text(max_size=3), max_size=12).map("".join))
def test_any_text_is_parsed_or_refused_with_a_message(text: str) -> None:
    try:
        parsed, message = Filters.parse([text]), None
    except InvalidFilterError as error:
        parsed, message = None, error.message
    if message is not None:
        assert message.startswith("filters: parse error: [")
        assert message.endswith(": invalid argument")
    else:
        assert parsed is not None
        assert parsed.match(lookup) in (True, False)
        assert Filters.parse([text]) == parsed
