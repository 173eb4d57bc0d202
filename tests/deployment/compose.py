"""Compose files as Docker Compose reads them: interpolated, then merged in order."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).parents[2] / "docker"
FILES = sorted(DOCKER.glob("**/*.yml"))

_VARIABLE = re.compile(r"\$(\$|\{(\w+)(?::([-?])([^}]*))?\})")


def load(*names: str, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the services of some files below `docker/`, the later over the earlier."""
    services: dict[str, Any] = {}
    for name in names:
        text = (DOCKER / name).read_text(encoding="utf-8")
        document = _interpolate(yaml.safe_load(text), variables or {})
        for service, new in document["services"].items():
            services[service] = _merge_service(services.get(service, {}), new)
    return services


def environment(example: str) -> dict[str, str]:
    """Return the variables that an `.env.example` sets."""
    lines = (DOCKER / example).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {key: value.strip("'") for key, value in pairs}


def mounts(service: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """Return a service's volumes: source and whether writable, by place inside."""
    volumes = [volume.split(":") for volume in service.get("volumes", [])]
    return {parts[1]: (parts[0], parts[2:] != ["ro"]) for parts in volumes}


def _interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        whole, name, operator, text = match.groups()
        if whole == "$":
            return "$"
        found = variables.get(name, "")
        if not found and operator == "?":
            raise KeyError(text)
        return found or (text if operator == "-" else "")

    return _VARIABLE.sub(replace, value)


def _merge_service(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = old | new
    for key in ("environment", "healthcheck", "build", "depends_on"):
        if key in old and key in new:
            merged[key] = old[key] | new[key]
    if "volumes" in old and "volumes" in new:  # one per place inside
        places = {v.split(":")[1]: v for v in [*old["volumes"], *new["volumes"]]}
        merged["volumes"] = list(places.values())
    return merged
