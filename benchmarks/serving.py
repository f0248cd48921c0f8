"""The agent's server: speed, cost and behaviour under load: `python benchmarks/serving.py [PART]...`.

    servers         an echo model and MiniLM int8: the agent beside MLServer, KServe's Python server and LitServe
    costs           memory, start-up time, CPU at a low rate of requests, `/health` beside full load
    mqtt-inference  latency and throughput of requests over MQTT beside HTTP
    swaps           model swaps under load: failed or wrong answers, memory afterwards
    overload        four times the server's capacity: latency, refusals, obedience to Retry-After, memory
    disconnects     clients that disconnect: how soon the server gives up their work

It needs wrk and Mosquitto (`apt-get install wrk mosquitto`). A full run makes an environment for each rival server.
Servers and clients share the host's cores.
"""

from harness import program

PARTS = {
    "servers": ["serving_parts.servers"],
    "costs": ["serving_parts.costs"],
    "mqtt-inference": ["serving_parts.mqtt_inference"],
    "swaps": ["serving_parts.swaps"],
    "overload": ["serving_parts.overload"],
    "disconnects": ["serving_parts.disconnects"],
}

if __name__ == "__main__":
    program.main(__doc__, PARTS, quick=["servers"])
