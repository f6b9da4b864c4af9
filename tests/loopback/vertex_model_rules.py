"""What both stand-ins for services of Vertex AI have in common: refusals, names and labels as the real ones take them.

As the real ones do, they answer with the project's number where they were asked with its id.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

PROJECT, NUMBER, REGION = "loopback-project", "123456789012", "europe-west4"
LOCATION = re.compile(rf"projects/(?:{PROJECT}|{NUMBER})/locations/{REGION}")
ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")
LABEL_KEY, LABEL_VALUE = re.compile(r"[a-z][a-z0-9_-]{0,62}"), re.compile(r"[a-z0-9_-]{0,63}")
INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
EXISTS, DENIED = grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.PERMISSION_DENIED
# Of a method: its request, its reply (an operation where that is None), and what answers it.
Method = tuple[Any, Any, Callable[[Any], Any]]


class RefusedError(Exception):
    """A request that the real service would refuse."""

    def __init__(self, code: grpc.StatusCode, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.reason = code, message, reason


class Front:
    """What stands before every method: one call at a time, counted; `faults` come first, one a call (None: none)."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, list[RefusedError | None]] = {}
        self.lock = threading.RLock()

    def add(self, server: grpc.Server, service: str, methods: Mapping[str, Method]) -> None:
        """Serve these methods."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, answer),
                request_deserializer=getattr(request, "deserialize", None) or request.FromString,
                response_serializer=getattr(reply, "serialize", None) or reply.SerializeToString,
            )
            for name, (request, reply, answer) in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    def _guarded(self, name: str, answer: Callable[[Any], Any]) -> Callable[[Any, grpc.ServicerContext], Any]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            with self.lock:
                self.calls[name] += 1
                try:
                    if (waiting := self.faults.get(name)) and (fault := waiting.pop(0)):
                        raise fault
                    return answer(request)
                except RefusedError as refused:
                    status = status_pb2.Status(code=refused.code.value[0], message=refused.message)
                    if refused.reason:
                        detail = error_details_pb2.ErrorInfo(reason=refused.reason, domain="googleapis.com")
                        status.details.add().Pack(detail)
                    context.abort_with_status(rpc_status.to_status(status))

        return guarded


def located(name: str) -> str:
    if not LOCATION.fullmatch(name):
        raise RefusedError(DENIED, f"Permission denied on resource {name} (or it may not exist).")
    return f"projects/{NUMBER}/locations/{REGION}"


def numbered(name: str) -> str:
    place, _, rest = name.partition(f"/locations/{REGION}/")
    return f"{located(f'{place}/locations/{REGION}')}/{rest}"


def of(name: str, kind: str) -> str:
    """The id of a resource of this kind, from its full name."""
    place, _, its_id = name.partition(f"/{kind}/")
    located(place)
    if not its_id or "/" in its_id:
        raise RefusedError(INVALID, f"Invalid resource name {name}.")
    return its_id


def found(kept: dict[str, Any], name: str) -> Any:
    if numbered(name) not in kept:
        raise RefusedError(MISSING, f"{name} does not exist.")
    return kept[numbered(name)]


def check_labels(labels: Any) -> None:
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
            raise RefusedError(INVALID, f"Invalid label {key}={value}.")
    if len(labels) > 64:
        raise RefusedError(INVALID, "Too many labels.")


def check_alias(alias: str) -> None:
    if not ALIAS.fullmatch(alias):
        raise RefusedError(INVALID, f"Invalid version alias {alias}.")


def packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(type(message).pb(message))
    return packed


def copy(operation: operations_pb2.Operation) -> operations_pb2.Operation:
    copy = operations_pb2.Operation()
    copy.CopyFrom(operation)
    return copy
