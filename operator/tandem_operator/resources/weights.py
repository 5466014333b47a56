"""Weights of a fleet (model, draft, adapters): the volumes, fetchers and ways out that its pods need for them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tandem_api.v1alpha1 import InferenceDeploymentSpec, ObjectStore
from tandem_api.worker import MODEL_DIR

MOUNT_DIR = "/models"  # where volumes with weights are mounted, read-only
CACHE_DIR = "/var/lib/tandem/cache"  # what is fetched; shared by all pods where model.cache names a claim
FETCHER_PREFIX = "fetch-"
DEFAULT_FETCHER_IMAGE = "amazon/aws-cli:2.31.0"

_HUB, _CLAIM, _IMAGE, _BUCKET = "hf://", "pvc://", "oci://", "s3://"
_HTTPS_PORT, _HTTP_PORT = 443, 80


@dataclass(frozen=True)
class WeightsVolume:
    """A claim or an image with weights, mounted at `path`."""

    name: str
    path: str
    volume: dict[str, Any]


def model_source(spec: InferenceDeploymentSpec) -> str:
    """Source of the model; without one, its name is a name on the hub."""
    return spec.model.source or f"{_HUB}{spec.model.name}"


def list_sources(spec: InferenceDeploymentSpec) -> tuple[str, ...]:
    """Every source once, the model's first. Engine `sim` needs no weights."""
    if spec.engine.type == "sim":
        return ()
    guess = spec.engine.speculative
    draft = [guess.source] if guess and guess.source else []
    return tuple(dict.fromkeys((model_source(spec), *draft, *(adapter.source for adapter in spec.model.adapters))))


def locate_weights(spec: InferenceDeploymentSpec, source: str) -> str | None:
    """Directory inside the container in which weights lie before the worker starts; None where there is none."""
    if source.startswith(_BUCKET):
        return f"{CACHE_DIR}/s3/{source.removeprefix(_BUCKET)}".rstrip("/")
    root, inside = _split(source)
    mounted = next((volume.path for volume in list_volumes(spec) if root and _root_of(volume) == root), None)
    return f"{mounted}/{inside}".rstrip("/") if mounted else None


def list_volumes(spec: InferenceDeploymentSpec) -> tuple[WeightsVolume, ...]:
    """One volume for each claim and each image, however many sources name it."""
    roots = dict.fromkeys(root for root, _ in map(_split, list_sources(spec)) if root)
    return tuple(
        WeightsVolume(f"weights-{number}", f"{MOUNT_DIR}/weights-{number}", _volume_source(root))
        for number, root in enumerate(roots)
    )


def _split(source: str) -> tuple[str | None, str]:
    """(claim or image with its scheme, path inside it); (None, "") for sources that no volume holds."""
    if source.startswith(_CLAIM):
        claim, _, inside = source.removeprefix(_CLAIM).partition("/")
        return f"{_CLAIM}{claim}", inside
    if source.startswith(_IMAGE):
        image, _, inside = source.partition("#")
        return image, inside.lstrip("/")
    return None, ""


def _volume_source(root: str) -> dict[str, Any]:
    if root.startswith(_CLAIM):
        return {"persistentVolumeClaim": {"claimName": root.removeprefix(_CLAIM), "readOnly": True}}
    return {"image": {"reference": root.removeprefix(_IMAGE), "pullPolicy": "IfNotPresent"}}


def _root_of(volume: WeightsVolume) -> str:
    claim = volume.volume.get("persistentVolumeClaim")
    return f"{_CLAIM}{claim['claimName']}" if claim else f"{_IMAGE}{volume.volume['image']['reference']}"


def needs_cache(spec: InferenceDeploymentSpec) -> bool:
    """Whether pods have the cache volume: one that all share, or one in which a fetcher leaves what it fetched."""
    sources = list_sources(spec)
    return bool(sources) and (spec.model.cache is not None or any(map(_is_bucket, sources)))


def _is_bucket(source: str) -> bool:
    return source.startswith(_BUCKET)


def hub_directory(spec: InferenceDeploymentSpec) -> str:
    """Where the engine keeps what it fetches from the hub."""
    return f"{CACHE_DIR if spec.model.cache and list_sources(spec) else MODEL_DIR}/huggingface"


def build_cache_volume(spec: InferenceDeploymentSpec) -> dict[str, Any]:
    """The cache: the claim that all pods share, else the pod's own."""
    cache = spec.model.cache
    if cache is None:
        return {"name": "cache", "emptyDir": {}}
    return {"name": "cache", "persistentVolumeClaim": {"claimName": cache.claim_name}}


def build_fetchers(spec: InferenceDeploymentSpec, security: dict[str, Any], tmp_dir: str) -> Iterator[dict[str, Any]]:
    """Init containers that bring `s3://` sources into the cache.

    `aws s3 sync` fetches what is missing or differs and renames each file into place, so pods that share a cache may
    run it at once, and a pod that starts again goes on where it was. The command is a list: no shell reads the source.
    """
    store = spec.model.object_store or ObjectStore()
    unsigned = [] if store.credentials_secret else ["--no-sign-request"]
    for number, source in enumerate(filter(_is_bucket, list_sources(spec))):
        place = locate_weights(spec, source)
        yield {
            "name": f"{FETCHER_PREFIX}{number}",
            "image": store.image or DEFAULT_FETCHER_IMAGE,
            "command": ["aws", "s3", "sync", "--only-show-errors", "--no-progress", *unsigned, source, place],
            "env": _fetcher_environment(store, tmp_dir),
            "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}},
            "securityContext": security,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [{"name": "cache", "mountPath": CACHE_DIR}, {"name": "tmp", "mountPath": tmp_dir}],
        }


def _fetcher_environment(store: ObjectStore, tmp_dir: str) -> list[dict[str, Any]]:
    values = {
        "HOME": tmp_dir,
        "AWS_EC2_METADATA_DISABLED": "true",  # the node's own rights are not the fleet's
        **({"AWS_ENDPOINT_URL_S3": store.endpoint} if store.endpoint else {}),
        **({"AWS_REGION": store.region} if store.region else {}),
    }
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN") if store.credentials_secret else ()
    return [
        *({"name": name, "value": value} for name, value in values.items()),
        *({"name": key, "valueFrom": {"secretKeyRef": _key_of(store.credentials_secret, key)}} for key in keys),
    ]


def _key_of(secret: str | None, key: str) -> dict[str, Any]:
    optional = {"optional": True} if key == "AWS_SESSION_TOKEN" else {}
    return {"name": secret, "key": key, **optional}


def list_egress_ports(spec: InferenceDeploymentSpec) -> tuple[int, ...]:
    """TCP ports at which the sources are served outside the cluster."""
    sources = list_sources(spec)
    hub = {_HTTPS_PORT} if any(source.startswith(_HUB) for source in sources) else set()
    return tuple(sorted(hub | ({_store_port(spec)} if any(map(_is_bucket, sources)) else set())))


def _store_port(spec: InferenceDeploymentSpec) -> int:
    store = spec.model.object_store
    endpoint = urlsplit(store.endpoint if store and store.endpoint else "https://")
    return endpoint.port or (_HTTP_PORT if endpoint.scheme == "http" else _HTTPS_PORT)
