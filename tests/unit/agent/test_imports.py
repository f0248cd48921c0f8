"""What the agent loads: every module of it in a clean interpreter, and none of the host's libraries with them."""

import subprocess
import sys

PROGRAM = """
import importlib, os, pkgutil, sys
import edgeml_agent
for module in pkgutil.walk_packages(edgeml_agent.__path__, "edgeml_agent."):
    with_click = {"acceptor", "connections", "eager_connection", "uvicorn_server"}
    if module.name.rpartition(".")[2] not in with_click:
        importlib.import_module(module.name)
print(*sorted({"torch", "transformers", "onnx", "optimum", "click", "edgeml", "onnxruntime"} & set(sys.modules)))
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


def test_the_agent_loads_no_library_of_the_hosts_and_no_runtime_before_a_model_needs_it():
    """Nor does it forget to switch onnxruntime's telemetry off before anything could import it."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "1"]
