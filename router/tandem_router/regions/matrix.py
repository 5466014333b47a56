"""The regions as people and the operator read them. Pure."""

from collections.abc import Mapping
from typing import Any

from tandem_router.regions.atlas import Atlas
from tandem_router.regions.peer import Peer
from tandem_router.regions.tally import RegionTally
from tandem_router.snapshot import RegionSpec

TYPICAL_TOKENS = 1024  # of the prompt whose time to the first token is shown
Word = tuple[Mapping[str, float] | None, Mapping[str, float] | None]  # uncoverable, room


def build_matrix(atlas: Atlas, tally: RegionTally, now_s: float) -> dict[str, Any]:
    """What this router knows of every peer. Seconds that are infinite or unknown are null."""
    return {
        "region": atlas.own.name,
        "drain": atlas.own.drain,
        "labels": dict(atlas.own.labels),
        "price_weight": atlas.own.price_weight,
        "choices": dict(tally.choices),
        "refusals": dict(tally.refusals),
        "peers": {name: describe_peer(peer, tally, now_s) for name, peer in sorted(atlas.peers.items())},
    }


def describe_peer(peer: Peer, tally: RegionTally, now_s: float) -> dict[str, Any]:
    """One row."""
    loads = [digest.load for digest in peer.fleets().values()]
    ttfts = [load.predicted_ttft_s(TYPICAL_TOKENS) for load in loads if load.can_serve]
    return {
        "state": "no_url" if peer.spec.url is None else peer.state,
        "since_s": round(now_s - peer.since_s, 1) if peer.since_s else None,
        "rtt_ms": None if peer.rtt_s is None else round(peer.rtt_s * 1000, 1),
        "accepts": round(peer.accepts(now_s), 3),
        "headroom_slots": sum(max(0, load.free_slots - load.waiting_decode) for load in loads),
        "predicted_ttft_s": round(min(ttfts) + (peer.rtt_s or 0.0), 4) if ttfts else None,
        "spilled_total": tally.spilled(peer.name),
        "failures_total": tally.failed(peer.name),
        "uncoverable": {key: one.uncoverable for key, one in peer.fleets().items() if one.uncoverable},
        "price_weight": peer.spec.price_weight,
        "labels": dict(peer.spec.labels),
        "url": peer.spec.url,
        "fault": peer.fault,
    }


def build_words(atlas: Atlas, own: Mapping[str, Word]) -> dict[str, Any]:
    """`tandem_api.router.DemandAnswer.regions`: the fleets that any region cannot cover, the others left out."""
    words: dict[str, dict[str, Word]] = {atlas.own.name: dict(own)}
    for name, peer in atlas.peers.items():
        words[name] = {key: (one.uncoverable, one.room) for key, one in peer.fleets().items()}
    needy = {key for fleets in words.values() for key, (uncoverable, _) in fleets.items() if uncoverable}
    told = {atlas.own.name: _word(atlas.own, True, atlas.own.drain, words[atlas.own.name], needy)}
    for name, peer in atlas.peers.items():
        told[name] = _word(peer.spec, peer.state in ("up", "drained"), peer.is_drained, words[name], needy)
    return told


def _word(
    spec: RegionSpec, is_fresh: bool, is_drained: bool, fleets: Mapping[str, Word], needy: set[str]
) -> dict[str, Any]:
    return {
        "price_weight": spec.price_weight,
        "drain": is_drained,
        "fresh": is_fresh,
        "fleets": {
            key: {"uncoverable": uncoverable, "room": room}
            for key, (uncoverable, room) in fleets.items()
            if key in needy
        },
    }
