"""The types of answers over HTTP, API by API; the OpenAPI document has their schemas.

The answers of tasks have their types in `edgeml_runtime.tasks`, the content of the page in `page.view_model`.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from edgeml_runtime.generate.options import WrittenToken


class Health(TypedDict):
    """Whether the server lives, and whether the models of the last run are live again."""

    live: bool
    ready: bool


class ListedModel(TypedDict):
    """One model; the first four fields are the ones that OpenAI's client requires."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    version: str
    task: str
    target: str
    format: str
    deployment: str


class ListedModels(TypedDict):
    """All models, by name."""

    object: Literal["list"]
    data: list[ListedModel]


class Predicted(TypedDict):
    """An answer to each item, in order, and which version gave it."""

    model: str
    version: str
    outputs: list[Any]


class Reply(TypedDict):
    """A model's reply; `finish` where it has reached its allowed length, `logprobs` where the request asks for them."""

    reply: str
    finish: NotRequired[Literal["length"]]
    logprobs: NotRequired[list[WrittenToken]]


class Refused(TypedDict):
    """An error of edgeml's own APIs."""

    code: str
    message: str
    hint: str


class Refusal(TypedDict):
    """Why there is no answer."""

    error: Refused


class ProtocolServer(TypedDict):
    """The Open Inference Protocol's view of the server."""

    name: str
    version: str
    extensions: tuple[str, ...]


class Signed(TypedDict):
    """One input or output; -1 in `shape` is any length."""

    name: str
    datatype: str
    shape: list[int]


class ProtocolModel(TypedDict):
    """A model's metadata."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Signed]
    outputs: list[Signed]


class Dimensions(TypedDict):
    """One input or output in Triton's terms."""

    name: str
    data_type: str
    dims: list[int]


class ProtocolConfig(TypedDict):
    """A model's configuration in Triton's terms."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    version_policy: dict[str, dict[str, int]]
    input: list[Dimensions]
    output: list[Dimensions]


class ProtocolReady(TypedDict):
    """A model that answers."""

    name: str
    ready: Literal[True]


class BinaryParameters(TypedDict):
    """The size of a binary output, whose bytes stand behind the JSON in the order of the outputs."""

    binary_data_size: int


class OutputTensor(TypedDict):
    """One output: its `data` flat and row-major, or its bytes behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: NotRequired[list[Any]]
    parameters: NotRequired[BinaryParameters]


class Inferred(TypedDict):
    """The requested outputs, and the version that gave them; `parameters` has the number of truncated texts."""

    model_name: str
    model_version: str
    id: NotRequired[str]
    parameters: NotRequired[dict[str, object]]
    outputs: list[OutputTensor]


class Indexed(TypedDict):
    """One model of the repository."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class Duration(TypedDict):
    """A number of times, and their nanoseconds together."""

    count: int
    ns: int


class Durations(TypedDict):
    """The time of a model's requests by its parts; those that aren't measured apart are 0."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class ModelStatistics(TypedDict):
    """Requests to one model since the agent started; `last_inference` in milliseconds since 1970."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: Durations
    batch_stats: list[Any]
    memory_usage: list[Any]


class Statistics(TypedDict):
    """The statistics of one model, or of all."""

    model_stats: list[ModelStatistics]


class ProtocolRefusal(TypedDict):
    """Why there is no answer, in the form of the Open Inference Protocol."""

    error: str


class Usage(TypedDict):
    """Tokens read and written."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: NotRequired[int]


class CalledFunction(TypedDict):
    """The function of a call, and the text of its arguments in JSON."""

    name: str
    arguments: str


class ToolCallOf(TypedDict):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(TypedDict):
    """The model's message in a chat; one of calls alone has no content."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCallOf]]


class ChatLogprobs(TypedDict):
    """The tokens of a message with their log probabilities."""

    content: list[WrittenToken]
    refusal: None


class ChatChoice(TypedDict):
    """One answer to a chat."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(TypedDict):
    """An answer to a chat, in OpenAI's form."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionLogprobs(TypedDict):
    """The tokens of a continuation with their log probabilities.

    `top_logprobs` has the likeliest tokens in place of each, and `text_offset` its place among the text's characters.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One continuation of a prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(TypedDict):
    """A continuation of a prompt, in OpenAI's form."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class OutputText(TypedDict):
    """A text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputItem(TypedDict):
    """An item of a response: the model's message, or its call of a function."""

    id: str
    type: Literal["message", "function_call"]
    status: Literal["in_progress", "completed", "incomplete"]
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[list[OutputText]]
    call_id: NotRequired[str]
    name: NotRequired[str]
    arguments: NotRequired[str]


class ResponseUsage(TypedDict):
    """Tokens read and written, in the words of the Responses API."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class Responded(TypedDict):
    """A response, in OpenAI's form; `incomplete` where the text has reached its allowed length."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"]
    background: bool
    error: None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    store: bool
    temperature: float
    text: dict[str, dict[str, Any]]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: str
    usage: ResponseUsage | None


class EmbeddingOf(TypedDict):
    """One text's vector: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(TypedDict):
    """A vector for each text, in OpenAI's form."""

    object: Literal["list"]
    data: list[EmbeddingOf]
    model: str
    usage: Usage


class Transcription(TypedDict):
    """The text of a sound, in OpenAI's form."""

    text: str


class VerboseTranscription(TypedDict):
    """The text of a sound, with its language and its length in seconds; no times of words or segments."""

    task: Literal["transcribe"]
    language: str
    duration: float
    text: str


class OpenAIRefused(TypedDict):
    """An error in OpenAI's form; `param` is the field at fault."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIRefusal(TypedDict):
    """Why there is no answer, as OpenAI's clients read it."""

    error: OpenAIRefused
