"""What a model folder's JSON files say of pre- and postprocessing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec import UNSET
from tokenizers import Tokenizer, models

from edgeml.exporters.huggingface import audio, image_processor
from edgeml.exporters.huggingface import folder as folders
from edgeml_core.errors import UsageError
from edgeml_core.processing import Classes, TokenClasses


def write(folder: Path, **files: object) -> Path:
    """Files by name, `__` for a slash."""
    for name, value in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))
    return folder


def test_labels_come_in_the_order_of_their_numbers(tmp_path: Path):
    """JSON keys are strings: 10 comes after 9, not after 1."""
    write(tmp_path, config={"id2label": {str(index): f"label {index}" for index in reversed(range(12))}})
    found = folders.postprocess(tmp_path, "text-classification", "logits")
    assert isinstance(found, Classes)
    assert found.labels == tuple(f"label {index}" for index in range(12))
    assert found.activation == "softmax"
    assert isinstance(folders.postprocess(tmp_path, "token-classification", "logits"), TokenClasses)


@pytest.mark.parametrize(("settings", "count"), [({}, 2), ({"num_labels": 3}, 3), ({"num_labels": 1}, 1)])
def test_labels_without_names_are_numbered(tmp_path: Path, settings: dict[str, int], count: int):
    """As old files of transformers have them, or a person's."""
    assert folders.config(write(tmp_path, config=settings)).labels == tuple(f"LABEL_{it}" for it in range(count))


def test_many_labels_at_once_have_a_probability_each(tmp_path: Path):
    """A multi-label model's scores don't sum to one."""
    write(tmp_path, config={"id2label": {"0": "a"}, "problem_type": "multi_label_classification"})
    found = folders.postprocess(tmp_path, "text-classification", "logits")
    assert isinstance(found, Classes)
    assert found.activation == "sigmoid"


def test_the_shortest_limit_on_tokens_holds(tmp_path: Path):
    """Of the tokenizer's (none: 1e30), the sentence model's and the position table's; own cutting is taken out."""
    write(
        tmp_path,
        config={"max_position_embeddings": 512},
        tokenizer_config={"model_max_length": 1e30, "pad_token": {"content": "[PAD]"}},
        sentence_bert_config={"max_seq_length": 256},
    )
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "x": 1, "[PAD]": 7}, unk_token="[UNK]"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = folders.text_input(tmp_path, tmp_path / "out.json")
    assert (found.max_length, found.pad_id) == (256, 7)
    written = Tokenizer.from_file(str(tmp_path / "out.json"))
    assert written.truncation is None
    assert written.padding is None


@pytest.mark.parametrize(
    ("settings", "height", "edge"),
    [
        ({"size": {"height": 8, "width": 8}}, 8, 0),
        ({"size": {"shortest_edge": 16}, "crop_size": {"height": 12, "width": 12}, "do_center_crop": True}, 12, 16),
        ({"size": 16, "crop_size": 12, "do_center_crop": True}, 12, 16),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 224, 256),
    ],
)
def test_image_processors_of_all_ages_are_read(tmp_path: Path, settings: dict[str, object], height: int, edge: int):
    """ViT's, ResNet's, an old one with bare numbers and ConvNeXT's."""
    found = image_processor.image_input(write(tmp_path, preprocessor_config=settings | {"resample": 3}))
    assert (found.height, found.width, found.resize_shortest_edge) == (height, height, edge)
    assert found.resample == "bicubic"


def test_a_filter_that_a_bundle_cannot_have_is_refused(tmp_path: Path):
    """Pillow's box filter: no other one takes its place, since no oracle judges an `.onnx` file."""
    write(tmp_path, preprocessor_config={"size": {"height": 8, "width": 8}, "resample": 4})
    with pytest.raises(UsageError, match=r"resample 4; a bundle has 0 .nearest., 1 .lanczos."):
        image_processor.image_input(tmp_path)


def test_what_is_missing_or_malformed_is_named(tmp_path: Path):
    """No config.json, one that is no JSON, no tokenizer, no image processor: each with its remedy."""
    for look in (
        lambda: folders.config(tmp_path),
        lambda: folders.text_input(tmp_path, tmp_path / "out.json"),
        lambda: image_processor.image_input(tmp_path),
    ):
        with pytest.raises(UsageError) as caught:
            look()
        assert caught.value.code == "model-unreadable"
        assert caught.value.hint
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json"):
        folders.config(tmp_path)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("bert", 514), *((it, 512) for it in ("roberta", "data2vec-text", "ibert", "esm", "longformer"))],
)
def test_positions_counted_from_the_padding_token_are_fewer(kind: str, expected: int, tmp_path: Path):
    """RoBERTa's first position is the padding token's id and one; what comes after the last would crash the model."""
    settings = {"model_type": kind, "max_position_embeddings": 514, "pad_token_id": 1}
    assert folders.config(write(tmp_path, config=settings)).positions == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 704), ({"block_size": 4, "num_random_blocks": 1}, 28), ({"attention_type": "original_full"}, 4096)],
)
def test_texts_are_cut_where_attention_would_be_in_blocks(settings: dict[str, object], expected: int, tmp_path: Path):
    """BigBird's answer to a longer text depends on the texts before it; the card says why it is cut."""
    config = {"model_type": "big_bird", "max_position_embeddings": 4096} | settings
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    text = folders.text_input(write(tmp_path, config=config), tmp_path / "out.json")
    assert text.max_length == expected
    assert bool(folders.note_full_attention(folders.config(tmp_path), text)) is (expected < 4096)


def test_bare_size_is_a_square_where_the_processor_takes_it_so(tmp_path: Path):
    """DeiT's own repositories have 256 and a crop of 224."""
    settings = {"image_processor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, "do_center_crop": True}
    found = image_processor.image_input(write(tmp_path, preprocessor_config=settings))
    assert (found.height, found.width, found.resize_shortest_edge, found.resize_to) == (224, 224, 0, (256, 256))


def test_sounds_are_read_as_their_extractor_says(tmp_path: Path):
    """Samples, with the fewest that the convolutions take; a mel spectrum, with as many samples as it has frames."""
    extractor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16_000}
    kernels = {"conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2]}
    found = audio.audio_input(write(tmp_path, preprocessor_config=extractor, config=kernels))
    assert (found.min_samples, found.normalize, found.mel) == (400, True, None)
    extractor = {"feature_extractor_type": "ASTFeatureExtractor", "max_length": 1024, "num_mel_bins": 128}
    found = audio.audio_input(write(tmp_path, preprocessor_config=extractor))
    assert (found.max_samples, found.mel and found.mel.bins) == (400 + 1023 * 160, 128)


def test_an_unknown_extractor_is_refused(tmp_path: Path):
    """No features are guessed."""
    with pytest.raises(UsageError, match="WhisperFeatureExtractor") as caught:
        audio.audio_input(write(tmp_path, preprocessor_config={"feature_extractor_type": "WhisperFeatureExtractor"}))
    assert caught.value.code == "model-unsupported"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"id2label": {"red": "0"}}', "id2label has a label for 'red', which is no number"),
        ('{"deep": ' + "[" * 100_000, "recursion"),
        ("[1, 2]", "Expected `object`"),
        ("null", "Expected `object`"),
        ("\ufeff{}", "malformed"),
        ('{"architectures": "BertModel"}', "Expected `array`"),
    ],
    ids=["labels", "deep", "array", "null", "bom", "type"],
)
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str, reason: str):
    """As unreadable, with the place."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=reason) as caught:
        folders.config(tmp_path)
    assert caught.value.code == "model-unreadable"


def test_a_configuration_of_one_convolution_is_read(tmp_path: Path):
    """Mamba's kernel is a number where a model of sounds has a list."""
    assert folders.config(write(tmp_path, config={"conv_kernel": 4})).conv_kernel == 4


@pytest.mark.parametrize("sizes", [{"conv_kernel": 4}, {"conv_kernel": [3, 3], "conv_stride": [2]}])
def test_a_model_of_sounds_needs_a_stride_for_each_kernel(tmp_path: Path, sizes: dict[str, object]):
    """Else its shortest recording is unknown."""
    write(tmp_path, config=sizes, preprocessor_config={"feature_extractor_type": "Wav2Vec2FeatureExtractor"})
    with pytest.raises(UsageError, match="one each belongs to a convolution"):
        audio.audio_input(tmp_path)


@pytest.mark.parametrize("pixels", [0, -1, 10**12])
def test_pictures_of_an_impossible_size_are_refused(tmp_path: Path, pixels: int):
    """Before memory is taken for one."""
    write(tmp_path, preprocessor_config={"size": {"height": pixels, "width": 32}})
    with pytest.raises(UsageError, match=r"Expected `int` (<=|>=) \d+ - at `\$.size"):
        image_processor.image_input(tmp_path)


def test_sentence_transformers_limit_replaces_the_tokenizers(tmp_path: Path):
    """As a `max_seq_length` that was set after loading is saved; the position table limits both."""
    for of_sentence, positions, expected in ((384, 512, 384), (1000, 512, 512)):
        write(
            tmp_path,
            config={"max_position_embeddings": positions},
            tokenizer_config={"model_max_length": 128},
            sentence_bert_config={"max_seq_length": of_sentence},
        )
        Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
        assert folders.text_input(tmp_path, tmp_path / "out.json").max_length == expected


@pytest.mark.parametrize(
    ("tokenizer", "of_sentence", "expected"),
    [
        ({"max_len": 96}, {}, 96),
        ({"max_len": 96, "model_max_length": 128}, {}, 128),
        ({"model_max_length": 128}, {"tokenizer_args": {"model_max_length": 64}, "max_seq_length": 48}, 64),
        ({"model_max_length": 128}, {"processor_kwargs": {"model_max_length": 64, "use_fast": True}}, 64),
        ({"model_max_length": 128}, {"max_seq_length": 99, "processing_kwargs": {"text": {"max_length": 32}}}, 32),
        ({}, {"processing_kwargs": {"common": {"max_length": 32}, "text": {"max_length": 32}}}, 32),
    ],
)
def test_limits_by_their_other_names_are_read(
    tmp_path: Path, tokenizer: dict[str, int], of_sentence: dict[str, object], expected: int
):
    """Those of sentence-transformers for loading its tokenizer, and for each call of it; and an old one."""
    config = {"max_position_embeddings": 512}
    write(tmp_path, config=config, tokenizer_config=tokenizer, sentence_bert_config=of_sentence)
    Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    assert folders.text_input(tmp_path, tmp_path / "out.json").max_length == expected


@pytest.mark.parametrize(
    ("calls", "named"),
    [
        ({"text": {"max_length": 8, "truncation": False}}, r"text\.truncation"),
        ({"common": {"max_length": 8}, "text": {"max_length": 9}}, "9 and 8"),
        ({"text": {"max_length": "8"}}, "apply: 8"),
    ],
)
def test_other_settings_of_the_tokenizers_calls_are_refused_by_name(
    tmp_path: Path, calls: dict[str, dict[str, object]], named: str
):
    """They could change the tokens."""
    write(tmp_path, config={}, sentence_bert_config={"processing_kwargs": calls})
    Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UsageError, match=named) as caught:
        folders.text_input(tmp_path, tmp_path / "out.json")
    assert caught.value.code == "model-unsupported"


def test_limits_on_tokens_below_one_are_no_limits(tmp_path: Path):
    """A text without a token has no answer."""
    write(tmp_path, config={}, tokenizer_config={"model_max_length": -1}, sentence_bert_config={"max_seq_length": 77})
    Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    assert folders.text_input(tmp_path, tmp_path / "out.json").max_length == 77


@pytest.mark.parametrize(
    ("settings", "own", "cut"),
    [({}, "right", UNSET), ({"truncation_side": "left"}, "right", "left"), ({}, "left", "left")],
)
def test_the_side_to_cut_is_the_tokenizers(tmp_path: Path, settings: dict[str, str], own: str, cut: object):
    """By tokenizer_config.json, else by tokenizer.json, as transformers takes it; the right side isn't written."""
    write(tmp_path, config={}, tokenizer_config=settings)
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.enable_truncation(2, direction=own)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert folders.text_input(tmp_path, tmp_path / "out.json").cut == cut


def test_tokens_that_the_model_has_no_vector_for_are_noted(tmp_path: Path):
    """Added to the tokenizer alone; a model with as many vectors, or more, has no note."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "cow": 1}, unk_token="[UNK]"))
    tokenizer.add_tokens(["sheep", "goat"])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    (note,) = folders.note_tokens_without_vectors(path, 2)
    assert "the model has 2 tokens, its tokenizer 2 more, such as 'sheep'" in note
    assert [folders.note_tokens_without_vectors(path, count) for count in (4, 100)] == [(), ()]
