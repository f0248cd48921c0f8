"""Hypothesis on the HTTP doors: requests that lie, are broken, packed, cut or too deep, one after the other."""

from __future__ import annotations

from fuzz import campaign, driving, hostile
from fuzz.site import Site

PART = "http"


def test_whatever_is_asked_the_server_answers(site: Site) -> None:
    """In time, and with no failure of its own."""
    driving.each(hostile.requests(), campaign.inputs(PART), lambda it: site.counted(PART, it))
    assert campaign.part(PART).inputs >= campaign.inputs(PART)
    site.hold()
