"""Templates of OCI hooks: what Go's text/template gives for what hooks use of it."""

from __future__ import annotations

import pytest

from containerd_hybrid.app.templates import render
from containerd_hybrid.errors import InvalidArgumentError

FUNCTIONS = {
    "id": lambda: "c1",
    "pid": lambda: 42,
    "annotation": lambda key: {"net": "host", "a b": "x"}.get(key, ""),
    "status": lambda: "creating",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no template", "no template"),
        ("{{id}}", "c1"),
        ("--id={{ id }} --pid={{pid}}", "--id=c1 --pid=42"),
        ('{{annotation "net"}}', "host"),
        ("{{annotation `a b`}}", "x"),
        ('{{annotation "missing"}}', ""),
        ('{{"net" | annotation}}', "host"),
        ('{{annotation (print "n" "et")}}', "host"),
        ("a {{- id -}} b", "ac1b"),
        ("{{/* a comment */}}x", "x"),
        ('{{if eq status "creating"}}new{{else}}old{{end}}', "new"),
        ('{{if ne status "creating"}}old{{end}}', ""),
        ('{{if annotation "no"}}a{{else if annotation "net"}}b{{else}}c{{end}}', "b"),
        ('{{if and (annotation "net") (not (annotation "no"))}}yes{{end}}', "yes"),
        ('{{if or (annotation "no") pid}}yes{{end}}', "yes"),
        ("{{if true}}{{if false}}a{{else}}b{{end}}c{{end}}d", "bcd"),
        ('{{printf "%s-%d-%q-%v%%" id pid status true}}', 'c1-42-"creating"-true%'),
        ('{{printf "%05d" pid}}', "00042"),
        ("{{print 1 2 id}}", "1 2c1"),
        ("{{println id pid}}", "c1 42\n"),
        ("{{len id}}", "2"),
        ('{{"}}"}}', "}}"),
        (r'{{"a\"b\n"}}', 'a"b\n'),
        ("{{eq pid 1 42}}", "true"),
    ],
)
def test_what_go_gives(text: str, expected: str) -> None:
    assert render(text, FUNCTIONS) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{nothing}}", "function 'nothing' not defined"),
        ("{{.Field}}", "not understood"),
        ("{{id", "unclosed action"),
        ("{{if id}}x", "without {{end}}"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{range id}}x{{end}}", "function 'range' not defined|unexpected"),
        ("{{annotation}}", "annotation: "),
        ("{{id id}}", "id: "),
        ("{{(id}}", "unclosed parenthesis"),
        ("{{id)}}", "unexpected"),
        ("{{| id}}", "missing value"),
        ('{{"x" id}}', "is no function"),
        ('{{printf "%d" id}}', "does not fit"),
        ('{{printf "%s"}}', "too few"),
        ('{{printf "x" 1}}', "too many"),
    ],
)
def test_what_is_not_understood_is_an_error(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        render(text, FUNCTIONS)
