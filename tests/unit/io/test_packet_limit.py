"""The bound on packets, on paho's own reading."""

from __future__ import annotations

import socket

import pytest
from paho.mqtt.client import Client, MQTTErrorCode
from paho.mqtt.enums import CallbackAPIVersion

from edgeml_io.packet_limit import PACKET_MAX_BYTES, Bound


def varint(length: int) -> bytes:
    """MQTT's form of a length."""
    return bytes([(length >> shift & 0x7F) | (0x80 if length >> shift + 7 else 0) for shift in (0, 7, 14, 21)])


@pytest.mark.parametrize("excess_bytes", [0, 1])
def test_a_client_hangs_up_on_a_packet_that_is_too_long(excess_bytes: int) -> None:
    """At its announcement; at most as long as allowed, it is waited for."""
    client = Client(CallbackAPIVersion.VERSION2)
    bound = Bound(client)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        client._sock = ours
        theirs.sendall(b"\x30" + varint(PACKET_MAX_BYTES + excess_bytes) + bytes(1000))
        code = client.loop_read()
        client._sock = None
    assert bound.excess_bytes == (PACKET_MAX_BYTES + excess_bytes if excess_bytes else 0)
    assert code == (MQTTErrorCode.MQTT_ERR_CONN_LOST if excess_bytes else MQTTErrorCode.MQTT_ERR_SUCCESS)
