"""What routers say of the last minutes."""

from tandem_router.recent import RecentWindow


def test_all_since_the_start_counts_while_the_router_is_young() -> None:
    """What happened before the operator first asked is not lost."""
    recent = RecentWindow().observe(10.0, (3, 1, 500, 2))
    assert (recent.remote_prefills, recent.local_prefills, recent.kv_bytes, recent.kv_failures) == (3, 1, 500, 2)


def test_what_is_older_than_the_window_is_forgotten() -> None:
    """Success of an hour ago does not hide that nothing moves now."""
    window = RecentWindow()
    for second in range(0, 900, 2):
        recent = window.observe(float(second), (10, max(0, second - 600), 1000, 0))
    assert recent.remote_prefills == 0
    assert recent.local_prefills == 298


def test_the_window_holds_no_more_than_it_needs() -> None:
    """An operator that asks twice a second for a day costs nothing."""
    window = RecentWindow()
    for tick in range(20_000):
        window.observe(tick * 0.5, (tick, 0, 0, 0))
    assert len(window._samples) <= 62
