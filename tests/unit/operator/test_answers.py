"""What the API server says becomes an error that says what to do next."""

from __future__ import annotations

import pytest

from tandem_operator.cluster import _checked
from tandem_operator.errors import ApiError, Conflict, NotFound, Rejected, Unreachable


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (409, Conflict),
        (422, Rejected),
        (403, Rejected),
        (410, ApiError),
        (429, ApiError),
        (500, ApiError),
    ],
)
def test_a_status_becomes_its_error_with_the_servers_words(status: int, kind: type[ApiError]) -> None:
    with pytest.raises(kind, match="the words") as caught:
        _checked(status, "", b'{"reason": "Because", "message": "the words"}')
    assert (type(caught.value), caught.value.reason) == (kind, "Because")


@pytest.mark.parametrize(("header", "want_s"), [("3", 3.0), ("", 0.0), ("soon", 0.0), ("-1", 0.0)])
def test_the_server_may_ask_to_be_left_alone(header: str, want_s: float) -> None:
    with pytest.raises(ApiError) as caught:
        _checked(429, header, b"slow down")
    assert caught.value.retry_after_s == want_s
    assert caught.value.message == "slow down"


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"kind": "Pod', b"7", b"null"])
def test_an_answer_that_is_cut_or_garbled_counts_as_none(body: bytes) -> None:
    with pytest.raises(Unreachable, match="no object"):
        _checked(200, "", body)
