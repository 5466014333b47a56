"""Which replica does what all of them could do: rendezvous hashing, so that one that leaves moves only its own."""

from collections.abc import Sequence

import xxhash


def choose_owner(thing: str, members: Sequence[str]) -> str:
    """The member that owns `thing`; all that see the same members agree.

    Raises:
        ValueError: there is no member.
    """
    return max(members, key=lambda member: xxhash.xxh3_64_intdigest(f"{member}\n{thing}".encode()))


def base_share(thing: str, slots: int, member: str, members: Sequence[str]) -> int:
    """Slots of `thing` that a member owns: whole parts that sum to `slots` over all members.

    What does not divide goes to different members for different things.
    """
    ordered = sorted(members)
    if member not in ordered:
        return 0
    offset = xxhash.xxh3_64_intdigest(thing.encode())
    rank = (ordered.index(member) + offset) % len(ordered)
    return slots // len(ordered) + (1 if rank < slots % len(ordered) else 0)
