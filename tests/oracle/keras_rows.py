"""Tiny Keras models with random weights, saved as Keras saves them, and those that are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from edgeml import keras_torch

keras: Any = keras_torch.load()
layers: Any = keras.layers


def _mlp() -> Any:
    return keras.Sequential(
        [keras.Input((8,)), layers.Dense(16, "relu"), layers.BatchNormalization(), layers.Dense(3, "softmax")]
    )


def _cnn() -> Any:
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 3, strides=2, padding="same"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3, "softmax"),
        ]
    )


def _separable() -> Any:
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.SeparableConv2D(8, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, strides=2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


def _residual() -> Any:
    given = keras.Input((16, 16, 3))
    first = layers.Conv2D(8, 3, padding="same", activation="silu")(given)
    second = layers.Conv2D(8, 3, padding="same")(layers.LayerNormalization()(first))
    return keras.Model(given, layers.Dense(3)(layers.GlobalMaxPooling2D()(layers.add([first, second]))))


def _upsampling() -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.UpSampling2D(2),
            layers.Conv2DTranspose(2, 3, strides=2, padding="same"),
        ]
    )


def _lstm() -> Any:
    return keras.Sequential([keras.Input((6, 4)), layers.LSTM(8, return_sequences=True), layers.LSTM(5)])


def _gru() -> Any:
    return keras.Sequential([keras.Input((6, 4)), layers.Bidirectional(layers.GRU(8)), layers.Dense(1, "sigmoid")])


def _convolved_series() -> Any:
    return keras.Sequential(
        [
            keras.Input((24, 4)),
            layers.Conv1D(8, 5, padding="causal", activation="tanh"),
            layers.AveragePooling1D(2),
            layers.GlobalMaxPooling1D(),
            layers.Dense(2),
        ]
    )


def _attention() -> Any:
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    vectors = layers.Embedding(20, 16)(tokens)
    attended = layers.MultiHeadAttention(2, 8)(vectors, vectors)
    normal = layers.LayerNormalization()(layers.add([vectors, attended]))
    return keras.Model(tokens, layers.Dense(3, "softmax")(layers.GlobalAveragePooling1D()(normal)))


def _several_inputs() -> Any:
    table, series = keras.Input((4,), name="table"), keras.Input((6, 2), name="series")
    joined = layers.concatenate([layers.Dense(8, "elu")(table), layers.Flatten()(series)])
    return keras.Model([table, series], {"class": layers.Dense(3, "softmax")(joined), "price": layers.Dense(1)(joined)})


def _named_inputs() -> Any:
    given = {"right": keras.Input((4,), name="right"), "left": keras.Input((4,), name="left")}
    return keras.Model(given, layers.Dense(2)(layers.subtract([given["left"], given["right"]])))


def _normalized() -> Any:
    scaled = layers.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[4.0, 3.0, 2.0, 1.0])
    return keras.Sequential([keras.Input((4,)), scaled, layers.Dense(8, "gelu"), layers.Dense(2)])


ROWS: Final[Mapping[str, Callable[[], Any]]] = {
    "MLP with batch normalization": _mlp,
    "CNN with rescaling and dropout": _cnn,
    "separable and depthwise convolutions": _separable,
    "residual connection": _residual,
    "upsampling and transposed convolution": _upsampling,
    "two LSTMs": _lstm,
    "bidirectional GRU": _gru,
    "causal 1-D convolution": _convolved_series,
    "embedding and attention": _attention,
    "two inputs, two named outputs": _several_inputs,
    "inputs by name": _named_inputs,
    "normalization": _normalized,
}


@keras.saving.register_keras_serializable("ours")
class Doubled(layers.Layer):  # type: ignore[misc] # Keras isn't followed
    """A layer that only its owner's code has."""

    def call(self, values: Any) -> Any:
        """Double the values."""
        return values * 2


def _with(*steps: Any, shape: tuple[int | None, ...] = (4,)) -> Any:
    return keras.Sequential([keras.Input(shape), *steps, layers.Dense(2)])


#: What is refused: its model, the error's code, and a part of the message.
REFUSED: Final[Mapping[str, tuple[Callable[[], Any], str, str]]] = {
    "Lambda layer": (
        lambda: _with(layers.Lambda(lambda it: it * 2)),
        "model-unsafe",
        "has a Lambda, which could run",
    ),
    "custom layer": (lambda: _with(Doubled()), "model-unsupported", "Doubled of ours>Doubled, which is not Keras' own"),
    "free length": (lambda: _with(layers.LSTM(4), shape=(None, 4)), "model-unsupported", "whose lengths aren't fixed"),
    "stateful LSTM": (
        lambda: keras.Sequential([keras.Input(batch_shape=(1, 3, 4)), layers.LSTM(4, stateful=True)]),
        "model-unsupported",
        "its answers depend on earlier requests",
    ),
}
