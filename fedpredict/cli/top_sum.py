"""What `top` shows: rows for servers, models, shares, parties and stores, summed over everything that was read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedpredict.cli.top_read import Latencies, Window
from fedpredict.observe import metrics
from fedpredict.observe.metrics import Metric

Row = dict[str, object]
Key = tuple[str, ...]

_ANSWERED = frozenset({"ok", "partial"})


@dataclass(slots=True)
class _Calls:
    """Increases of one histogram of seconds, over a window."""

    per_s: float = 0.0
    failed_per_s: float = 0.0
    seconds: Latencies = field(default_factory=Latencies)

    @property
    def shown(self) -> Row:
        """How many a second, and their percentiles, in milliseconds."""
        return {
            "per_s": self.per_s,
            "p50_ms": _ms(self.seconds.quantile(0.5)),
            "p99_ms": _ms(self.seconds.quantile(0.99)),
            "failed_per_s": self.failed_per_s,
        }


def summed(windows: Sequence[Window]) -> dict[str, list[Row]]:
    """Return the rows of every table, by the table's name."""
    return {
        "servers": [_server(window) for window in windows],
        "models": _models(windows),
        "shares": _shares(windows),
        "parties": _parties(windows),
        "stores": [row for window in windows for row in _stores(window)],
    }


def _server(window: Window) -> Row:
    """Return one process: what it is and how it does; why it is away, where it is."""
    row: Row = {"url": window.now.url, "state": window.now.problem or "up"}
    if window.is_away:
        return row
    info: Mapping[str, str] = next((labels for labels, _ in window.values(metrics.BUILD_INFO.name)), {})
    of_role = metrics.REQUEST_SECONDS if info.get("role") == "initiator" else metrics.SCORE_SECONDS
    calls = _calls((window,), of_role).get((), _Calls())
    lag = _calls((window,), metrics.LOOP_LAG_SECONDS).get((), _Calls())
    return {
        **row,
        **{name: info.get(name, "") for name in ("role", "party", "worker", "version")},
        **calls.shown,
        "queue": _whole(window.value(metrics.QUEUE_REQUESTS.name)),
        "queue_rows": _whole(window.value(metrics.QUEUE_ROWS.name)),
        "in_flight": _whole(window.value(metrics.ROUNDS_IN_FLIGHT.name)),
        "connections": _whole(window.value(metrics.OPEN_CONNECTIONS.name)),
        "lag_p99_ms": _ms(lag.seconds.quantile(0.99)),
        "memory_bytes": _whole(window.value("process_resident_memory_bytes")),
        "lines_dropped": _whole(window.value(metrics.LOG_DROPPED.name)),
    }


def _models(windows: Sequence[Window]) -> list[Row]:
    key = ("model", "mode")
    requests = _calls(windows, metrics.REQUEST_SECONDS, *key)
    rows = _rates(windows, metrics.REQUEST_ROWS.name, *key)
    rounds = _rates(windows, f"{metrics.ROUND_SECONDS.name}_count", *key)
    carried = _rates(windows, f"{metrics.ROUND_REQUESTS.name}_sum", *key)
    in_rounds = _rates(windows, f"{metrics.ROUND_ROWS.name}_sum", *key)
    ready: dict[str, bool] = {}
    for window in windows:
        for labels, value in window.values(metrics.MODEL_READY.name):
            ready[labels["model"]] = ready.get(labels["model"], True) and bool(value)
    asked = {model for model, _ in requests}
    idle = [(model, "") for model in ready if model not in asked]
    shared = [each for each in rounds if each[0] == metrics.SEVERAL]
    return [
        {
            "model": model,
            "mode": mode,
            "ready": ready.get(model),
            **requests.get((model, mode), _Calls()).shown,
            "rows_per_s": rows.get((model, mode), 0.0),
            "rounds_per_s": rounds.get((model, mode), 0.0),
            "requests_a_round": _ratio(carried.get((model, mode)), rounds.get((model, mode))),
            "rows_a_round": _ratio(in_rounds.get((model, mode)), rounds.get((model, mode))),
        }
        for model, mode in sorted([*requests, *idle, *shared])
    ]


def _shares(windows: Sequence[Window]) -> list[Row]:
    key = ("caller", "model")
    calls = _calls(windows, metrics.SCORE_SECONDS, *key)
    rows = _rates(windows, metrics.SCORE_ROWS.name, *key)
    scored = {each[:2]: rate for each, rate in _rates(windows, metrics.SCORE_ROWS.name, *key, "status").items()
              if each[2] == "ok"}  # fmt: skip
    return [
        {
            "caller": caller,
            "model": model,
            **each.shown,
            "rows_per_s": rows.get((caller, model), 0.0),
            "scored": _ratio(scored.get((caller, model), 0.0), rows.get((caller, model))),
        }
        for (caller, model), each in sorted(calls.items())
    ]


def _parties(windows: Sequence[Window]) -> list[Row]:
    calls = _calls(windows, metrics.PARTY_SECONDS, "party")
    rows: dict[str, Row] = {}
    for window in windows:
        again = {labels["party"]: value for labels, value in window.values(metrics.PARTY_RECONNECTS.name)}
        links: dict[str, dict[str, int]] = {}
        for labels, number in window.values(metrics.PARTY_LINKS.name):
            links.setdefault(labels["party"], {})[labels["carrier"]] = int(number)
        for labels, connected in window.values(metrics.PARTY_CONNECTED.name):
            party = labels["party"]
            row = rows.setdefault(party, {"party": party, "state": "connected", "carrier": "", "links": 0})
            # of several initiators the one that sees the party worst is shown
            if not connected:
                row["state"] = "away"
            row["carrier"] = ", ".join(sorted(links.get(party, ()))) or row["carrier"]
            row["links"] = int(str(row["links"])) + sum(links.get(party, {}).values())
            row["reconnects"] = int(str(row.get("reconnects", 0))) + int(again.get(party, 0))
    names = sorted({party for (party,) in calls} | rows.keys())
    return [{**rows.get(name, {"party": name}), **calls.get((name,), _Calls()).shown} for name in names]


def _stores(window: Window) -> Iterable[Row]:
    party = next((labels["party"] for labels, _ in window.values(metrics.BUILD_INFO.name)), "")
    found = {
        name: {(labels["view"], labels["view_version"]): value for labels, value in window.values(metric.name)}
        for name, metric in (("age_s", metrics.STORE_AGE_SECONDS), ("rows", metrics.STORE_ROWS),
                             ("bytes", metrics.STORE_BYTES))
    }  # fmt: skip
    for view, version in sorted(found["age_s"]):
        yield {
            "party": party,
            "view": view,
            "view_version": version,
            "age_s": found["age_s"][view, version],
            "rows": _whole(found["rows"].get((view, version))),
            "bytes": _whole(found["bytes"].get((view, version))),
        }


def _calls(windows: Sequence[Window], metric: Metric, *key: str) -> dict[Key, _Calls]:
    """Return what a histogram of seconds counted, by the values of some labels; all outcomes together."""
    found: dict[Key, _Calls] = {}
    for window in windows:
        for labels, grown in window.grown(f"{metric.name}_bucket"):
            found.setdefault(tuple(labels[name] for name in key), _Calls()).seconds.add(labels["le"], grown)
        for labels, grown in window.grown(f"{metric.name}_count"):
            calls = found.setdefault(tuple(labels[name] for name in key), _Calls())
            calls.per_s += grown / window.seconds
            if labels.get("outcome", "ok") not in _ANSWERED:
                calls.failed_per_s += grown / window.seconds
    return found


def _rates(windows: Sequence[Window], name: str, *key: str) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for window in windows:
        for labels, grown in window.grown(name):
            values = tuple(labels[each] for each in key)
            found[values] = found.get(values, 0.0) + grown / window.seconds
    return found


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000.0
