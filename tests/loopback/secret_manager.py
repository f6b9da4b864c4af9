"""A Secret Manager on loopback: gRPC with the real messages, and the answers that the real one gives."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.cloud.secretmanager_v1 import AccessSecretVersionRequest, AccessSecretVersionResponse
from google.rpc import error_details_pb2, status_pb2
from google_crc32c import value as crc32c
from grpc_status import rpc_status

from tests.loopback.chaos import Interceptor, Weather

SERVICE = "google.cloud.secretmanager.v1.SecretManagerService"


@dataclass
class SecretManager:
    """What is kept, by ``projects/P/secrets/S``: versions from 1, None for one that is disabled."""

    secrets: dict[str, list[bytes | None]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    switched_on: bool = True
    away: int = 0  # how many requests find nobody
    damage: bool = False
    asked: list[str] = field(default_factory=list)

    def access(self, request: Any, context: grpc.ServicerContext) -> Any:
        """AccessSecretVersion."""
        self.asked.append(request.name)
        secret, _, version = request.name.partition("/versions/")
        if self.away:
            self.away -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "The service is currently unavailable.")
        if not self.switched_on:
            context.abort_with_status(rpc_status.to_status(switched_off(secret.split("/")[1])))
        if not version:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Resource ID is not a version.")
        if secret in self.denied:
            told = f"Permission 'secretmanager.versions.access' denied on resource '{secret}' (or it may not exist)."
            context.abort(grpc.StatusCode.PERMISSION_DENIED, told)
        if not self.secrets.get(secret):
            context.abort(grpc.StatusCode.NOT_FOUND, f"Secret [{secret}] not found or has no versions.")
        versions = self.secrets[secret]
        number = len(versions) if version == "latest" else int(version)
        if number > len(versions):
            context.abort(grpc.StatusCode.NOT_FOUND, f"Secret Version [{request.name}] not found.")
        data = versions[number - 1]
        if data is None:
            told = f"Secret Version [{secret}/versions/{number}] is in DISABLED state."
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, told)
        payload = {"data": data, "data_crc32c": crc32c(data) + self.damage}
        return AccessSecretVersionResponse(name=f"{secret}/versions/{number}", payload=payload)


def switched_off(project: str) -> status_pb2.Status:
    """What Google's front end answers for an API that a project has not switched on."""
    told = f"Secret Manager API has not been used in project {project} before or it is disabled."
    status = status_pb2.Status(code=grpc.StatusCode.PERMISSION_DENIED.value[0], message=told)
    info = error_details_pb2.ErrorInfo(reason="SERVICE_DISABLED", domain="googleapis.com")
    status.details.add().Pack(info)
    return status


@contextmanager
def serving(manager: SecretManager, weather: Weather | None = None) -> Iterator[dict[str, str]]:
    """Serve; yields the environment in which `mlapp.authenticate` finds it."""
    handler = grpc.unary_unary_rpc_method_handler(
        manager.access,
        request_deserializer=AccessSecretVersionRequest.deserialize,
        response_serializer=AccessSecretVersionResponse.serialize,
    )
    server = grpc.server(futures.ThreadPoolExecutor(2), interceptors=[Interceptor(weather)] if weather else [])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"AccessSecretVersion": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield {"MLAPP_SECRET_MANAGER_ENDPOINT": f"127.0.0.1:{port}"}
    finally:
        server.stop(None)
