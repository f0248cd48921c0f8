"""How a test ends a client of paho that has its own thread."""

import contextlib

import paho.mqtt.client as paho


def leave(client: paho.Client) -> None:
    """Disconnect, and wait for the client's thread to end."""
    client.disconnect()
    stop(client)


def stop(client: paho.Client) -> None:
    """Wait for the client's thread to end, without a DISCONNECT.

    paho 2.1 reads the thread twice in `loop_stop`: one that ends in between is an AttributeError there, and has ended.
    """
    with contextlib.suppress(AttributeError):
        client.loop_stop()
