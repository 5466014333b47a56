"""Official clients, unchanged, against prefill and decode workers (engine sim) behind the router."""

import pytest
from integration.router import clients
from integration.router.fleet_site import RouterProcess, Workers

CHECKS = [getattr(clients, name) for name in dir(clients) if name.startswith("check_")]


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    """A router over one prefill and one decode worker."""
    workers = Workers(tmp_path_factory.mktemp("site"))
    workers.start("p0", "prefill")
    workers.start("d0", "decode")
    started = RouterProcess(workers.folder, workers.write_fleet(), "--min-remote-tokens", "1")
    try:
        started.wait_for_model()
        yield started
    finally:
        started.stop()
        workers.stop()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_clients_work_unchanged(router, check):
    check(router.url)


def test_prompts_were_split(router):
    text = router.read_metrics()
    assert 'tandem_router_routes_total{model="m",reason="remote"}' in text
    assert 'outcome="internal"' not in text
