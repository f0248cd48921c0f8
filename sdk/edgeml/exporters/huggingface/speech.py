"""Speech recognition by CTC: the tokens and rules of transformers' own tokenizer in the model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import transformers

from edgeml.exporters.huggingface import folder as folders
from edgeml.exporters.torch_session import ERROR_CHARS
from edgeml_core.errors import UsageError
from edgeml_core.processing import Transcript

#: Tokens; vocabularies of letters have some dozens, of syllables some thousands.
TOKENS_MAX: Final = 65_536
_PLAIN_HINT: Final = "save the folder with a Wav2Vec2Processor to recognize without it"


class _Processor(msgspec.Struct, frozen=True):
    processor_class: str | None = None


def transcript(folder: Path, output: str, tokens: int) -> Transcript:
    """Describe the postprocessing to text.

    Args:
        folder: the model's.
        output: name of the output of logits.
        tokens: the number of logits in a frame.

    Raises:
        UsageError: `model-unreadable`, when transformers can't load the tokenizer; `model-unsupported`, for another
            kind of tokenizer, too many tokens, or a model that recognizes with a language model.
    """
    processor = folders.read(folder / "preprocessor_config.json", _Processor) or _Processor()
    if (processor.processor_class or "").endswith("WithLM"):
        message = f"a {processor.processor_class} recognizes with a language model, which edgeml doesn't export"
        raise UsageError("model-unsupported", message, _PLAIN_HINT)
    if tokens > TOKENS_MAX:
        message = f"the model has {tokens} tokens; {TOKENS_MAX} is the limit"
        raise UsageError("model-unsupported", message, "export it as file.py:function, which answers with tensors")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers lets errors of many kinds pass
        hint = "save the tokenizer too: AutoProcessor.from_pretrained(...).save_pretrained(FOLDER)"
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARS]
        raise UsageError("model-unreadable", f"transformers can't load {folder}'s tokenizer: {reason}", hint) from error
    if type(tokenizer) is not transformers.Wav2Vec2CTCTokenizer:
        message = f"the tokenizer {type(tokenizer).__name__} is not known to recognize speech"
        raise UsageError("model-unsupported", message, "export a model with a Wav2Vec2CTCTokenizer")
    return Transcript(
        output=output,
        tokens=tuple(tokenizer.convert_ids_to_tokens(range(tokens))),
        blank=tokenizer.pad_token,
        delimiter=tokenizer.word_delimiter_token,
        space=tokenizer.replace_word_delimiter_char,
        lowercase=bool(tokenizer.do_lower_case),
        clean_up=bool(tokenizer.clean_up_tokenization_spaces),
    )
