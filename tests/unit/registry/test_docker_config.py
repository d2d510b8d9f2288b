"""Docker's config.json and credential helpers."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from containerd_hybrid.errors import InvalidConfigError, UnavailableError
from containerd_hybrid.registry.api import Credential
from containerd_hybrid.registry.docker_config import DockerCredentials

REFERENCE = "r.example/x:1"


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def helper(folder: Path, name: str, script: str) -> None:
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def config(tmp_path: Path, document: object) -> DockerCredentials:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(document))
    return DockerCredentials(file, helper_seconds=60)


def pair(user: str, secret: str) -> str:
    return base64.b64encode(f"{user}:{secret}".encode()).decode()


@pytest.mark.parametrize(
    ("entries", "host", "expected"),
    [
        ({"r.example": {"auth": pair("u", "p:q")}}, "r.example", Credential("u", "p:q")),
        ({"https://r.example": {"auth": pair("u", "p")}}, "r.example", Credential("u", "p")),
        ({"https://r.example/v2/": {"auth": pair("u", "p")}}, "r.example", Credential("u", "p")),
        ({"r.example": {"username": "u", "password": "p"}}, "r.example", Credential("u", "p")),
        ({"r.example": {"auth": pair("u", "p"), "identitytoken": "T"}}, "r.example", Credential("", "T")),
        ({"r.example": {"registrytoken": "T"}}, "r.example", Credential(header="Bearer T")),
        (
            {"https://index.docker.io/v1/": {"auth": pair("u", "p")}},
            "registry-1.docker.io",
            Credential("u", "p"),
        ),
        ({"https://index.docker.io/v1/": {"auth": pair("u", "p")}}, "docker.io", Credential("u", "p")),
        ({"r.example:5000": {"auth": pair("u", "p")}}, "r.example", None),
        ({"r.example": {}}, "r.example", None),
        ({}, "r.example", None),
    ],
)
async def test_plain_entries(tmp_path: Path, entries: object, host: str, expected: Credential | None) -> None:
    assert await config(tmp_path, {"auths": entries}).get(host, REFERENCE) == expected


async def test_no_file_is_nobody(tmp_path: Path) -> None:
    assert await DockerCredentials(tmp_path / "none.json").get("r.example", REFERENCE) is None


async def test_the_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    config(tmp_path, {"auths": {"r.example": {"auth": pair("u", "p")}}})
    assert await DockerCredentials().get("r.example", REFERENCE) == Credential("u", "p")


async def test_a_helper_of_the_host_is_asked(tmp_path: Path, helpers: Path) -> None:
    helper(helpers, "one", 'read host; echo "{\\"Username\\":\\"u-$host\\",\\"Secret\\":\\"p\\"}"')
    found = await config(tmp_path, {"credHelpers": {"r.example": "one"}}).get("r.example", REFERENCE)
    assert found == Credential("u-r.example", "p")


async def test_a_store_keeps_tokens_and_says_when_it_has_nothing(tmp_path: Path, helpers: Path) -> None:
    helper(
        helpers,
        "store",
        'read host; case "$host" in t.example) echo \'{"Username":"<token>","Secret":"T"}\';;'
        " *) echo credentials not found in native keychain; exit 1;; esac",
    )
    document = {"credsStore": "store", "auths": {"plain.example": {"auth": pair("u", "p")}}}
    credentials = config(tmp_path, document)
    assert await credentials.get("t.example", REFERENCE) == Credential("", "T")
    assert await credentials.get("other.example", REFERENCE) is None
    assert await credentials.get("plain.example", REFERENCE) == Credential("u", "p")


@pytest.mark.parametrize(
    ("script", "seconds", "said"),
    [
        ("echo hidden; exit 3", 60, "exit code 3"),
        ("echo hidden", 60, "no JSON object"),
        ("exec sleep 600", 0.5, "did not answer"),
    ],
)
async def test_a_helper_that_fails_is_named_without_its_output(
    tmp_path: Path, helpers: Path, script: str, seconds: float, said: str
) -> None:
    helper(helpers, "bad", script)
    config(tmp_path, {"credsStore": "bad"})
    with pytest.raises(UnavailableError) as caught:
        await DockerCredentials(tmp_path / "config.json", helper_seconds=seconds).get("r.example", REFERENCE)
    assert "docker-credential-bad" in caught.value.message
    assert said in caught.value.message
    assert "hidden" not in caught.value.message


async def test_a_helper_that_is_not_there(tmp_path: Path, helpers: Path) -> None:
    with pytest.raises(UnavailableError, match="docker-credential-none is not installed"):
        await config(tmp_path, {"credsStore": "none"}).get("r.example", REFERENCE)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"auths": 3},
        {"credsStore": "../evil"},
        {"credHelpers": {"r.example": 3}},
        {"auths": {"r.example": {"auth": "!"}}},
    ],
)
async def test_what_is_not_dockers_is_said_with_the_files_name(tmp_path: Path, document: object) -> None:
    with pytest.raises(InvalidConfigError, match=r"config\.json"):
        await config(tmp_path, document).get("r.example", REFERENCE)


async def test_broken_json_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"auths": {"r.example": {"password": "hidden"')
    with pytest.raises(InvalidConfigError) as caught:
        await DockerCredentials(file).get("r.example", REFERENCE)
    assert "hidden" not in str(caught.value)
