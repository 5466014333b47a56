"""From one region's decision to another's: through status, the routers of both, and back. Real code all the way."""

import json

import pytest

from tandem_api.router import DemandAnswer
from tandem_api.v1alpha1 import InferenceDeploymentStatus
from tandem_core.region_demand import RegionDemand, RegionSupply
from tandem_operator.autoscale.region_words import RegionWords
from tandem_operator.autoscale.report import build_region_status
from tandem_router.discovery.objects import parse_fleet
from tandem_router.regions.atlas import Atlas
from tandem_router.regions.load import FleetLoad
from tandem_router.regions.matrix import build_words
from tandem_router.regions.messages import FleetDigest, RegionDigest
from tandem_router.snapshot import FleetSpec, RegionSpec

FLEET = "team/llama"
NEED = RegionSupply(uncoverable=RegionDemand(8.4, 12_600.0, 2.0e7, 210.0, 400_000.0))
ROOM = RegionSupply(room=RegionDemand(prefill_tokens_per_s=90_000.0, decode_sequences=4000.0, decode_kv_tokens=8e6))


def as_routers_see(supply: RegionSupply) -> FleetSpec:
    """The word in the status of the fleet, as discovery reads it."""
    status = InferenceDeploymentStatus(region_demand=build_region_status(supply)).to_wire()
    metadata = {"namespace": "team", "name": "llama", "uid": "u", "generation": 1}
    spec = {"model": {"name": "org/llama"}, "decode": {}}
    found = parse_fleet({"metadata": metadata, "spec": spec, "status": status})
    assert found is not None
    return found


def across(fleet: FleetSpec) -> RegionDigest:
    """What the peer's router hears."""
    digest = FleetDigest(served_name=fleet.served_name, uncoverable=fleet.uncoverable, room=fleet.room)
    line = RegionDigest(region="eu", full=True, fleets={FLEET: digest}).model_dump_json(by_alias=True)
    return RegionDigest.model_validate_json(line)


def answered(regions: dict[str, object]) -> DemandAnswer:
    """The demand answer, as JSON."""
    head = {"replica": "r", "epoch": "e", "now_s": 10.0, "covers_from": 0, "cursor": 10}
    return DemandAnswer.model_validate_json(json.dumps(head | {"regions": regions}))


@pytest.mark.parametrize(
    ("eu_price", "us_drained", "helps"), [(1.0, False, True), (3.0, False, True), (1.0, True, False)]
)
def test_what_one_region_cannot_cover_becomes_demand_of_the_other(eu_price, us_drained, helps):
    atlas = Atlas(RegionSpec("us"), lambda _key, _now_s: FleetLoad())
    atlas.apply([RegionSpec("us", drain=us_drained), RegionSpec("eu", "http://eu:8443", price_weight=eu_price)])
    atlas.peers["eu"].hear("one", across(as_routers_see(NEED)), 9.9)
    atlas.peers["eu"].state = "up"
    mine = as_routers_see(ROOM)
    answer = answered(build_words(atlas, {FLEET: (mine.uncoverable, mine.room)}))
    words = RegionWords()
    words.take(answer.regions, 10.0)
    meant = words.meant_for("us", FLEET, build_region_status(ROOM))
    assert meant.is_drained is us_drained
    if helps:
        assert meant.helped.requests_per_s == pytest.approx(8.4)
        assert meant.helped.prefill_tokens_per_s == pytest.approx(13_000)  # two digits travel
        assert meant.helped.prefill_square_tokens_per_s == pytest.approx(2.0e7)
        assert meant.helped.decode_kv_tokens == pytest.approx(400_000)
    else:
        assert not meant.helped


def test_fleets_that_nobody_lacks_anything_for_are_not_told():
    """A thousand fleets at rest cost nothing every five seconds."""
    atlas = Atlas(RegionSpec("us"), lambda _key, _now_s: FleetLoad())
    mine = as_routers_see(ROOM)
    assert answered(build_words(atlas, {FLEET: (mine.uncoverable, mine.room)})).regions["us"].fleets == {}
