"""llama.cpp answers, in an environment of its own: `llama_cpp.py FILE < asked > answered`, both JSON.

It takes token ids and writes on greedily, without rounding of its cache; or it takes a text and gives its token ids.
"""

from __future__ import annotations

import http.client
import json
import os
import sys

import xllamacpp


def opened(file: str) -> xllamacpp.Server:
    """Open a file on one thread, with a cache in fp32."""
    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_parallel = 256, 128, 128, 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.n_gpu_layers, settings.cache_ram_mib, settings.fit_params, settings.warmup = 0, 0, False, False
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(settings)


def answered(address: str, ask: dict) -> list[int]:
    """Tokens of a text, or those that the model writes behind the given ones."""
    if "text" in ask:
        path, body = "/tokenize", {"content": ask["text"], "add_special": True, "parse_special": True}
    else:
        greedy = {"temperature": 0, "top_k": 1, "ignore_eos": True, "return_tokens": True}
        path, body = "/completion", {"prompt": ask["ids"], "n_predict": ask["count"], **greedy}
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return json.load(connection.getresponse())["tokens"]


def main(file: str) -> None:
    """Answer all on stdout, which llama.cpp's own lines don't reach."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = opened(file)
    json.dump([answered(server.listening_address, ask) for ask in json.load(sys.stdin)], out)
    out.close()
    # The server waits for its threads at the end of the process, and once did so for ever.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
