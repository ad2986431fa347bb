"""The manifests for Kubernetes against the parts of its API that they use; nothing here asks a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[3] / "deployments" / "kubernetes"
QUANTITY = {"type": "string", "pattern": "^[0-9]+(m|Mi|Gi)?$"}
RESOURCES = {
    "type": "object",
    "required": ["requests", "limits"],
    "properties": {
        name: {
            "type": "object",
            "required": ["cpu", "memory"],
            "additionalProperties": False,
            "properties": {"cpu": QUANTITY, "memory": QUANTITY},
        }
        for name in ("requests", "limits")
    },
    "additionalProperties": False,
}
PROBE = {
    "type": "object",
    "properties": {
        "httpGet": {"type": "object", "required": ["path", "port"]},
        "tcpSocket": {"type": "object", "required": ["port"]},
        "initialDelaySeconds": {"type": "integer"},
        "periodSeconds": {"type": "integer"},
    },
    "additionalProperties": False,
}
CONTAINER = {
    "type": "object",
    "required": ["name", "image", "args", "resources", "securityContext"],
    "properties": {
        "name": {"type": "string"},
        "image": {"type": "string", "pattern": "^[a-z0-9./-]+:[A-Za-z0-9._-]+$", "not": {"pattern": ":latest$"}},
        "args": {"type": "array", "items": {"type": "string"}},
        "env": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "value"],
                "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
                "additionalProperties": False,
            },
        },
        "ports": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "containerPort"],
                "properties": {
                    "name": {"type": "string", "maxLength": 15},
                    "containerPort": {"type": "integer"},
                    "protocol": {"enum": ["TCP"]},
                },
                "additionalProperties": False,
            },
        },
        "readinessProbe": PROBE,
        "livenessProbe": PROBE,
        "resources": RESOURCES,
        "securityContext": {
            "type": "object",
            "required": ["allowPrivilegeEscalation", "capabilities"],
            "properties": {
                "allowPrivilegeEscalation": {"const": False},
                "readOnlyRootFilesystem": {"type": "boolean"},
                "capabilities": {"const": {"drop": ["ALL"]}},
            },
            "additionalProperties": False,
        },
        "volumeMounts": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "mountPath"],
                "properties": {"name": {"type": "string"}, "mountPath": {"type": "string", "pattern": "^/"}},
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
POD = {
    "type": "object",
    "required": ["containers", "securityContext"],
    "properties": {
        "containers": {"type": "array", "minItems": 1, "items": CONTAINER},
        "serviceAccountName": {"type": "string"},
        "automountServiceAccountToken": {"type": "boolean"},
        "securityContext": {
            "type": "object",
            "required": ["runAsNonRoot", "runAsUser", "seccompProfile"],
            "properties": {"runAsNonRoot": {"const": True}},
        },
        "terminationGracePeriodSeconds": {"type": "integer"},
        "volumes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "emptyDir"],
                "properties": {"name": {"type": "string"}, "emptyDir": {"type": "object"}},
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
DASK = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "kubernetes.dask.org/v1"},
        "kind": {"const": "DaskCluster"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["worker", "scheduler"],
            "properties": {
                "worker": {
                    "type": "object",
                    "required": ["replicas", "spec"],
                    "properties": {"replicas": {"type": "integer", "minimum": 1}, "spec": POD},
                    "additionalProperties": False,
                },
                "scheduler": {
                    "type": "object",
                    "required": ["spec", "service"],
                    "properties": {
                        "spec": POD,
                        "service": {
                            "type": "object",
                            "required": ["type", "selector", "ports"],
                            "properties": {"type": {"const": "ClusterIP"}},
                        },
                    },
                    "additionalProperties": False,
                },
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text("utf-8")))


def check_pod(pod: dict[str, Any]) -> None:
    jsonschema.validate(pod, POD)
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod["containers"]:
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("readinessProbe", "livenessProbe"):
            target = container.get(probe, {})
            port = (target.get("tcpSocket") or target.get("httpGet") or {}).get("port")
            assert port is None or port in ports


def test_the_dask_cluster_is_complete_and_its_service_finds_its_scheduler() -> None:
    (cluster,) = documents("dask-cluster.yaml")
    jsonschema.validate(cluster, DASK)
    worker, scheduler = cluster["spec"]["worker"], cluster["spec"]["scheduler"]
    check_pod(worker["spec"])
    check_pod(scheduler["spec"])
    assert worker["spec"]["containers"][0]["image"] == scheduler["spec"]["containers"][0]["image"]
    assert scheduler["service"]["selector"]["dask.org/cluster-name"] == cluster["metadata"]["name"]
    named = {port["name"] for port in scheduler["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in scheduler["service"]["ports"]} == named


def test_a_dask_worker_trains_one_model_at_a_time() -> None:
    (cluster,) = documents("dask-cluster.yaml")
    args = cluster["spec"]["worker"]["spec"]["containers"][0]["args"]
    assert args[args.index("--nthreads") + 1] == "1"


def test_the_prefect_worker_may_do_what_it_must_and_no_more() -> None:
    account, role, binding, deployment = documents("prefect-worker.yaml")
    assert [item["kind"] for item in (account, role, binding, deployment)] == [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "Deployment",
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == account["metadata"]["name"]
    template = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert template["spec"]["serviceAccountName"] == account["metadata"]["name"]
    check_pod(template["spec"])
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert ("jobs", "create") in granted
    assert not any(resource == "secrets" or verb == "*" for resource, verb in granted)


@pytest.mark.parametrize("name", ["dask-cluster.yaml", "prefect-worker.yaml"])
def test_no_manifest_holds_a_secret(name: str) -> None:
    text = (FOLDER / name).read_text("utf-8").lower()
    assert not any(word in text for word in ("password:", "api_key", "aws_secret"))
