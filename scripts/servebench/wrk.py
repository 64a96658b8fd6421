"""Loading an HTTP server with wrk, every answer checked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

SCRIPT = """
local counter, threads = 0, {}
local requests, must, never = {}, {}, {}
bad, first_bad = 0, ""

function setup(thread)
  thread:set("id", counter)
  table.insert(threads, thread)
  counter = counter + 1
end

function init(args)
  for part in args[2]:gmatch("[^|]+") do must[#must + 1] = part end
  for part in args[3]:gmatch("[^|]+") do never[#never + 1] = part end
  local data = io.open(args[1], "rb"):read("*a")
  local at = 1
  for line in io.lines(args[1] .. ".index") do
    requests[#requests + 1] = data:sub(at, at + tonumber(line) - 1)
    at = at + tonumber(line)
  end
  next_request = id * 7919 % #requests
end

function request()
  next_request = next_request % #requests + 1
  return requests[next_request]
end

function response(status, headers, body)
  local wrong = status ~= 200
  for _, part in ipairs(must) do wrong = wrong or not body:find(part, 1, true) end
  for _, part in ipairs(never) do wrong = wrong or body:find(part, 1, true) end
  if wrong then
    bad = bad + 1
    if first_bad == "" then first_bad = status .. " " .. body:sub(1, 200):gsub('[%c"\\\\]', " ") end
  end
end

function done(summary, latency, per_request)
  local wrong, what = 0, ""
  for _, thread in ipairs(threads) do
    wrong = wrong + thread:get("bad")
    what = thread:get("first_bad")
  end
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests":%d,"duration_us":%d,"p50_us":%f,"p99_us":%f,"bad":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"what":"%s"}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), wrong,
    errors.connect, errors.read, errors.write, errors.timeout, what))
end
"""


@dataclass(frozen=True)
class Measured:
    """What one run of a load generator says."""

    per_s: float
    p50_ms: float
    p99_ms: float
    non_ok: int
    what: str = ""


def write_requests(path: Path, url: str, bodies: Sequence[bytes], headers: Mapping[str, str] | None = None) -> Path:
    """Write whole HTTP requests, one after the other, and their lengths beside them."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = {"Host": parts.netloc, "Content-Type": "application/json", **(headers or {})}
    head = f"POST {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
    path.write_bytes(b"".join(requests))
    Path(f"{path}.index").write_text("".join(f"{len(request)}\n" for request in requests))
    return path


def run_wrk(url: str, requests: Path, *, connections: int, seconds: float, must: str = "", never: str = "") -> Measured:
    """Load a server with requests in turn, every answer checked.

    Args:
        url: The server's.
        requests: From `write_requests`.
        connections: How many, each with one request under way.
        seconds: How long; at least 1, whole seconds.
        must: What stands in a good answer, besides status 200; parts stand between bars.
        never: What does not.
    """
    script = requests.with_suffix(".lua")
    script.write_text(SCRIPT)
    words = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
        url,
    ]
    done = subprocess.run(
        [*words, "--", str(requests), must, never], capture_output=True, text=True, check=False, timeout=seconds + 60
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"wrk failed: {done.stdout[-500:]} {done.stderr[-500:]}")
    found = json.loads(lines[-1])
    seconds_taken = found["duration_us"] / 1e6
    failed = found["bad"] + found["connect"] + found["read"] + found["write"] + found["timeout"]
    return Measured(
        per_s=(found["requests"] - found["bad"]) / seconds_taken,
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        non_ok=failed,
        what=found["what"],
    )
