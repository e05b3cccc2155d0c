"""``steerseg-backend fleet``: hosts and workers of a running server, what runs where, and how much they get done."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ml_backend.cli.backend_client import BackendClient
from ml_backend.cli.options import add_setting, backend_address, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    status = actions.add_parser("status", help="nodes, devices, what runs where, and throughput")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.add_argument("--backend-url", metavar="URL", help="where the server is; default: on this machine")
    for name in ("host", "port", "basic_auth_username"):
        add_setting(status, name)


def run(options: argparse.Namespace) -> int:
    """Print how the fleet stands.

    Returns:
        The exit status: 1 where the cluster is out of reach, or a node lacks workers that it should have.

    Raises:
        SteerSegError: The server cannot be reached.
    """
    settings = read_settings(options)
    report = BackendClient(backend_address(options, settings), settings).fleet()
    print(json.dumps(report, indent=2) if options.json else "\n".join(describe_fleet(report)))
    cluster = report["cluster"]
    amiss = cluster is not None and (
        cluster["state"] != "connected" or any(node["problem"] for node in cluster["nodes"])
    )
    return int(amiss)


def describe_fleet(report: dict[str, Any]) -> list[str]:
    """The server's report as lines."""
    lines = []
    cluster = report["cluster"]
    if cluster is not None:
        reason = f": {cluster['reason']}" if cluster["reason"] else ""
        lines.append(f"cluster {cluster['address']}: {cluster['state']}{reason}")
        for node in cluster["nodes"]:
            problem = f"  ! {node['problem']}" if node["problem"] else ""
            lines.append(
                f"  {node['host']:<20} {node['address']:<16} {node['gpus']} GPUs, {node['cpus']} cores, "
                f"{node['workers']} of {node['wanted']} workers{problem}"
            )
        lines.append("")
    lines.append(f"{'worker':<7} {'host':<20} {'device':<8} {'state':<8} {'done':>5} {'busy':>5}  works on")
    for one in report["workers"]:
        lines.append(
            f"{one['worker']:<7} {one['host'] or 'this server':<20} {one['device']:<8} {one['state']:<8} "
            f"{one['done']:>5} {one['busy']:>5.0%}  {_describe_job(one)}".rstrip()
        )
    if not report["workers"]:
        lines.append("(none)")
    waiting = ", ".join(f"{count} {priority}" for priority, count in report["waiting"].items())
    lines += ["", f"waiting: {waiting}", f"{report['per_minute']:g} jobs a minute, over the last ten minutes"]
    return lines


def _describe_job(worker: dict[str, Any]) -> str:
    job = worker["job"]
    if job is None:
        return f"! {worker['error']}" if worker["error"] else ""
    return f"{job['kind']}, {job['stage'] or 'begun'}, for {job['seconds']:.0f} s"
