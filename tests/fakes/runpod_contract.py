"""What RunPod's API, version 2, takes and gives: by its OpenAPI file where that is at hand, else as written here."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import parse_qs

import jsonschema
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

OPENAPI = Path(__file__).resolve().parents[3] / "shared/reference/runpod-v2-openapi.json"


class Contract(Protocol):
    def request_problems(self, method: str, path: str, query: str, body: Any) -> list[str]:
        """What is wrong with a request; `path` begins with /v2."""
        ...

    def answer_problems(self, method: str, path: str, status: int, body: Any) -> list[str]:
        """What is wrong with an answer that the fake is about to give."""
        ...


@functools.cache
def best_contract() -> Contract:
    return OpenApiContract(OPENAPI) if OPENAPI.is_file() else WrittenContract()


class OpenApiContract:
    """The service's own file."""

    def __init__(self, path: Path) -> None:
        self._document = json.loads(path.read_text())

    def request_problems(self, method: str, path: str, query: str, body: Any) -> list[str]:
        operation = self._operation(method, path)
        if operation is None:
            return [f"{method} {path} is no operation"]
        problems = self._query_problems(operation, query)
        if "requestBody" not in operation:
            return problems + ([] if body is None else ["$: no body is expected"])
        return problems + self._problems(operation["requestBody"]["content"]["application/json"]["schema"], body)

    def answer_problems(self, method: str, path: str, status: int, body: Any) -> list[str]:
        operation = self._operation(method, path)
        if operation is None:
            return []
        responses = operation["responses"]
        response = self._resolved(responses.get(str(status), responses["default"]))
        if "content" not in response:
            return [] if body is None else [f"{status} has no body"]
        (content,) = response["content"].values()
        return self._problems(content["schema"], body)

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        for template, operations in self._document["paths"].items():
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
                found: dict[str, Any] | None = operations.get(method.lower())
                return found
        return None

    def _query_problems(self, operation: dict[str, Any], query: str) -> list[str]:
        known = {each["name"]: each for each in map(self._resolved, operation.get("parameters", []))}
        problems = []
        for name, values in parse_qs(query, keep_blank_values=True).items():
            if name not in known or known[name]["in"] != "query":
                problems.append(f"query parameter {name!r} is unknown")
                continue
            schema = self._resolved(known[name]["schema"])
            kind = schema.get("type")
            value: Any = values[0].split(",") if kind == "array" else values[0]
            if kind in {"integer", "boolean"}:
                value = json.loads(value)
            problems += self._problems(schema, value)
        return problems

    def _resolved(self, part: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in part:
            found: Any = self._document
            for key in part["$ref"].removeprefix("#/").split("/"):
                found = found[key]
            part = found
        return part

    def _problems(self, schema: dict[str, Any], value: Any) -> list[str]:
        whole = {**schema, "components": self._document["components"]}
        validator = jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker())
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_NonEmpty = Annotated[str, Field(min_length=1)]
_Version = Annotated[str, Field(pattern=r"^\d+\.\d+$")]
_Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")]
_Cloud = Literal["SECURE", "COMMUNITY"]
_Level = Literal["NONE", "LOW", "MEDIUM", "HIGH"]


class _Gpu(_Strict):
    id: str
    count: Annotated[int, Field(ge=1)] = 1


class _WantedGpu(_Gpu):
    allowedCudaVersions: list[_Version] = []
    minCudaVersion: _Version = "12.1"


class _Cpu(_Strict):
    id: _NonEmpty
    vcpuCount: Annotated[int, Field(ge=2)]


class _PersistentMount(_Strict):
    size: Annotated[int, Field(ge=10)]
    path: str


class _NetworkMount(_Strict):
    volumeId: str
    path: str


class _Mounts(_Strict):
    persistent: _PersistentMount = _PersistentMount(size=10, path="")
    network: Annotated[list[_NetworkMount], Field(max_length=1)] = []


class _Container(_Strict):
    args: str = ""
    disk: Annotated[int, Field(ge=1)] = 1
    env: dict[str, str] = {}
    ports: list[str] = []
    registry: str | None = None


class _CreatePod(_Container):
    name: _NonEmpty
    image: str = ""
    cloud: _Cloud = "SECURE"
    cpu: _Cpu = _Cpu(id="cpu", vcpuCount=2)
    dataCenterIds: list[str] = []
    globalNetworking: bool = False
    gpu: _WantedGpu = _WantedGpu(id="gpu")
    mounts: _Mounts = _Mounts()
    startJupyter: bool = False
    startSsh: bool = False
    templateId: _NonEmpty = "none"

    @model_validator(mode="after")
    def _has_image(self) -> _CreatePod:
        if not self.model_fields_set & {"image", "templateId"}:
            raise ValueError("'image' is a required property")
        return self


class _Loose(BaseModel):
    # Answers may hold more than is promised.
    model_config = ConfigDict(strict=True)


class _Endpoint(_Loose):
    host: str
    port: int
    username: str
    command: str


class _Ssh(_Loose):
    proxy: _Endpoint | None
    direct: _Endpoint | None


class _Networking(_Loose):
    enabled: bool


class _Pod(_Loose):
    id: str
    name: str
    status: Literal["PROVISIONING", "STARTING", "RUNNING", "EXITED", "ERROR", "TERMINATED"]
    actions: list[Literal["start", "stop", "restart", "terminate"]]
    image: str
    args: str
    disk: Annotated[int, Field(ge=1)]
    mounts: _Mounts
    ports: list[str]
    env: dict[str, str]
    registry: str | None
    cloud: _Cloud
    dataCenterId: str | None
    cudaVersion: str | None
    ssh: _Ssh
    template: str | None
    cost: float
    locked: bool
    runtime: dict[str, Any] | None
    createdAt: _Time
    startedAt: _Time | None
    globalNetworking: _Networking


class _Pods(_Loose):
    pods: list[_Pod]


class _Prices(_Loose):
    secure: float
    community: float


class _Counts(_Loose):
    secure: int
    community: int


class _DataCenter(_Loose):
    id: str
    name: str
    availability: _Level


class _GpuType(_Loose):
    id: str
    name: str
    pool: str | None
    manufacturer: Literal["NVIDIA", "AMD", "UNKNOWN"]
    memory: int
    secure: bool
    community: bool
    price: _Prices
    maxCount: _Counts
    availability: _Level = "NONE"
    dataCenters: list[_DataCenter] = []


class _Gpus(_Loose):
    gpus: list[_GpuType]


class _Problem(_Loose):
    title: str
    status: int
    detail: str
    errors: list[str] = []


class _GpuQuery(_Strict):
    include: Literal["AVAILABILITY"] = "AVAILABILITY"
    product: Literal["POD", "CLUSTER", "SERVERLESS"] = "POD"
    count: Annotated[str, Field(pattern=r"^[1-9]\d*$")] = "1"
    cloud: _Cloud = "SECURE"
    countryCodes: Annotated[str, Field(pattern=r"^[A-Z]{2}(,[A-Z]{2})*$")] = "FR"
    cudaVersions: Annotated[str, Field(pattern=r"^\d+\.\d+(,\d+\.\d+)*$")] = "12.8"
    minCudaVersion: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")] = "12.1"


class _PodsQuery(_Strict):
    includeClusterPods: Literal["true", "false"] = "false"


class _NoQuery(_Strict):
    pass


_ONE_POD = r"/v2/pods/[^/]+"
_OPERATIONS: list[tuple[str, str, type[BaseModel], type[BaseModel] | None, int, type[BaseModel] | None]] = [
    ("GET", r"/v2/pods", _PodsQuery, None, 200, _Pods),
    ("POST", r"/v2/pods", _NoQuery, _CreatePod, 201, _Pod),
    ("GET", _ONE_POD, _NoQuery, None, 200, _Pod),
    ("DELETE", _ONE_POD, _NoQuery, None, 204, None),
    ("GET", r"/v2/catalog/gpus", _GpuQuery, None, 200, _Gpus),
]


class WrittenContract:
    """The part of it that is used here, by hand: no test depends on a file that may not be there."""

    def request_problems(self, method: str, path: str, query: str, body: Any) -> list[str]:
        for known, pattern, query_model, body_model, _, _ in _OPERATIONS:
            if known == method and re.fullmatch(pattern, path):
                asked = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
                problems = _model_problems(query_model, asked)
                if body_model is not None:
                    return problems + _model_problems(body_model, body)
                return problems + ([] if body is None else ["$: no body is expected"])
        return [f"{method} {path} is no operation"]

    def answer_problems(self, method: str, path: str, status: int, body: Any) -> list[str]:
        for known, pattern, _, _, success, model in _OPERATIONS:
            if known == method and re.fullmatch(pattern, path):
                if status != success:
                    return _model_problems(_Problem, body)
                if model is not None:
                    return _model_problems(model, body)
                return [] if body is None else [f"{status} has no body"]
        return []


def _model_problems(model: type[BaseModel], value: Any) -> list[str]:
    try:
        model.model_validate(value)
    except ValidationError as error:
        return [f"$.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return []
