"""Pods for the process node's tests."""

from __future__ import annotations

from typing import Any

from cluster.process_node.objects import JsonObject


def make_pod(*containers: JsonObject, init: tuple[JsonObject, ...] = (), **spec: Any) -> JsonObject:
    return {
        "metadata": {
            "name": "p",
            "namespace": "ns",
            "uid": "0123-uid",
            "generation": 3,
            "labels": {"app": "x", "tandem.dev/role": "decode"},
            "annotations": {"note": 'say "hi"\nthere'},
        },
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": "bot",
            "containers": list(containers or [{"name": "main", "image": "i"}]),
            "initContainers": list(init),
            **spec,
        },
    }
