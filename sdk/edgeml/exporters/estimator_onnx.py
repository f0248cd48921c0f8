"""The adapter to skl2onnx, onnxmltools and CatBoost's own writer: an estimator's ONNX model.

Its outputs have the names of `edgeml.oracle.estimators.outputs`, as float32 or int64.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
import skl2onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import get_model_alias, update_registered_converter
from skl2onnx.common import data_types, shape_calculator
from skl2onnx.common._registration import (  # the options of a converter are found nowhere else
    get_converter,
    get_shape_calculator,
)
from sklearn.base import BaseEstimator, is_classifier
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import CountVectorizer

from edgeml_core.errors import UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_runtime.tensors import ONE_COLUMN

#: The data type of computation.
Precision = Literal["float32", "float64"]

OPSETS: Final = {"": 17, "ai.onnx.ml": 3}
#: The version of the file format that goes with these opsets.
IR_VERSION: Final = 8
_CONSTANTS: Final = {
    "edgeml_column": [-1, 1],
    "edgeml_last": [-1],
    "edgeml_end": [np.iinfo(np.int64).max],
    "edgeml_axis": [1],
}
#: Characters of a converter's error; some print a whole model.
ERROR_CHARS: Final = 200
#: Python's classes of characters in RE2, whose own are ASCII.
_CLASSES: Final = {r"\w": r"\p{L}\p{N}_", r"\d": r"\p{Nd}", r"\s": r"\t-\r\x{1c}-\x{1f}\x{85}\p{Z}"}
#: A pattern of whole words, as scikit-learn's default is: a match is as long as it can be, so it ends at a boundary.
_WHOLE_WORDS: Final = re.compile(r"\\b((?:\\w)+(?:\+|\{\d+,\}))\\b")
#: Parts that RE2 reads in another way: boundaries of words, groups, flags. The runtime looks for the longest match.
_UNLIKE_RE2: Final = re.compile(r"\\[bBAZ0-9]|\((?!\?:)|[*+?}]\?")
_TOKENS_HINT: Final = r"set token_pattern to r'(?u)\b\w+\b', or to classes of characters such as r'[\w-]+'"
#: glibc has it without further packages. Its lower case is Unicode's by letter.
_LOCALE: Final = "C.UTF-8"
#: Python's lower case of a Greek sigma at the end of a word, and of a dotted I; the runtime's is another.
_LOWER_BY_PLACE: Final = ("ς", "i\N{COMBINING DOT ABOVE}")
_TYPES: Final = {
    "float32": data_types.FloatTensorType,
    "float64": data_types.DoubleTensorType,
    "int64": data_types.Int64TensorType,
    "string": data_types.StringTensorType,
}
#: The converters' names of the outputs, in the order of choice.
_THEIRS: Final = {
    "probabilities": ("probabilities", "probability_tensor"),
    "scores": ("scores", "probabilities"),
    "label": ("label",),
    "variable": ("variable", "predictions", "GPmean"),
}


def convert(
    estimator: Any,  # noqa: ANN401 -- scikit-learn has no types
    specs: Sequence[TensorSpec],
    wanted: Sequence[str],
    precision: Precision,
    work: Path,
) -> onnx.ModelProto:
    """Convert an estimator.

    Args:
        estimator: fitted, or a pipeline.
        specs: of the model's inputs.
        wanted: the outputs.
        precision: of computation; inputs and outputs stay float32.
        work: a folder for temporary files.

    Raises:
        UsageError: `model-unsupported`, when ONNX has no operator for it, or a library is missing.
    """
    try:
        if _module(estimator) == "catboost":
            model = _of_catboost(estimator, specs, work)
        else:
            model = _of_sklearn(estimator, specs, precision)
        return _with_outputs(model, wanted, is_binary=len(getattr(estimator, "classes_", ())) == 2)
    except UsageError:
        raise
    except ImportError as error:
        hint = "pip install 'edgeml-deploy[export-boosting]'"
        raise UsageError("extra-missing", f"{type(estimator).__name__} needs {error.name}", hint) from error
    except Exception as error:  # the converters' exceptions share no base
        reason = " ".join(str(error).split())[:ERROR_CHARS]
        message = f"can't convert {type(estimator).__name__} to ONNX: {reason}"
        raise UsageError("model-unsupported", message, "use an estimator that skl2onnx supports") from error


def _of_sklearn(estimator: Any, specs: Sequence[TensorSpec], precision: Precision) -> onnx.ModelProto:  # noqa: ANN401
    estimator = copy.deepcopy(estimator)
    parts = list(_parts(estimator))
    for one in parts:
        _register(one)
    options = {id(one): found for one in parts if (found := _options(one))}
    try:
        inputs = [(spec.name, _type(spec, precision)) for spec in specs]
        return _with_inputs(_to_onnx(estimator, inputs, options, precision), specs)
    except Exception:
        if len(specs) == 1 or any(spec.dtype not in ("float32", "int64") for spec in specs):
            raise
        # Some converters take no columns, so numbers are joined to a matrix before them.
        return _joined(
            _to_onnx(estimator, [("table", _TYPES[precision]([None, len(specs)]))], options, precision), specs
        )


def _to_onnx(estimator: Any, inputs: Any, options: dict[int, Any], precision: Precision) -> onnx.ModelProto:  # noqa: ANN401
    options = dict(options)
    if is_classifier(estimator) and hasattr(estimator, "predict_proba"):
        options[id(estimator)] = options.get(id(estimator), {}) | {"zipmap": False}
    name = type(estimator).__name__  # the default is random
    model = skl2onnx.to_onnx(estimator, initial_types=inputs, name=name, options=options, target_opset=OPSETS)
    return _from_float32(model) if precision == "float64" else model


def _type(spec: TensorSpec, precision: Precision) -> Any:  # noqa: ANN401 -- skl2onnx has no types
    return _TYPES[precision if spec.dtype == "float32" else spec.dtype]([None, *spec.shape[1:]])


def _with_inputs(model: onnx.ModelProto, specs: Sequence[TensorSpec]) -> onnx.ModelProto:
    """Name the inputs after the columns, which skl2onnx changes to identifiers, and take the unused ones, too."""
    plain = {spec.name: re.sub(r"\W", "_", spec.name) for spec in specs}
    given = [value.name for value in model.graph.input]
    in_order = len(given) == len(specs)
    for at, spec in enumerate(specs):
        name = given[at] if in_order else next((it for it in given if it in (spec.name, plain[spec.name])), None)
        if name is None:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(str if spec.dtype == "string" else spec.dtype))
            model.graph.input.append(helper.make_tensor_value_info(spec.name, kind, [None, *spec.shape[1:]]))
        elif name != spec.name:
            _rename_uses(model, name, spec.name)
            next(value for value in model.graph.input if value.name == name).name = spec.name
    return model


def _from_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take float32 in place of float64, and widen it first."""
    for value in model.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            wide = f"{value.name}_float64"
            _rename_uses(model, value.name, wide)
            model.graph.node.insert(0, helper.make_node("Cast", [value.name], [wide], to=TensorProto.DOUBLE))
    return model


def _joined(model: onnx.ModelProto, specs: Sequence[TensorSpec]) -> onnx.ModelProto:
    (table,) = model.graph.input
    model.graph.input.remove(table)
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    model.graph.input.extend(helper.make_tensor_value_info(it.name, kinds[it.dtype], [None, 1]) for it in specs)
    casts = [
        helper.make_node("Cast", [it.name], [f"{it.name}_joined"], to=table.type.tensor_type.elem_type) for it in specs
    ]
    join = helper.make_node("Concat", [f"{it.name}_joined" for it in specs], [table.name], axis=1)
    for node in reversed((*casts, join)):
        model.graph.node.insert(0, node)
    return model


def _rename_uses(model: onnx.ModelProto, name: str, other: str) -> None:
    for node in model.graph.node:
        node.input[:] = [other if it == name else it for it in node.input]


def _with_outputs(model: onnx.ModelProto, wanted: Sequence[str], *, is_binary: bool) -> onnx.ModelProto:
    """Name the outputs `wanted`, as matrices of float32 or int64, in place of all others."""
    nodes = model.graph.node
    theirs = [next(it for it in _THEIRS[name] if any(it in node.output for node in nodes)) for name in wanted]
    for node in nodes:
        for side in (node.input, node.output):
            side[:] = [f"{it}_converted" if it in theirs else it for it in side]
    del model.graph.output[:], model.graph.value_info[:]
    for name, other in zip(wanted, theirs, strict=True):
        kind = TensorProto.INT64 if name == "label" else TensorProto.FLOAT
        nodes.append(helper.make_node("Cast", [f"{other}_converted"], [f"{name}_cast"], to=kind))
        shaped = list(_shaped(name, is_binary=is_binary))
        used = {it for node in shaped for it in node.input}
        constants = [numpy_helper.from_array(np.array(it), at) for at, it in _CONSTANTS.items() if at in used]
        model.graph.initializer.extend(constants)
        nodes.extend(shaped)
        model.graph.output.append(helper.make_tensor_value_info(name, kind, [None, None]))
    model.ir_version = IR_VERSION
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in _opsets(model).items())
    return model


def _shaped(name: str, *, is_binary: bool) -> Iterator[onnx.NodeProto]:
    """Make labels a column, and of a binary classifier's score one for each of its classes."""
    if name == "label":
        yield helper.make_node("Reshape", ["label_cast", "edgeml_column"], [name])
    elif name == "scores" and is_binary:
        slice_of = ["scores_cast", "edgeml_last", "edgeml_end", "edgeml_axis"]
        yield helper.make_node("Slice", slice_of, ["scores_last"])
        yield helper.make_node("Neg", ["scores_last"], ["scores_other"])
        yield helper.make_node("Concat", ["scores_other", "scores_last"], [name], axis=1)
    else:
        yield helper.make_node("Identity", [f"{name}_cast"], [name])


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    own = {"com.microsoft": 1} if any(node.domain == "com.microsoft" for node in model.graph.node) else {}
    return OPSETS | own


def _of_catboost(estimator: Any, specs: Sequence[TensorSpec], work: Path) -> onnx.ModelProto:  # noqa: ANN401
    path = work / "catboost.onnx"
    estimator.save_model(str(path), format="onnx")
    model = onnx.load(path)
    (table,) = model.graph.input
    for node in [it for it in model.graph.node if it.op_type == "ZipMap"]:
        model.graph.node.remove(node)
    if specs[0].shape == ONE_COLUMN:
        return _joined(model, specs)
    _rename_uses(model, table.name, specs[0].name)
    table.name = specs[0].name
    return model


def _parts(found: Any, seen: set[int] | None = None) -> Iterator[Any]:  # noqa: ANN401
    """Walk through an estimator, those inside of it, and so on."""
    seen = set() if seen is None else seen
    if id(found) in seen:
        return
    seen.add(id(found))
    if isinstance(found, dict | list | tuple):
        for it in found.values() if isinstance(found, dict) else found:
            yield from _parts(it, seen)
    elif isinstance(found, BaseEstimator):
        yield found
        yield from _parts(vars(found), seen)


def _module(estimator: Any) -> str:  # noqa: ANN401
    return type(estimator).__module__.partition(".")[0]


def _options(estimator: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the converter's options for one estimator: raw scores where it has them, and the texts' own tokens."""
    if isinstance(estimator, CountVectorizer):
        _check_lower_case(estimator)
        by_words = estimator.analyzer == "word" and estimator.token_pattern
        tokens = _as_re2(estimator.token_pattern) if by_words else {"char": "(?s)."}.get(estimator.analyzer)
        return {"tokenexp": tokens, "locale": _LOCALE}
    if not is_classifier(estimator) or hasattr(estimator, "predict_proba"):
        return {}
    try:
        converter = get_converter(get_model_alias(type(estimator)))
    except (RuntimeError, ValueError):  # the conversion states it
        return {}
    allowed: dict[str, Any] = getattr(converter, "get_allowed_options", dict)() or {}
    return {name: value for name, value in (("raw_scores", True), ("zipmap", False)) if name in allowed}


def _as_re2(pattern: str) -> str:
    """Translate a pattern of tokens for the runtime.

    Raises:
        UsageError: `model-unsupported`, when RE2 would read a part of it in another way.
    """
    plain = pattern.removeprefix("(?u)")
    if whole := _WHOLE_WORDS.fullmatch(plain):
        plain = whole[1]
    unlike = _UNLIKE_RE2.search(plain)
    if unlike:
        message = f"token_pattern {pattern!r} has {unlike[0]!r}, which the runtime reads in another way than Python"
        raise UsageError("model-unsupported", message, _TOKENS_HINT)
    found, is_within = [], False
    for part in re.findall(r"\\.|.", plain, re.DOTALL):
        letters = _CLASSES.get(part.lower()) if part.startswith("\\") else None
        if letters and part.isupper() and is_within:
            message = f"token_pattern {pattern!r} has {part!r} within brackets, which the runtime reads as ASCII"
            raise UsageError("model-unsupported", message, _TOKENS_HINT)
        if letters:
            found.append(letters if is_within else f"[{'^' if part.isupper() else ''}{letters}]")
        else:
            found.append(part)
            is_within = part == "[" or (is_within and part != "]")
    return "".join(found)


def _check_lower_case(vectorizer: Any) -> None:  # noqa: ANN401
    """Refuse lower case where the runtime's, which is by letter, gives other terms than Python's."""
    by_place = any(part in term for term in getattr(vectorizer, "vocabulary_", ()) for part in _LOWER_BY_PLACE)
    if vectorizer.lowercase and by_place:
        message = "lowercase=True makes a letter's small form by its place (Greek sigma, dotted I); the runtime doesn't"
        raise UsageError("model-unsupported", message, "set lowercase=False, train with small letters, and send them")


class _PlainNumbers:
    """A container of nodes that gives onnx Python's own numbers: it refuses booleans and numpy's unsigned ones."""

    def __init__(self, container: Any) -> None:  # noqa: ANN401
        self._container = container

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._container, name)

    def add_node(self, *arguments: Any, **attributes: Any) -> None:  # noqa: ANN401
        plain = {
            name: [int(it) for it in value]
            if isinstance(value, list) and isinstance(value[0], int | np.integer)
            else value
            for name, value in attributes.items()
        }
        self._container.add_node(*arguments, **plain)


def _convert_plain(alias: str) -> Callable[[Any, Any, Any], None]:
    theirs = get_converter(alias)
    return lambda scope, operator, container: theirs(scope, operator, _PlainNumbers(container))


def _register(estimator: Any) -> None:  # noqa: ANN401
    """Register the converter of a boosting library's estimator."""
    name = type(estimator).__name__
    classes = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    kind = "classifier" if is_classifier(estimator) else "regressor"
    shapes = getattr(shape_calculator, f"calculate_linear_{kind}_output_shapes")
    match _module(estimator):
        case "xgboost":
            from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost  # noqa: PLC0415

            options = classes if is_classifier(estimator) else None
            update_registered_converter(type(estimator), f"XGBoost{name}", shapes, convert_xgboost, options=options)
        case "lightgbm":
            from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm  # noqa: PLC0415

            options = classes if is_classifier(estimator) else {"split": None}
            update_registered_converter(type(estimator), f"LightGbm{name}", shapes, convert_lightgbm, options=options)


for _kind in (HistGradientBoostingClassifier, HistGradientBoostingRegressor):
    _alias = get_model_alias(_kind)
    _allowed = get_converter(_alias).get_allowed_options()
    update_registered_converter(_kind, _alias, get_shape_calculator(_alias), _convert_plain(_alias), options=_allowed)
