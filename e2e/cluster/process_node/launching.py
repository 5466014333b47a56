"""From a container's specification to the process to start. Pure but for looking up the program."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.process_node.environment import ConfigurationError, expand_all
from cluster.process_node.images import Image
from cluster.process_node.objects import JsonObject
from cluster.process_node.orphans import CONTAINER_MARK, NODE_MARK
from cluster.process_node.paths import PathMap
from cluster.process_node.processes import Launch, LaunchError

SERVICE_ACCOUNT_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
# What a program cannot guess and no image brings: the locale, and where this machine keeps libraries.
INHERITED = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Surroundings:
    """What one container's process finds around it. Folders are as programs see them."""

    node_root: Path
    container_id: str
    folder: Path
    api_host: str
    api_port: int
    hostname: str
    inherited: Mapping[str, str]

    def service_variables(self) -> dict[str, str]:
        """The only variables besides its own that a container may use in $(NAME)."""
        return {"KUBERNETES_SERVICE_HOST": self.api_host, "KUBERNETES_SERVICE_PORT": str(self.api_port)}


def build_launch(
    container: JsonObject,
    image: Image,
    own_env: Mapping[str, str],
    paths: PathMap,
    around: Surroundings,
) -> Launch:
    """The command line, environment and folder of the container's process.

    Raises ConfigurationError (nothing to run), LaunchError (program not found).
    """
    env = build_process_env(image, own_env, paths, around)
    words = container.get("command") or list(image.entrypoint)
    words = [*words, *(container.get("args") or [])]
    if not words:
        raise ConfigurationError(
            f"image {image.name!r} has no entrypoint and the container no command: give one of the two"
        )
    variables = {**around.service_variables(), **own_env}
    argv = paths.rewrite_all(expand_all(words, variables))
    folder = working_folder(container, paths, around)
    return Launch([find_program(argv[0], image, env["PATH"], folder), *argv[1:]], env, folder)


def build_process_env(image: Image, own_env: Mapping[str, str], paths: PathMap, around: Surroundings) -> dict[str, str]:
    """Image, then pod, then what the node must be able to rely on."""
    env = {
        **around.inherited,
        "PATH": image.search_path,
        "VIRTUAL_ENV": str(image.venv),
        "HOME": str(around.folder / "home"),
        "TMPDIR": paths.real_paths.get("/tmp", str(around.folder / "tmp")),
        "HOSTNAME": around.hostname,
        **around.service_variables(),
        **image.env,
        **{name: paths.rewrite(value) for name, value in own_env.items()},
        NODE_MARK: str(around.node_root),
        CONTAINER_MARK: around.container_id,
    }
    if SERVICE_ACCOUNT_MOUNT in paths.real_paths:
        env["TANDEM_SERVICEACCOUNT_DIR"] = paths.real_paths[SERVICE_ACCOUNT_MOUNT]
    return env


def working_folder(container: JsonObject, paths: PathMap, around: Surroundings) -> Path:
    """workingDir where it is mounted or exists here; else a folder of the container's own."""
    own = around.folder / "work"
    asked = container.get("workingDir")
    if not asked:
        return own
    real = Path(paths.rewrite(asked))
    return real if real.is_dir() else own / asked.lstrip("/")


def find_program(program: str, image: Image, env_path: str, folder: Path) -> str:
    """The file to execute: the image's own first, then the pod's PATH. Raises LaunchError."""
    if "/" in program:
        return str(folder / program)
    found = shutil.which(program, path=f"{image.search_path}:{env_path}")
    if found is None:
        raise LaunchError(f"exec: {program!r}: executable file not found in {image.search_path}")
    return found
