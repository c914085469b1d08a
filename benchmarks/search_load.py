"""Loads a running search server with wrk over loopback: `python -m benchmarks.search_load --url http://127.0.0.1:8000`.

Prints requests a second, p50 and p99 milliseconds, and answers other than 200 as JSON. Needs Debian's package wrk.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

QUERIES = (
    "a red square above a blue circle",
    "two yellow stars",
    "a green ring",
    "in the top right is a purple heart",
    "a large orange cross and a tiny white triangle on a striped background",
)
_SCRIPT = """
local queries = {%s}
local count = 0
request = function()
  count = count + 1
  return wrk.format("GET", "/api/search?k=%d&rerank=%s&q=" .. queries[count %% #queries + 1])
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %%d %%f %%f %%f %%d %%d\\n", summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
"""


def main() -> int:
    """Runs wrk and prints what it measured; exit status 1 if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--connections", type=int, default=8, help="requests under way at once")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rerank", default="100")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        print("error: wrk is not installed (apt-get install wrk)", file=sys.stderr)
        return 1
    quoted = ", ".join(json.dumps(query.replace(" ", "%20")) for query in QUERIES)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "requests.lua"
        script.write_text(_SCRIPT % (quoted, options.k, options.rerank))
        command = ["wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}s", "-s", str(script), options.url]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^RESULT (.+)$", run.stdout, re.MULTILINE)
    if run.returncode or not found:
        print(f"error: wrk failed: {(run.stderr or run.stdout).strip()}", file=sys.stderr)
        return 1
    requests, seconds, p50, p99, refused, broken = (float(value) for value in found[1].split())
    print(
        json.dumps(
            {
                "requests": int(requests),
                "requests_per_second": round(requests / seconds, 1),
                "p50_ms": round(p50, 2),
                "p99_ms": round(p99, 2),
                "answers_other_than_200": int(refused),
                "connections_broken": int(broken),
                "connections": options.connections,
                "rerank": options.rerank,
            },
            indent=2,
        )
    )
    return 1 if refused or broken or not requests else 0


if __name__ == "__main__":
    sys.exit(main())
