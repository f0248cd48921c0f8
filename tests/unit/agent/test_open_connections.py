"""Which connection is closed where there are too many, and which request finds no room."""

import logging

from edgeml_agent.http_api.open_connections import (
    CONNECTIONS_MAX,
    CONNECTIONS_MIN,
    LOGGED_EVERY_S,
    OTHER_FILES,
    OpenConnections,
    limit,
)


class Connection:
    """A connection that waits since a time, or doesn't."""

    def __init__(self, since_s=None, address="10.0.0.1"):
        self.since_s, self.address, self.is_closed = since_s, address, False

    def waits_since_s(self):
        """See `open_connections.Connection`."""
        return self.since_s

    def abort(self):
        """See `open_connections.Connection`."""
        self.is_closed = True


def opened(most, connections, clock=lambda: 0.0):
    """Open connections with these among them."""
    made = OpenConnections(most, clock)
    for it in connections:
        made.add(it)
    return made


def closed(connections):
    """The places of the closed ones."""
    return [index for index, it in enumerate(connections) if it.is_closed]


def test_add_past_the_limit_closes_the_connection_that_waited_longest():
    """Not those on which the server works, and not the new one."""
    connections = [Connection(), Connection(3.0), Connection(1.0), Connection(2.0)]
    made = opened(4, connections)
    made.add(new := Connection(4.0))
    assert (closed(connections), new.is_closed, len(made)) == ([2], False, 4)


def test_add_closes_the_new_connection_where_the_server_works_on_all_others():
    """There is no better one then."""
    connections = [Connection() for _ in range(4)]
    made = opened(4, connections)
    made.add(new := Connection(1.0))
    assert (closed(connections), new.is_closed, len(made)) == ([], True, 4)


def test_limit_leaves_files_to_the_rest_of_the_process():
    """And serves a few connections in any case."""
    assert [limit(it) for it in (1_000_000, 100 + OTHER_FILES, 1)] == [CONNECTIONS_MAX, 100, CONNECTIONS_MIN]


def test_requests_leave_room_for_new_connections():
    """Health needs it: with every request's place taken, a new connection still finds one to close."""
    connections = [Connection(address=str(number)) for number in range(16)]
    made = opened(16, connections)
    for it in connections:
        if made.has_room(it):
            made.begin(it)
    assert len(made) - made.requests_max == 2
    idle = connections[made.requests_max :]
    for it in idle:
        it.since_s = 1.0
    made.add(new := Connection(2.0))
    assert not new.is_closed


def test_one_address_leaves_room_for_the_requests_of_others():
    """Whatever it asks; and its own are answered again when one of them is."""
    connections = [Connection() for _ in range(12)]
    made = opened(16, connections)
    for it in connections:
        assert made.has_room(it)
        made.begin(it)
    own, other = Connection(), Connection(address="10.0.0.2")
    assert (made.has_room(own), made.has_room(other)) == (False, True)
    made.end(connections[0])
    assert made.has_room(own)
    made.remove(connections[1])
    assert made.has_room(own)


def test_slow_request_makes_room_for_another():
    """A body that doesn't come, or an answer that isn't read: of the same address where that has too many."""
    connections = [Connection() for _ in range(12)]
    made = opened(16, [*connections, slow := Connection(1.0, "10.0.0.2"), working := Connection(None, "10.0.0.2")])
    for it in (*connections, slow, working):
        made.begin(it)
    connections[3].since_s = 5.0
    assert made.has_room(Connection())
    assert (closed(connections), slow.is_closed) == ([3], False)
    made.begin(connections[3])
    assert made.has_room(Connection(address="10.0.0.3"))
    assert (slow.is_closed, working.is_closed) == (True, False)


def test_closed_connections_are_a_line_of_the_log_once_a_minute(caplog):
    """With their number, however many they are."""
    now_s = [0.0]
    made = OpenConnections(8, lambda: now_s[0])
    with caplog.at_level(logging.INFO, "edgeml_agent"):
        for number in range(1000):
            made.add(Connection(float(number)))
        now_s[0] = LOGGED_EVERY_S
        made.add(Connection(1000.0))
    assert [it.getMessage().partition("closed=")[2] for it in caplog.records] == ['"1" limit="8"', '"992" limit="8"']
