"""int8 models of `edgeml export` beside other runtimes and quantizers: `python benchmarks/export.py [PART]...`.

    minilm      the real encoder, against PyTorch, onnxruntime, optimum-onnx's preset and OpenVINO/NNCF
    bert-large  24 layers of 1024 with random weights: speed only
    cnn         ResNet-18's shape with random weights, static int8: speed only

Batch 1, 2 threads. Each contender is a process, and they take turns. Run by root they have real-time priority, so that
other programs wait. OpenVINO and NNCF have an environment of their own, which a full run makes once.
"""

from harness import program

PARTS = {
    "minilm": ["export_parts.minilm"],
    "bert-large": ["export_parts.bert_large"],
    "cnn": ["export_parts.cnn"],
}

if __name__ == "__main__":
    program.main(__doc__, PARTS, quick=["minilm"])
