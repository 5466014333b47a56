"""The usual way to write an operator with kopf: handlers for creation, change and resumption, which apply all children.

    python -m bench.operator.handlers TEMPLATE.json --kubeconfig FILE

Its own session, one server-side apply per child, no comparison with what is there: as tutorials do.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kopf
from bench.operator.children import Template, parse_template

from cluster.api import Cluster
from scale.api import NAMESPACE, Api, connect
from scale.subject import Subject
from tandem_operator.credentials import read_kubeconfig


@contextmanager
def run_handlers(cluster: Cluster, folder: Path, template: Template) -> Iterator[Subject]:
    """The operator of handlers as a process of its own."""
    place = folder / "template.json"
    place.write_text(template.to_json())
    command = [sys.executable, "-m", "bench.operator.handlers", str(place), str(cluster.kubeconfig)]
    with (folder / "handlers.log").open("wb") as out:
        process = subprocess.Popen(command, stderr=out, stdout=out)
    try:
        time.sleep(8)
        if process.poll() is not None:
            raise RuntimeError((folder / "handlers.log").read_text()[-2000:])
        yield Subject(process, 0)
    finally:
        process.terminate()
        process.wait(30)


def build_registry(api: Api, template: Template) -> kopf.OperatorRegistry:
    """Creation, resumption and change do the same: apply everything."""
    registry = kopf.OperatorRegistry()

    async def apply_children(name: str, spec: Mapping[str, Any], **_: Any) -> None:
        children = template.render(name, spec["decode"]["replicas"])
        await asyncio.gather(*(api.apply(path, manifest, "handlers") for path, manifest in children))

    place = ("tandem.dev", "v1alpha1", "inferencedeployments")
    kopf.on.create(*place, registry=registry, id="born")(apply_children)
    kopf.on.update(*place, registry=registry, id="changed")(apply_children)
    kopf.on.resume(*place, registry=registry, id="resumed")(apply_children)
    return registry


async def serve(template: Template, kubeconfig: Path) -> None:
    """For ever."""
    os.environ["KUBECONFIG"] = str(kubeconfig)
    credentials = read_kubeconfig(kubeconfig)
    async with connect(credentials) as api:
        registry = build_registry(api, template)
        kopf.on.login(registry=registry, id="login")(
            lambda **_: kopf.ConnectionInfo(
                server=credentials.server, ca_data=credentials.ca_text, token=credentials.bearer()
            )
        )
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        await kopf.operator(registry=registry, settings=settings, namespaces=[NAMESPACE], standalone=True)


if __name__ == "__main__":
    asyncio.run(serve(parse_template(Path(sys.argv[1]).read_text()), Path(sys.argv[2])))
