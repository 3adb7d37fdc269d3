"""Known vulnerabilities of the packages installed in a folder: ``python .ci/audit.py pip-audit SITE_PACKAGES``.

Runs the pip-audit given. Exit status 1 where it finds any, or fails; 0 where there are none, and where its database
cannot be reached, which is then said in one line.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

UNREACHABLE = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|NameResolutionError|Max retries exceeded|Could not connect|ProxyError|"
    r"Network is unreachable|Temporary failure in name resolution"
)
# A mirror of the package index has no such database: then pip-audit says of each package that it is not there.
NOT_THERE = "could not be audited"


def audit(command: list[str]) -> tuple[int, str]:
    """Exit status, and what to say."""
    ended = subprocess.run([*command, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True)  # noqa: S603
    try:
        packages = json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        if UNREACHABLE.search(ended.stderr):
            return 0, "audit: skipped: the vulnerability database cannot be reached"
        return 1, f"audit: pip-audit failed\n{ended.stderr}"
    found = [(each, flaw) for each in packages for flaw in each.get("vulns", ())]
    looked_up = [each for each in packages if "vulns" in each]
    if found:
        lines = [f"  {each['name']} {each['version']}  {flaw['id']}  {_mended(flaw)}" for each, flaw in found]
        return 1, "\n".join([f"audit: {len(found)} known vulnerabilities", *lines])
    if not looked_up and all(NOT_THERE in each.get("skip_reason", "") for each in packages):
        return 0, "audit: skipped: the vulnerability database cannot be reached (it knows none of the packages)"
    unknown = len(packages) - len(looked_up)
    return 0, f"audit: {len(looked_up)} packages without known vulnerabilities, {unknown} not looked up"


def _mended(flaw: dict[str, list[str]]) -> str:
    return f"mended in {', '.join(flaw['fix_versions'])}" if flaw.get("fix_versions") else "not mended yet"


if __name__ == "__main__":
    status, said = audit([sys.argv[1], "--path", sys.argv[2]])
    print(said)
    sys.exit(status)
