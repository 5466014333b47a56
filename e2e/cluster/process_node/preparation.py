"""Everything a run of a container needs, gathered before its process starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from cluster.process_node.checks import CheckTarget, named_ports
from cluster.process_node.environment import SourceKey, build_environment, named_sources
from cluster.process_node.fields import PodFields
from cluster.process_node.folders import PodFolders
from cluster.process_node.images import Image
from cluster.process_node.instance import Setup
from cluster.process_node.launching import Surroundings, build_launch, find_program
from cluster.process_node.objects import JsonObject, grace_s, pod_name, pod_namespace
from cluster.process_node.paths import PathMap
from cluster.process_node.processes import Launch
from cluster.process_node.services import HOST_IP, NodeServices
from cluster.process_node.volume_payloads import object_data
from cluster.process_node.volumes import PodVolumes

ENV_MAX_AGE_S = 1.0


@dataclass(frozen=True)
class PodContext:
    """What the containers of one pod share. `fields` is called anew for the pod's newest version."""

    node: NodeServices
    folders: PodFolders
    volumes: PodVolumes
    fields: Callable[[], PodFields]
    on_change: Callable[[], None]


class Preparation:
    """Gathers the setup of one container's next run."""

    def __init__(self, spec: JsonObject, context: PodContext) -> None:
        self._spec = spec
        self._name = str(spec["name"])
        self._context = context

    async def build_setup(self, image: Image, run: int) -> Setup:
        """Reads what env names, maps mounts and makes folders.

        Raises ConfigurationError, FieldError, QuantityError, MountPathError, LaunchError, ApiError,
        ApiUnreachableError.
        """
        fields = self._context.fields()
        around = self._surroundings(fields.pod, f"process://{uuid4().hex}")
        sources = {key: await self._fetch(fields.pod, key) for key in named_sources(self._spec)}
        own_env = build_environment(self._spec, sources, fields, around.service_variables())
        paths = self._path_map(own_env)
        launch = build_launch(self._spec, image, own_env, paths, around)
        self._make_folders(launch)
        return Setup(
            container=self._spec,
            container_id=around.container_id,
            launch=launch,
            log_path=self._context.folders.log(self._name, run),
            pid_file=self._context.folders.pid_file(self._name),
            message_file=self._context.folders.container(self._name) / "termination-log",
            target=self._check_target(image, launch, paths, fields.pod_ip),
            grace_s=grace_s(fields.pod),
        )

    async def _fetch(self, pod: JsonObject, key: SourceKey) -> dict[str, str] | None:
        cache = self._context.node.cache
        obj = await cache.fetch(key.kind, pod_namespace(pod), key.name, ENV_MAX_AGE_S)
        if obj is None:
            return None
        return {name: value.decode(errors="surrogateescape") for name, value in object_data(obj).items()}

    def _path_map(self, own_env: dict[str, str]) -> PathMap:
        mounts = self._context.volumes.path_map(self._spec, own_env).real_paths
        message_path = self._spec.get("terminationMessagePath") or "/dev/termination-log"
        return PathMap({message_path: str(self._seen_folder() / "termination-log"), **mounts})

    def _surroundings(self, pod: JsonObject, container_id: str) -> Surroundings:
        node = self._context.node
        return Surroundings(
            node_root=node.folders.root,
            container_id=container_id,
            folder=self._seen_folder(),
            api_host=node.api_host,
            api_port=node.api_port,
            hostname=pod["spec"].get("hostname") or pod_name(pod),
            inherited=node.inherited_env,
        )

    def _seen_folder(self) -> Path:
        folders = self._context.folders
        return folders.seen_by_programs(folders.container(self._name))

    def _make_folders(self, launch: Launch) -> None:
        folder = self._context.folders.container(self._name)
        for name in ("home", "tmp", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "termination-log").write_bytes(b"")
        launch.cwd.mkdir(parents=True, exist_ok=True)

    def _check_target(self, image: Image, launch: Launch, paths: PathMap, pod_ip: str) -> CheckTarget:
        def build_exec(command: Sequence[str]) -> Launch:
            program, *args = paths.rewrite_all(command)
            return replace(launch, argv=[find_program(program, image, launch.env["PATH"], launch.cwd), *args])

        return CheckTarget(
            host=pod_ip or HOST_IP,
            ports=named_ports(self._spec),
            session=self._context.node.probe_session,
            build_exec=build_exec,
        )
