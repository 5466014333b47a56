"""Copies this code to where a stock engine image finds it: `python -m tandem_worker.install /opt/tandem`.

Runs as the init container of a worker's pod; the engine's container has the destination on its PYTHONPATH. Only pure
Python is copied, so that the engine image may bring any Python that vLLM runs on.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

PACKAGES = ("tandem_api", "tandem_core", "tandem_worker")
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


def install(destination: Path) -> None:
    """Copy the packages into `destination`, replacing what a former start of the container left there."""
    destination.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        target = destination / package
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(_find_package(package), target, ignore=IGNORED)


def _find_package(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"package {package} is not installed here: use the Tandem worker image")
    return Path(spec.origin).parent


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m tandem_worker.install DESTINATION", file=sys.stderr)
        return 2
    try:
        install(Path(sys.argv[1]))
    except OSError as error:
        print(f"cannot install into {sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    print(f"installed {', '.join(PACKAGES)} into {sys.argv[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
