"""May KV of one engine be read by another? Every difference that could make it wrong is named."""

from dataclasses import dataclass

from tandem_worker.kv.layout import is_tp_supported
from tandem_worker.kv.messages import Engine


@dataclass(frozen=True, slots=True)
class Mismatch:
    """`reason` is a bounded name for counters; `detail` is for people."""

    reason: str
    detail: str


_EQUAL_FIELDS = (
    "fleet",
    "kv_revision",
    "engine_version",
    "model",
    "dtype",
    "cache_dtype",
    "layout",
    "block_size",
    "groups",
    "transport",
)


def find_mismatch(mine: Engine, theirs: Engine) -> Mismatch | None:
    """The first thing in which two engines differ such that they must not exchange KV."""
    for field in _EQUAL_FIELDS:
        ours, other = getattr(mine, field), getattr(theirs, field)
        if ours != other:
            return Mismatch(f"mismatch_{field}", _describe(field, ours, other))
    return _find_tp_mismatch(mine, theirs)


def _describe(field: str, ours: object, other: object) -> str:
    if field == "groups":
        return "the engines have different layers or KV page shapes"
    return f"{field} is {ours!r} on one side and {other!r} on the other"


def _find_tp_mismatch(mine: Engine, theirs: Engine) -> Mismatch | None:
    for group in mine.groups:
        for engine in (mine, theirs):
            if not is_tp_supported(group.kv_heads, engine.tp_size):
                detail = f"{group.kv_heads} KV heads cannot be split over tensor parallelism {engine.tp_size}"
                return Mismatch("mismatch_tp", detail)
    if mine.tp_size != theirs.tp_size and len({group.kv_heads for group in mine.groups}) > 1:
        return Mismatch("mismatch_tp", "groups with different KV heads need equal tensor parallelism")
    large, small = max(mine.tp_size, theirs.tp_size), min(mine.tp_size, theirs.tp_size)
    if large % small:
        return Mismatch("mismatch_tp", f"tensor parallelism {large} is no multiple of {small}")
    return None
