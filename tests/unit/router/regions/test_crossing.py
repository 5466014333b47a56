"""Routers of two and three regions, joined by lines that can be cut."""

import asyncio

from unit.router.regions.two_regions import world


async def test_a_region_without_workers_has_its_requests_served_by_the_other(tmp_path):
    async with world(tmp_path, {"eu": 0, "us": 1}) as made:
        answer = await made["eu"].ask(stream=True)
        assert answer.status == 200, answer.body
        assert answer.is_whole
        assert answer.headers["x-tandem-region"] == "us"
        assert b"[DONE]" in answer.body
        at_home = await made["us"].ask()
        assert at_home.headers["x-tandem-region"] == "us"
