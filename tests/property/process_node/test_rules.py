"""What holds for all texts, payloads, container states and back-offs."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from unit.process_node.pods import make_pod

from cluster.process_node.atomic_files import FileContent, write_payload
from cluster.process_node.backoff import Backoff
from cluster.process_node.environment import expand
from cluster.process_node.paths import PathMap
from cluster.process_node.quantities import divide_rounding_up, parse_quantity
from cluster.process_node.states import ContainerSnapshot, Running, State, Terminated, Waiting
from cluster.process_node.status import PodFacts, build_status

NOW = datetime(2026, 1, 1, tzinfo=UTC)
names = st.text("abc", min_size=1, max_size=3)
mount_paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
texts = st.text('abc/:=-." $()', max_size=40)


@given(st.dictionaries(mount_paths, mount_paths.map("/real".__add__), max_size=4), texts)
def test_rewriting_changes_only_whole_mount_paths(real_paths: dict[str, str], text: str) -> None:
    rewritten = PathMap(real_paths).rewrite(text)
    if not any(path in text for path in real_paths):
        assert rewritten == text


@given(mount_paths, mount_paths, names)
def test_a_path_below_a_mount_keeps_its_rest(mount: str, real: str, rest: str) -> None:
    paths = PathMap({mount: "/real" + real})
    assert paths.rewrite(f"{mount}/{rest}") == f"/real{real}/{rest}"
    assert paths.rewrite(f"a:{mount}:b") == f"a:/real{real}:b"


@given(texts, st.dictionaries(names, names))
def test_text_without_a_dollar_sign_is_never_expanded(text: str, variables: dict[str, str]) -> None:
    plain = text.replace("$", "")
    assert expand(plain, variables) == plain


@given(texts, st.dictionaries(names, names))
def test_escaped_text_expands_to_itself(text: str, variables: dict[str, str]) -> None:
    assert expand(text.replace("$", "$$"), variables) == text


file_names = st.sampled_from(["a", "b", "c/d", "c/e", "f"])
payloads = st.dictionaries(file_names, st.builds(FileContent, st.binary(max_size=8), st.sampled_from([0o600, 0o644])))


@settings(deadline=None, max_examples=50)  # a disk that others use has no deadline
@given(st.lists(payloads, min_size=1, max_size=4))
def test_a_volume_always_holds_exactly_its_last_payload(sequence: list[dict[str, FileContent]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder)
        for step, payload in enumerate(sequence):
            write_payload(volume, payload, NOW + timedelta(seconds=step))
            visible = {p.name for p in volume.iterdir() if not p.name.startswith("..")}
            assert visible == {name.split("/")[0] for name in payload}
            for name, content in payload.items():
                assert (volume / name).read_bytes() == content.data
            assert len([p for p in volume.iterdir() if p.name.startswith("..2")]) == 1


@given(st.lists(st.floats(0, 2000), max_size=30))
def test_a_back_off_stays_within_its_bounds_and_never_shrinks_but_to_nothing(runs: list[float]) -> None:
    backoff = Backoff()
    for ran_for_s in runs:
        longer = backoff.after(ran_for_s)
        assert 0 <= longer.delay_s <= backoff.longest_s
        assert longer.delay_s == 0 or longer.delay_s >= backoff.delay_s
        backoff = longer


@given(st.integers(0, 10**6), st.sampled_from(["1", "1m", "1Ki", "1M"]))
def test_division_rounds_up_by_less_than_one(amount: int, divisor: str) -> None:
    units = divide_rounding_up(str(amount), divisor)
    unit = parse_quantity(divisor)
    assert (units - 1) * unit < amount <= units * unit


ends = st.builds(lambda code: Terminated(code, "x", NOW, NOW), st.sampled_from([0, 1, 137]))
states: st.SearchStrategy[State] = st.one_of(st.just(Waiting("w")), st.just(Running(NOW)), ends)


@st.composite
def snapshots(draw: st.DrawFn) -> ContainerSnapshot:
    state = draw(states)
    running = isinstance(state, Running)
    return ContainerSnapshot(
        "c",
        "i",
        state,
        last=draw(st.none() | ends),
        ready=running and draw(st.booleans()),
        started=running and draw(st.booleans()),
    )


@given(
    st.sampled_from(["Always", "OnFailure", "Never"]),
    st.lists(snapshots(), min_size=1, max_size=3),
    st.lists(snapshots(), max_size=2),
)
def test_a_status_never_contradicts_its_containers(
    policy: str, main: list[ContainerSnapshot], init: list[ContainerSnapshot]
) -> None:
    pod = make_pod(
        *({"name": f"m{i}", "image": "i"} for i in range(len(main))),
        init=tuple({"name": f"i{i}", "image": "i"} for i in range(len(init))),
        restartPolicy=policy,
    )
    facts = PodFacts(init=init, main=main, host_ip="127.0.0.1", started_at=NOW)
    status = build_status(pod, facts, NOW)
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    if status["phase"] in ("Succeeded", "Failed"):
        assert policy != "Always"
        assert conditions["Ready"] == "False"
        assert not any(isinstance(c.state, Running) for c in main)
    if conditions["Ready"] == "True":
        assert all(c.ready for c in main)
        assert status["phase"] == "Running"
    assert build_status(pod, facts, NOW) == status
