"""The long-running operations of Vertex AI's stand-ins."""

from __future__ import annotations

from typing import Any

from google.longrunning import operations_pb2
from loopback.vertex_model_rules import MISSING, NUMBER, REGION, Method, RefusedError, copy, located, of, packed


class Operations:
    """Long-running operations; ``begin`` makes one."""

    def __init__(self) -> None:
        self.known: dict[str, operations_pb2.Operation] = {}

    @property
    def methods(self) -> dict[str, Method]:
        """What google.longrunning.Operations answers here."""
        return {
            "GetOperation": (operations_pb2.GetOperationRequest, operations_pb2.Operation, self._get),
            "ListOperations": (operations_pb2.ListOperationsRequest, operations_pb2.ListOperationsResponse, self._list),
        }

    def begin(self, parent: str, metadata: Any) -> operations_pb2.Operation:
        """An operation of this resource, under way."""
        operation = operations_pb2.Operation(name=f"{parent}/operations/{len(self.known) + 1}")
        operation.metadata.CopyFrom(packed(metadata))
        self.known[operation.name] = operation
        return operation

    def _get(self, request: operations_pb2.GetOperationRequest) -> operations_pb2.Operation:
        if request.name not in self.known:
            raise RefusedError(MISSING, f"The operation {request.name} does not exist.")
        return copy(self.known[request.name])

    def _list(self, request: operations_pb2.ListOperationsRequest) -> operations_pb2.ListOperationsResponse:
        located(request.name.partition("/models/")[0])
        parent = f"projects/{NUMBER}/locations/{REGION}/models/{of(request.name, 'models')}/"
        found = [copy(operation) for name, operation in self.known.items() if name.startswith(parent)]
        if not found:
            raise RefusedError(MISSING, f"{request.name} does not exist.")
        return operations_pb2.ListOperationsResponse(operations=found)
