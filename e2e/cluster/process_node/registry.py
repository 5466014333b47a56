"""All pods of the node: one worker per uid, whatever order the watch tells things in."""

from __future__ import annotations

import asyncio
import logging

from cluster.process_node.objects import JsonObject, is_terminal, pod_name, pod_namespace, pod_uid
from cluster.process_node.pod import PodWorker
from cluster.process_node.services import NodeServices

log = logging.getLogger(__name__)


class PodRegistry:
    """The watch's observer (watching.Observer)."""

    def __init__(self, node: NodeServices) -> None:
        self._node = node
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    def replace_all(self, objects: list[JsonObject]) -> None:
        present = {pod_uid(pod) for pod in objects}
        for uid in [uid for uid in self._workers if uid not in present]:
            self._forget(uid)
        # Pods that have an address take theirs back before new ones choose.
        for pod in sorted(objects, key=lambda pod: not (pod.get("status") or {}).get("podIP")):
            self.changed(pod)
        self._remove_folders_of_others(present)

    def changed(self, obj: JsonObject) -> None:
        uid = pod_uid(obj)
        if uid in self._workers:
            self._workers[uid].update(obj)
        elif not self._closing:
            self._begin(uid, obj)

    def gone(self, obj: JsonObject) -> None:
        self._forget(pod_uid(obj))

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """The newest pod of that name."""
        found = [w for w in self._workers.values() if (pod_namespace(w.pod), pod_name(w.pod)) == (namespace, name)]
        return max(found, key=lambda worker: worker.pod["metadata"]["creationTimestamp"], default=None)

    @property
    def active_pods(self) -> int:
        return sum(not is_terminal(worker.pod) for worker in self._workers.values())

    async def shut_down(self, most_s: float) -> None:
        """Ends all processes within most_s; what then still reports to the API server is given up."""
        self._closing = True
        for worker in self._workers.values():
            worker.shut_down(most_s)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=most_s + 3.0)
            for task in late:
                log.warning("pod %s did not end in time; its processes are killed", task.get_name())
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _begin(self, uid: str, pod: JsonObject) -> None:
        worker = self._workers[uid] = PodWorker(pod, self._node)
        task = self._tasks[uid] = asyncio.create_task(worker.run(), name=pod_name(pod))
        task.add_done_callback(lambda done: self._ended(uid, done))

    def _ended(self, uid: str, task: asyncio.Task[None]) -> None:
        del self._tasks[uid]
        if not task.cancelled() and (error := task.exception()):
            log.error("the worker of pod %s failed: this is a bug", task.get_name(), exc_info=error)

    def _forget(self, uid: str) -> None:
        """The entry stays until now, so that a late event cannot start a pod again that has ended."""
        worker = self._workers.pop(uid, None)
        if worker is not None:
            worker.vanish()

    def _remove_folders_of_others(self, present: set[str]) -> None:
        """Folders of pods that went away while no node process was there to see it."""
        known = present | set(self._tasks)
        for folder in self._node.folders.pods.iterdir():
            if folder.name not in known:
                self._node.folders.pod(folder.name).remove()
