"""Language models in GGUF files: each becomes a folder of Hugging Face's, which the adapter to transformers loads.

`container` reads the file, `architectures` names the weights and sizes, `tokenizer` builds the tokenizer, `tensors`
restores the weights, and `folder` writes all of it. Anything that none of them knows is refused by name.
"""
