"""Flags, credentials, generated files: what goes wrong at the start says so in one sentence."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
import yaml

from tandem_operator import crdgen, rbac
from tandem_operator.app import _raise_first, main
from tandem_operator.credentials import load_credentials
from tandem_operator.errors import ConfigurationError
from tandem_operator.logs import is_worth_a_line
from tandem_operator.settings import read_settings


def test_flags_win_over_the_environment_and_both_over_defaults() -> None:
    settings = read_settings(
        ["--engine-image", "flag"], {"TANDEM_DEFAULT_ENGINE_IMAGE": "env", "TANDEM_WORKER_IMAGE": "w"}
    )
    assert (settings.engine_image, settings.worker_image, settings.lease_name) == ("flag", "w", "tandem-operator")
    assert settings.namespaces == ()
    assert settings.serves("anything")


def test_named_namespaces_are_served_alone() -> None:
    settings = read_settings(["--namespaces", "a, b"], {})
    assert settings.namespaces == ("a", "b")
    assert not settings.serves("c")


def write_kubeconfig(path: Path, user: dict[str, object]) -> Path:
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "n"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:1/"}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_kubeconfig_gives_server_token_and_namespace_and_hides_the_token(tmp_path: Path) -> None:
    path = write_kubeconfig(tmp_path / "k", {"token": "secret-token"})
    credentials = load_credentials(None, {"KUBECONFIG": str(path)})
    assert (credentials.server, credentials.namespace) == ("https://127.0.0.1:1", "n")
    assert credentials.bearer() == "secret-token"
    assert "secret-token" not in repr(credentials)


def test_a_pod_finds_its_service_account_where_the_environment_says_and_reads_the_token_anew(tmp_path: Path) -> None:
    for name, text in (("token", "one\n"), ("ca.crt", ""), ("namespace", "home\n")):
        (tmp_path / name).write_text(text)
    environment = {
        "KUBERNETES_SERVICE_HOST": "fd00::1",
        "KUBERNETES_SERVICE_PORT": "6443",
        "TANDEM_SERVICEACCOUNT_DIR": str(tmp_path),
    }
    credentials = load_credentials(None, environment)
    assert (credentials.server, credentials.namespace) == ("https://[fd00::1]:6443", "home")
    (tmp_path / "token").write_text("two")
    assert credentials.bearer() == "two"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "no cluster: run in a pod, or set"),
        ({"KUBECONFIG": "/nowhere"}, "/nowhere: No such file"),
        ({"KUBERNETES_SERVICE_HOST": "h", "TANDEM_SERVICEACCOUNT_DIR": "/nowhere"}, "mount the service account"),
    ],
)
def test_without_a_way_to_the_cluster_the_error_says_what_to_set(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_credentials(None, environment)


@pytest.mark.parametrize("user", [{"exec": {"command": "aws"}}, {"auth-provider": {}}])
def test_a_sign_in_by_plugin_is_refused(tmp_path: Path, user: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="use a token or a client certificate"):
        load_credentials(str(write_kubeconfig(tmp_path / "k", user)), {})


def test_a_text_that_is_no_kubeconfig_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("- 1")
    with pytest.raises(ConfigurationError, match="is not a kubeconfig"):
        load_credentials(str(tmp_path / "k"), {})


def test_a_wrong_start_ends_with_code_2_and_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kubeconfig", "/nowhere"]) == 2
    assert capsys.readouterr().err == (
        "tandem-operator: /nowhere: No such file or directory; give the path of a kubeconfig\n"
    )


def test_the_committed_definitions_and_rules_are_those_that_the_code_generates() -> None:
    assert crdgen.main(["--check"]) == 0
    assert rbac.main(["--check"]) == 0


def test_a_stale_definition_is_named_and_then_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crdgen.main(["--check", "--root", str(tmp_path)]) == 1
    assert "tandem.dev_workerpools.yaml is stale" in capsys.readouterr().err
    assert crdgen.main(["--root", str(tmp_path)]) == 0
    assert crdgen.main(["--check", "--root", str(tmp_path)]) == 0


@pytest.mark.parametrize("definition", crdgen.DEFINITIONS, ids=lambda d: d.kind)
def test_every_string_list_and_map_of_a_definition_is_bounded(definition: crdgen.Definition) -> None:
    schema = crdgen.build_schema(definition.model)
    loose = list(_unbounded(schema["properties"]["spec"], "spec"))
    assert loose == []


def _unbounded(node: crdgen.Json, path: str) -> list[str]:
    limits = {"string": "maxLength", "array": "maxItems", "integer": "maximum"}
    limit = limits.get(node.get("type", ""))
    found = [path] if limit and limit not in node and "enum" not in node else []
    if "additionalProperties" in node:
        found += [] if "maxProperties" in node else [path]
        found += _unbounded(node["additionalProperties"], f"{path}.*")
    for name, child in node.get("properties", {}).items():
        found += _unbounded(child, f"{path}.{name}")
    return found + (_unbounded(node["items"], f"{path}[]") if "items" in node else [])


async def test_a_wrong_key_is_told_in_a_sentence_although_a_task_group_wraps_it() -> None:
    """`main` turns a ConfigurationError into one line and exit code 2; a group of them would be a traceback."""

    async def lead() -> None:
        async with asyncio.TaskGroup():
            raise ConfigurationError("Secret tandem-root holds no key")

    task = asyncio.ensure_future(lead())
    await asyncio.wait([task])
    with pytest.raises(ConfigurationError, match="holds no key"):
        await _raise_first(task)


@pytest.mark.parametrize(
    ("logger", "message", "want"),
    [
        ("kopf._cogs.clients.watching", "Request attempt #3 failed; will retry: GET https://…", False),
        ("kopf._core.reactor", "Watcher for pods.v1 has failed: forbidden", True),
        ("tandem_operator.lease", "Request attempt #3 failed", True),
    ],
)
def test_the_attempts_of_a_library_are_not_told_one_by_one(logger: str, message: str, want: bool) -> None:
    record = logging.LogRecord(logger, logging.ERROR, "", 0, message, (), None)
    assert is_worth_a_line(record) is want
