"""Who was refused, and when each may come back: no clock, no queue."""

from collections import Counter

from edgeml_agent.serve.admission import EARLY_MAX_S, LATE_MAX_S, RETRY_AFTER_MAX_S, SLACK, AdmissionQueue


def test_one_second_is_told_to_no_more_clients_than_the_queue_can_take():
    """A hundred who are refused at once come back sixteen at a time, or as many as are done by then."""
    line = AdmissionQueue(16)
    told = Counter(line.join(client, 10.0, room_s=0.3, service_s=0.1) for client in range(100))
    # Sixteen runs take 2.4 s with what lies between them.
    assert told == {1: 16, 4: 16, 7: 16, 10: 16, 13: 16, 16: 16, 19: 4}


def test_a_client_that_comes_when_it_was_told_is_known():
    """Once; a stranger isn't, nor is who comes too early or too late."""
    line = AdmissionQueue(16)
    for client in ("early", "punctual", "late"):
        assert line.join(client, 10.0, room_s=0.0, service_s=0.01) == 1
    assert not line.is_back("stranger", 11.0)
    assert not line.is_back("early", 11.0 - 2 * EARLY_MAX_S)
    assert line.is_back("punctual", 11.0)
    assert not line.is_back("punctual", 11.0)
    assert not line.is_back("late", 11.1 + LATE_MAX_S)
    assert len(line) == 0


def test_who_does_not_wait_keeps_its_time():
    """It is told what is left of it, and takes no second place."""
    line = AdmissionQueue(16)
    assert line.join("eager", 10.0, room_s=4.0, service_s=0.01) == 4
    assert line.join("eager", 11.5, room_s=0.0, service_s=0.01) == 3
    assert line.expected(15.0) == 1


def test_places_are_kept_for_those_who_are_known():
    """Others are told times, too, so that they don't all come at once."""
    line = AdmissionQueue(1)
    assert [line.join(None, 0.0, room_s=0.0, service_s=0.5) for _ in range(3)] == [1, 2, 3]
    assert line.expected(100.0) == 0
    assert line.join("known", 0.0, room_s=0.0, service_s=0.5 / SLACK) == 4
    assert (line.expected(3.9), line.expected(4.0)) == (0, 1)


def test_no_place_is_kept_beyond_the_longest_wait():
    """Who can't be served within a minute is told a minute."""
    line = AdmissionQueue(1)
    waits = [line.join(client, 0.0, room_s=0.0, service_s=30.0) for client in range(5)]
    assert waits == [1, 47, RETRY_AFTER_MAX_S, RETRY_AFTER_MAX_S, RETRY_AFTER_MAX_S]
    assert line.expected(1000.0) == 2
