"""The cost of delivery, beside other tools in the same run: `python benchmarks/delivery.py [PART]...`.

    size          bytes on the wire for an update of a retrained model; peak memory of the device's side
    publications  publications per chunk for eight devices, light and real; the cost of a slow one; the broker's memory
    speed         whole chunks to one device: on loopback beside HTTP, and over slow links
    relay         the bytes that fifty devices behind a relay cost the network, beside those of one device

It needs Mosquitto, zstd and bsdiff: `apt-get install mosquitto zstd bsdiff`.
"""

from harness import program

PARTS = {
    "size": ["delivery_parts.size", "delivery_parts.memory"],
    "publications": ["delivery_parts.publications", "delivery_parts.agents"],
    "speed": ["delivery_parts.speed"],
    "relay": ["delivery_parts.relay"],
}

if __name__ == "__main__":
    program.main(__doc__, PARTS, quick=["publications"])
