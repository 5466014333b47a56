"""`kvTransfer.tls` becomes files in the pod and a setting of the worker."""

import json
from typing import Any

from unit.operator.fleets import make_fleet, make_spec

from tandem_api.v1alpha1 import InferenceDeploymentSpec
from tandem_api.worker import KV_TLS_DIR, WorkerConfig
from tandem_operator.model import PoolRole
from tandem_operator.resources.podspec import Images, build_pod_template
from tandem_operator.resources.revisions import kv_revision, template_revision

ROLES: tuple[PoolRole, PoolRole] = ("prefill", "decode")


def make_encrypted(name: str = "kv", **changes: Any) -> InferenceDeploymentSpec:
    return make_spec(kvTransfer={"tls": {"secretName": name}}, **changes)


def render(spec: InferenceDeploymentSpec, role: PoolRole) -> tuple[dict[str, Any], WorkerConfig]:
    """(pod, what its worker is told)."""
    pod: dict[str, Any] = build_pod_template(make_fleet(spec), role, Images("engine:1", "worker:1"))["spec"]
    (text,) = [one["value"] for one in pod["containers"][0]["env"] if one["name"] == "TANDEM_WORKER"]
    return pod, WorkerConfig.model_validate(json.loads(text))


def test_workers_of_both_roles_get_the_certificate_as_files_they_may_read() -> None:
    for role in ROLES:
        pod, config = render(make_encrypted(), role)
        assert {"name": "kv-tls", "secret": {"secretName": "kv", "defaultMode": 0o440}} in pod["volumes"]
        mount = {"name": "kv-tls", "mountPath": KV_TLS_DIR, "readOnly": True}
        assert mount in pod["containers"][0]["volumeMounts"]
        assert config.kv_transfer is not None
        assert config.kv_transfer.tls_dir == KV_TLS_DIR


def test_a_fleet_that_hands_nothing_over_needs_no_certificate() -> None:
    pod, _ = render(make_encrypted(prefill=None), "decode")
    assert "kv-tls" not in {volume["name"] for volume in pod["volumes"]}
    assert kv_revision(make_encrypted(prefill=None)) == kv_revision(make_spec(prefill=None))


def test_workers_with_and_without_tls_are_never_paired_and_another_secret_is_another_template() -> None:
    assert kv_revision(make_encrypted()) != kv_revision(make_spec())
    assert kv_revision(make_encrypted("other")) == kv_revision(make_encrypted())
    assert template_revision(make_encrypted("other"), "decode") != template_revision(make_encrypted(), "decode")
