"""The cost of a fleet of thousands of devices on this computer: `python benchmarks/fleet.py [PART]...`.

    announce   500 to 5,000 connected devices: an announcement until all have decided; CPU and memory of host and broker
    document   bytes of the fleet document with 5,000 and with 100,000 enrolled devices
    reports    reports that the host records in a second
    rollout    200 devices, some behind bad links: a bad version stops in its first wave, a good one arrives everywhere

Devices are simulated: the agent's real link and fetch, the core's decisions, real signatures; no files, no models. A
process holds 1,250 of them. It needs Mosquitto, and for 5,000 devices `ulimit -n 20000` and 2 GB of memory.
"""

from harness import program

PARTS = {
    "announce": ["fleet_parts.announcement"],
    "document": ["fleet_parts.document"],
    "reports": ["fleet_parts.reports"],
    "rollout": ["fleet_parts.rollout"],
}

if __name__ == "__main__":
    program.main(__doc__, PARTS, quick=["announce"])
