"""The pod of a worker. It passes Pod Security `restricted`; what a user may shape is `PodTemplate`, nothing else.

Directories that the worker uses are mount paths, and it learns them from its environment only: a node that maps mounts
to other places can rewrite them there.
"""

from dataclasses import dataclass
from typing import Any

from tandem_api import labels
from tandem_api.v1alpha1 import PodTemplate
from tandem_api.worker import CODE_DIR, CONFIG_ENV, KEYS_DIR, KV_TLS_DIR, MODEL_DIR, OFFLOAD_DIR, RUN_DIR
from tandem_core.keys import fleet_secret_name
from tandem_operator.model import Fleet, PoolRole
from tandem_operator.resources import weights, worker_config
from tandem_operator.resources.metadata import build_selector
from tandem_operator.resources.offload import build_offload_volumes, build_shared_memory_limit, find_offload
from tandem_operator.resources.placement import build_placement
from tandem_operator.resources.revisions import kv_revision, pool_of, template_revision, worker_role

_USER_ID = 65532  # "nonroot" of the distroless images; any image works, since only mounted places are written
_GRACE_AFTER_DRAIN_S = 15  # for the engine to stop, after its streams have ended
_TMP_DIR = "/tmp"  # noqa: S108 - the container's own

# A model of hundreds of gigabytes may load for an hour; the first answer is noticed within a second all the same.
_STARTUP_PERIOD_S = 1
_STARTUP_FAILURES = 3600


@dataclass(frozen=True)
class Images:
    """Resolved images: what the spec says, else what the revision was born with, else the installation's default."""

    engine: str
    worker: str


def build_pod_template(fleet: Fleet, role: PoolRole, images: Images) -> dict[str, Any]:
    """`spec.template` of the Deployment of one role."""
    shaped = pool_of(fleet.spec, role).pod_template or PodTemplate()
    return {
        "metadata": {
            "labels": {**shaped.labels, **build_pod_labels(fleet, role)},
            "annotations": {**shaped.annotations, **_port_annotations()},
        },
        "spec": _build_pod_spec(fleet, role, images, shaped),
    }


def build_pod_labels(fleet: Fleet, role: PoolRole) -> dict[str, str]:
    """Labels by which pools, routers and people find a worker."""
    return {
        **build_selector(fleet, role),
        labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
        labels.ROLE: worker_role(fleet.spec, role).value,
        labels.KV_REVISION: kv_revision(fleet.spec),
        labels.TEMPLATE_REVISION: template_revision(fleet.spec, role),
    }


def _port_annotations() -> dict[str, str]:
    return {
        labels.HTTP_PORT_ANNOTATION: str(labels.HTTP_PORT),
        labels.ADMIN_PORT_ANNOTATION: str(labels.ADMIN_PORT),
        labels.KV_PORT_ANNOTATION: str(labels.KV_BASE_PORT),
    }


def _build_pod_spec(fleet: Fleet, role: PoolRole, images: Images, shaped: PodTemplate) -> dict[str, Any]:
    is_sim = fleet.spec.engine.type == "sim"
    spec = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER_ID,
            "runAsGroup": _USER_ID,
            "fsGroup": _USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",  # a volume of weights has millions of blocks to visit
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": fleet.spec.drain.timeout_seconds + _GRACE_AFTER_DRAIN_S,
        "initContainers": [] if is_sim else _build_init_containers(fleet, images),
        "containers": [_build_worker(fleet, role, images)],
        "volumes": _build_volumes(fleet, role),
        **build_placement(fleet, role, shaped),
    }
    return {name: value for name, value in spec.items() if value != []}


def _build_init_containers(fleet: Fleet, images: Images) -> list[dict[str, Any]]:
    return [_build_installer(images), *weights.build_fetchers(fleet.spec, _container_security(), _TMP_DIR)]


def _build_installer(images: Images) -> dict[str, Any]:
    """Puts our code beside a stock engine image: vLLM's needs no rebuild."""
    return {
        "name": "install-worker",
        "image": images.worker,
        "command": ["python3", "-m", "tandem_worker.install", CODE_DIR],
        "securityContext": _container_security(),
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "code", "mountPath": CODE_DIR}],
    }


def _build_worker(fleet: Fleet, role: PoolRole, images: Images) -> dict[str, Any]:
    is_sim = fleet.spec.engine.type == "sim"
    container = {
        "name": "worker",
        "image": images.worker if is_sim else images.engine,
        "command": ["python3", "-m", "tandem_worker"],
        "env": _build_environment(fleet, role),
        "ports": [
            {"name": "http", "containerPort": labels.HTTP_PORT},
            {"name": "admin", "containerPort": labels.ADMIN_PORT},
            {"name": "kv", "containerPort": labels.KV_BASE_PORT},
        ],
        "resources": _build_resources(fleet, role),
        "securityContext": _container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "startupProbe": _probe("/readyz", period_s=_STARTUP_PERIOD_S, failures=_STARTUP_FAILURES),
        "readinessProbe": _probe("/readyz", period_s=2, failures=2),
        "livenessProbe": _probe("/livez", period_s=10, failures=3),
        "volumeMounts": _build_mounts(fleet, role),
    }
    return {name: value for name, value in container.items() if value != {}}


def _probe(path: str, *, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "admin"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _container_security() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
    }


def _build_environment(fleet: Fleet, role: PoolRole) -> list[dict[str, Any]]:
    config = worker_config.to_environment(worker_config.build_worker_config(fleet, role))
    values = {
        CONFIG_ENV: config,
        "PYTHONPATH": CODE_DIR,
        "TANDEM_KEYS_DIR": KEYS_DIR,
        "TANDEM_RUN_DIR": RUN_DIR,
        "TANDEM_DATA_DIR": MODEL_DIR,
        "HOME": MODEL_DIR,
        "HF_HOME": weights.hub_directory(fleet.spec),
        "USER": "tandem",  # PyTorch asks for a user name, and the uid has no entry in the image
    }
    if fleet.spec.engine.type == "sim":
        del values["PYTHONPATH"]
    from_pod = {"POD_IP": "status.podIP", "POD_NAME": "metadata.name"}
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in from_pod.items()),
        *({"name": name, "value": value} for name, value in values.items()),
        *_build_user_environment(fleet, role),
    ]


def _build_user_environment(fleet: Fleet, role: PoolRole) -> list[dict[str, Any]]:
    shaped = pool_of(fleet.spec, role).pod_template or PodTemplate()
    secret = fleet.spec.model.token_secret
    token = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret.to_wire()}}] if secret else []
    return [*token, *(variable.to_wire() for variable in shaped.env)]


def _build_resources(fleet: Fleet, role: PoolRole) -> dict[str, Any]:
    pool = pool_of(fleet.spec, role)
    resources, gpus = pool.resources, gpu_count(fleet, role) // pool.nodes
    requests = {"cpu": resources.cpu, "memory": resources.memory}
    limits = {"memory": resources.memory, resources.gpu_resource: str(gpus) if gpus else None}
    both = {"requests": requests, "limits": limits}
    set_only = {kind: {k: v for k, v in amounts.items() if v is not None} for kind, amounts in both.items()}
    claims = [{"name": claim.name} for claim in pool.pod_template.resource_claims] if pool.pod_template else []
    return {kind: amounts for kind, amounts in {**set_only, "claims": claims}.items() if amounts}


def gpu_count(fleet: Fleet, role: PoolRole) -> int:
    """GPUs of one worker: as written, else one per rank; none for `sim`, nor where resource claims bring devices."""
    pool = pool_of(fleet.spec, role)
    if pool.resources.gpu is not None:
        return pool.resources.gpu
    brought = pool.pod_template is not None and bool(pool.pod_template.resource_claims)
    return 0 if brought or fleet.spec.engine.type == "sim" else pool.parallelism.ranks


def _build_volumes(fleet: Fleet, role: PoolRole) -> list[dict[str, Any]]:
    pool = pool_of(fleet.spec, role)
    offload = find_offload(fleet.spec, pool)
    shared_memory = build_shared_memory_limit(pool.resources.shared_memory, offload)
    scratch = ("run", "data", "tmp") if fleet.spec.engine.type == "sim" else ("code", "run", "data", "tmp")
    cache = [weights.build_cache_volume(fleet.spec)] if weights.needs_cache(fleet.spec) else []
    return [
        *({"name": name, "emptyDir": {}} for name in scratch),
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
        *build_offload_volumes(offload),
        {"name": "keys", "secret": {"secretName": fleet_secret_name(fleet.key.name), "defaultMode": 0o440}},
        *_build_tls_volumes(fleet),
        *({"name": one.name, **one.volume} for one in weights.list_volumes(fleet.spec)),
        *cache,
    ]


def _build_tls_volumes(fleet: Fleet) -> list[dict[str, Any]]:
    """The fleet's certificate, where KV moves over TLS."""
    tls = fleet.spec.kv_transfer.tls
    if tls is None or fleet.spec.prefill is None:
        return []
    return [{"name": "kv-tls", "secret": {"secretName": tls.secret_name, "defaultMode": 0o440}}]


def _build_mounts(fleet: Fleet, role: PoolRole) -> list[dict[str, Any]]:
    offload = find_offload(fleet.spec, pool_of(fleet.spec, role))
    places = {"code": CODE_DIR, "run": RUN_DIR, "data": MODEL_DIR, "tmp": _TMP_DIR, "shm": "/dev/shm"}  # noqa: S108
    if fleet.spec.engine.type == "sim":
        del places["code"]
    places |= {volume["name"]: OFFLOAD_DIR for volume in build_offload_volumes(offload)}
    if weights.needs_cache(fleet.spec):
        places["cache"] = weights.CACHE_DIR
    read_only = {"keys": KEYS_DIR} | {volume["name"]: KV_TLS_DIR for volume in _build_tls_volumes(fleet)}
    read_only |= {one.name: one.path for one in weights.list_volumes(fleet.spec)}
    return [
        *({"name": name, "mountPath": path} for name, path in places.items()),
        *({"name": name, "mountPath": path, "readOnly": True} for name, path in read_only.items()),
    ]
