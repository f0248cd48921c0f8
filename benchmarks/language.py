"""Language models of `edgeml export` beside other engines: `python benchmarks/language.py [PART]...`.

    dialogpt-medium  24 layers of 1024, GPT-2's type
    smollm2-135m     30 layers of 576, Llama's type
    qwen2.5-0.5b     24 layers of 896
    qwen3-0.6b       28 layers of 1024

Weights are random, so only speed, memory and closeness to PyTorch count. Each part races PyTorch eager fp32, the
ONNX export of optimum in dynamic int8, llama.cpp (Q4_0 and Q8_0), onnxruntime-genai int4 and CTranslate2 int8. edgeml
runs in fp32, dynamic int8, and blocks of 8 and of 4 bits. It measures new tokens a second after prompts of 16 and 256
tokens, and prompt tokens a second of 256 until the first new token. Batch 1, 2 threads.

Each contender is a process, and they take turns. Run by root they have real-time priority, so that other programs wait.
The rivals have environments of their own, which a full run makes once. llama.cpp is compiled there for this CPU, which
needs a C++ compiler. An engine that refuses a model stands in the report as not measured.
"""

from harness import program

PARTS = {
    "dialogpt-medium": ["language_parts.dialogpt_medium"],
    "smollm2-135m": ["language_parts.smollm2_135m"],
    "qwen2.5-0.5b": ["language_parts.qwen2_5_0_5b"],
    "qwen3-0.6b": ["language_parts.qwen3_0_6b"],
}

if __name__ == "__main__":
    program.main(__doc__, PARTS, quick=["smollm2-135m"])
