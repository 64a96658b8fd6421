"""What schemathesis generates is aimed at the one model that the edge under test has, most of the time."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Name the model that there is."""
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(body["model"]) % 3:
        return {**body, "model": "m"}
    return body


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Name the model that there is."""
    if isinstance(path_parameters, dict) and len(str(path_parameters.get("model", ""))) % 3:
        return {**path_parameters, "model": "m"}
    return path_parameters
