"""The errors of edgeml, by who must act. No other exception type leaves a public function.

`code` is a stable string: the same in the log, over MQTT, in HTTP bodies and under `--json`. `hint` is one sentence
with the remedy. Adapters translate foreign exceptions with `raise ... from e`.
"""

from __future__ import annotations

from typing import ClassVar, Final

#: Every code that edgeml emits, with its meaning. A test holds the source to this table; docs/errors.md prints it.
CODES: Final[dict[str, str]] = {
    # UsageError: the operator's input is wrong
    "usage": "an argument, option or configuration value is wrong",
    "extra-missing": "an optional dependency of this command is not installed",
    "model-unreadable": "the model can't be read as any supported format",
    "model-unsafe": "the model's weights come as a pickle, which could run code",
    "model-unsupported": "the model's architecture, task or an operator can't be converted to the requested format",
    "data-invalid": "a data file (calibration, evaluation) doesn't fit the model or its own format",
    "target-unknown": "no target profile has that name",
    "target-invalid": "a target profile has problems; the message lists all of them",
    "emulation-missing": "the target's CPU can't be emulated on this machine yet",
    "repo-invalid": "the directory is not an edgeml repository, or its keys are missing",
    "release-unknown": "the repository has no such release",
    "bundle-exists": "the output folder has another bundle of that name, version, target and format",
    "release-withdrawn": "the release key has withdrawn the release: no device installs it any more",
    "release-pruned": "chunks of the release were removed by `edgeml repo prune`",
    "release-exists": "that name and version is already released with other content",
    "device-exists": "that device id is enrolled already",
    "config-invalid": "agent.toml has problems; the message lists all of them",
    "input-invalid": "an inference input doesn't fit the model's signature",
    "prompt-too-long": "a text is longer than the model can read, or leaves no room for an answer",
    "device-unknown": "no device of that id is enrolled, or none has ever published its state on this broker",
    "interrupted": "stopped by the operator",
    # GateFailed: the model doesn't meet the requested limits
    "gate-failed": "no candidate met the requested accuracy, parity, speed or size",
    # RejectedError: the sender is at fault; retried for that digest only by `deploy --again`
    "bundle-format": "a bundle or manifest is malformed; the message lists every problem",
    "document-format": "a signed document or a message is malformed",
    "digest-mismatch": "content doesn't have the digest that was signed",
    "signature-invalid": "metadata isn't signed by the keys trusted here",
    "rollback-attempt": "metadata older than what was already trusted was offered",
    "trust-expired": "signed metadata has expired",
    "token-unknown": "the host doesn't know the token, or it is another device's",
    "token-used": "another device, or another key, has used the token",
    "token-expired": "the token's time is over",
    "certificate-invalid": "a certificate isn't the fleet's or the device's, has expired, or can't be renewed yet",
    "certificate-revoked": "the device's certificate was revoked",
    "release-unsuitable": "no release of the wanted version suits this device",
    "record-missing": "this device has no signed record of its labels, so no deployment is for it",
    "device-revoked": "the fleet has revoked this device: it serves what it has, and gets nothing new",
    # TransportError: the network is at fault; retried with a bound and jitter
    "broker-unreachable": "the MQTT broker can't be reached, or the connection to it failed",
    "host-refused": "the host at the address for enrollment isn't the one that has made the token",
    "broker-refused": "the MQTT broker refused the user's name, password or certificate",
    "broker-misbehaves": "the MQTT broker announced a packet that is longer than any of edgeml's",
    "packet-too-long": "a signed file or a message is longer than the broker takes, and wasn't published",
    "topic-forbidden": "the broker forbids this device or host a topic that it must publish or subscribe to",
    "trust-unavailable": "signed metadata can't be fetched yet",
    "host-unreachable": "the host named by --on can't be reached over ssh",
    "agent-unreachable": "no agent answers over HTTP at the address in agent.toml",
    "device-offline": "the device named by --on isn't connected to the broker now",
    "webhook-failed": "the webhook gave no answer that a notice was received",
    "call-timeout": "the device named by --on sent no reply in time",
    "download-failed": "a package couldn't be fetched or unpacked",
    "chunks-unreachable": "the bucket with the repository's chunks gave no answer, or not in time",
    "chunks-refused": "the bucket with the repository's chunks doesn't exist, or refused the credentials",
    "chunk-timeout": "requested chunks didn't arrive in time",
    # DeviceError: this device is at fault; it rolls back and reports
    "runtime-missing": "the runtime that the bundle needs is not installed, or too old",
    "runtime-failed": "the runtime couldn't load or run the model",
    "probe-crashed": "the model crashed, hung or exceeded its memory in the probe's child process",
    "golden-mismatch": "the model doesn't reproduce its golden outputs on this machine",
    "shadow-disagreed": "too many of the new version's answers differ from those of the version that serves",
    "release-absent": "the device named by --on doesn't have the bundle",
    "device-busy": "the device named by --on answers another call",
    "group-key-missing": "the release is encrypted for a group whose key this device doesn't have",
    "clock-late": "the device's clock is before a signed time, so the update's hours can't come",
    "disk-full": "the store has no space for the release",
    "memory-short": "the model needs more memory than this device has available",
    "store-failed": "the store's database or files can't be read or written",
    "audit-broken": "the audit log isn't the one that was written: an entry was altered, removed or moved",
    "not-leader": "another host leads the fleet now, so this one's decision doesn't count",
    "crash-loop": "the agent restarted uncleanly too often after an activation",
    # raised by the server and answered to its clients
    "model-unknown": "no model of that name is served here",
    "overloaded": "the model's queue is full, there is no memory for it now, or the server has too many requests",
    "deadline-exceeded": "the request's deadline passed before there was an answer",
    "client-left": "the client closed the connection, cancelled the request, or didn't read its answer in time",
    "route-unknown": "the server has no such path or method",
    "unauthorized": "the request has no valid token",
    "forbidden": "the account's role doesn't permit the request",
    "login-failed": "the name and password, or the token, belong to no account",
    "form-expired": "the form or request has no valid CSRF token of its session",
    "account-unknown": "the fleet has no account of that name",
    "account-exists": "the fleet has an account of that name already",
    "rollout-unknown": "the fleet has no such rollout",
    "origin-refused": "the request names another host, or comes from another site's page",
    "body-too-large": "the request's body is longer than the server reads",
    "content-unsupported": "the request's body is of a type that the server doesn't read",
    "answer-too-large": "the answer is longer than may be sent over MQTT",
    "topic-refused": "a request over MQTT names an answer topic that the device doesn't publish to",
    "internal": "an unexpected failure; the log, or the report that the message names, has the details",
}


class EdgemlError(Exception):
    """Base of all errors: a stable code, a message for people and one sentence with the remedy."""

    exit_code: ClassVar[int] = 1
    #: The hint of an error that has none of its own.
    usual_hint: ClassVar[str] = "report this with the log"

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint or self.usual_hint

    def to_dict(self) -> dict[str, str]:
        """Return the error as every `--json` output, HTTP body and report has it."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class UsageError(EdgemlError):
    """The operator's input is wrong: nothing was changed."""

    exit_code = 2
    usual_hint = "correct it and try again; nothing was changed"


class GateFailed(EdgemlError):
    """The model doesn't meet the requested limits: no bundle was written for that target."""

    exit_code = 1
    usual_hint = "add calibration data, accept more with --max-drop, or choose another target"


class RejectedError(EdgemlError):
    """The content is malformed, corrupt, unsigned or old: retried for that digest only by `deploy --again`."""

    exit_code = 4
    usual_hint = "get it again from its sender; nothing was changed"


class TransportError(EdgemlError):
    """The network or the peer failed: a retry may succeed."""

    exit_code = 5
    usual_hint = "check the network and the broker; devices retry by themselves"


class DeviceError(EdgemlError):
    """This device failed: full disk, missing or failing runtime, too little memory."""

    exit_code = 6
    usual_hint = "run the doctor on this machine: `edgeml doctor` or `edgeml-agent doctor`"


class InternalError(EdgemlError):
    """edgeml itself failed: a bug, which a report describes."""

    exit_code = 70
    usual_hint = "send the report to edgeml's maintainers"


class OverloadedError(DeviceError):
    """This device has too many requests now; by its measured speed it has room again in `retry_after_s`."""

    def __init__(self, code: str, message: str, hint: str = "", *, retry_after_s: int) -> None:
        super().__init__(code, message, hint)
        self.retry_after_s = retry_after_s
