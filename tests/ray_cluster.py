"""A two-node Ray cluster on this machine, one node of which is killed while it works; a program of its own.

Prints, as JSON, the table that the cluster made. Ray leaves processes, sockets and warnings behind, which are kept out
of the tests' own process.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from steadymr.executors import Executor

N_CELLS = 80  #: enough that the second node's worker, however slowly it starts, gets some of them
MEMORY_BYTES = 80_000_000  #: the least that Ray takes for its object store, about


def measure(shared: dict[str, int], cell: int) -> dict[str, int]:
    """A cell that takes a moment and says on which node it was computed, which is not part of the table."""
    import ray

    time.sleep(0.2)
    return {"cell": cell, "square": shared["offset"] + cell**2, "node": hash(ray.get_runtime_context().get_node_id())}


def tasks() -> list[tuple[dict[str, int], int]]:
    """Cells of two slices, each with something of its own to share."""
    halves = ({"offset": 100}, {"offset": 200})
    return [(halves[cell * 2 // N_CELLS], cell) for cell in range(N_CELLS)]


def expected() -> list[dict[str, int]]:
    """The table that one process makes."""
    return [{"cell": cell, "square": shared["offset"] + cell**2} for shared, cell in tasks()]


def main() -> None:
    """Start the cluster, kill its second node, print the table and how many nodes took part."""
    from ray.cluster_utils import Cluster

    from steadymr.executors import ray_cluster

    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **_node()})
    node = cluster.add_node(**_node())
    try:
        cluster.wait_for_nodes()
        with ray_cluster(cluster.address) as executor:
            found = _killing(executor, lambda: cluster.remove_node(node, allow_graceful=False))
    finally:
        cluster.shutdown()
    rows = [{key: row[key] for key in ("cell", "square")} for _, row in sorted(found.items())]
    json.dump({"rows": rows, "n_nodes": len({row["node"] for row in found.values()})}, sys.stdout)


def _node() -> dict[str, int]:
    """One small node. For ports that its agents choose Ray waits 15 s, too short on a busy machine: we choose them."""
    names = ("dashboard_agent_listen_port", "metrics_export_port", "metrics_agent_port", "runtime_env_agent_port")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return {"num_cpus": 1, "object_store_memory": MEMORY_BYTES, **dict(zip(names, ports, strict=True))}


def _killing(executor: Executor, kill: Callable[[], object]) -> dict[int, dict[str, int]]:
    """Kill once both nodes have made something, and so have something in hand."""
    found: dict[int, dict[str, int]] = {}
    nodes: set[int] = set()
    for number, row in executor.run(measure, tasks()):
        found[number] = row
        if len(nodes) == 1 and row["node"] not in nodes:
            kill()
        nodes.add(row["node"])
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
