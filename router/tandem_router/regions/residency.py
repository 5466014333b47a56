"""Where a request may be served: clauses that must all allow a region. Pure.

A clause comes from one source (the tenant, its key, its token) and is a set of entries, of which one must fit: the name
of a region, or `label=value` for all regions that carry the label. No clause at all allows every region; an empty
clause allows none. Labels are those that this installation's own InferenceRegions give: what a peer says of itself
proves nothing.
"""

from collections.abc import Iterable, Mapping

from tandem_router.errors import RegionForbiddenError

Residency = tuple[frozenset[str], ...]
ANYWHERE: Residency = ()


def is_allowed(residency: Residency, region: str, labels: Mapping[str, str]) -> bool:
    """Whether every clause has an entry that fits the region."""
    return all(any(_fits(entry, region, labels) for entry in clause) for clause in residency)


def _fits(entry: str, region: str, labels: Mapping[str, str]) -> bool:
    name, separator, value = entry.partition("=")
    return labels.get(name) == value if separator else entry == region


def clause_of(entries: Iterable[str] | None) -> Residency:
    """One source's clause; None where it says nothing."""
    return ANYWHERE if entries is None else (frozenset(entries),)


def require_unbound(residency: Residency) -> None:
    """A router that does not know its own region serves nobody who is bound to one.

    Raises:
        RegionForbiddenError: the request may not be served everywhere.
    """
    if residency:
        where = describe(residency)
        message = f"This key's requests may be served in {where} only; this router knows no region: set region.name."
        raise RegionForbiddenError(message, code="region_not_allowed")


def describe(residency: Residency) -> str:
    """For people."""
    clauses = (", ".join(sorted(clause)) or "none" for clause in residency)
    return " and ".join(f"one of ({clause})" for clause in clauses) or "anywhere"
