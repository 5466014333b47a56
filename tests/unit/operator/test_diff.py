"""What counts as a difference between the rendered and the live object."""

from __future__ import annotations

from typing import Any

import pytest

from tandem_operator.diff import first_difference

CONTAINERS = [{"name": "worker", "image": "a"}]


@pytest.mark.parametrize(
    ("rendered", "live"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": {}}, {}),
        ({"a": []}, {"a": None}),
        ({"limits": {"memory": "2048Mi"}}, {"limits": {"memory": "2Gi"}}),
        ({"requests": {"cpu": "0.5"}}, {"requests": {"cpu": "500m"}}),
        ({"sizeLimit": "1024Mi"}, {"sizeLimit": "1Gi"}),
        (
            {"containers": CONTAINERS},
            {"containers": [{"name": "x"}, {"name": "worker", "image": "a", "tty": True}]},
        ),
        ({"ports": [{"name": "http", "port": 1}]}, {"ports": [{"name": "x", "port": 2}, {"name": "http", "port": 1}]}),
    ],
)
def test_what_others_set_and_how_the_server_writes_it_is_no_difference(
    rendered: dict[str, Any], live: dict[str, Any]
) -> None:
    assert first_difference(rendered, live) is None


@pytest.mark.parametrize(
    ("rendered", "live", "path"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b"),
        ({"a": 1}, {}, "a"),
        ({"a": True}, {"a": 1}, "a"),
        ({"a": False}, {"a": None}, "a"),
        ({"egress": [{"ports": [{"port": 1}]}]}, {"egress": [{"ports": [{"port": 1}, {"port": 2}]}]}, "egress.0.ports"),
        ({"args": ["a"]}, {"args": ["a", "b"]}, "args"),
        ({"containers": CONTAINERS}, {"containers": [{"name": "worker", "image": "b"}]}, "containers.worker.image"),
        ({"containers": CONTAINERS}, {"containers": []}, "containers.worker"),
        ({"limits": {"memory": "2Gi"}}, {"limits": {"memory": "3Gi"}}, "limits.memory"),
        ({"limits": {"memory": "2Gi"}}, {}, "limits"),
        ({"image": "2Gi"}, {"image": "2048Mi"}, "image"),
    ],
)
def test_a_difference_is_named_by_its_path(rendered: dict[str, Any], live: dict[str, Any], path: str) -> None:
    assert first_difference(rendered, live) == path
