"""Hostile inputs: how many of 40,000 end in an exception that is not the project's own.

Valid files, values and answers of models are damaged at random (``tests/support/hostile.py``) and given to every reader
and parser. ``read``: the input was still read, or its sample was skipped. ``refused``: an error of the project, in one
line. ``faults``: anything else. ``slowest`` is the processor time of one input. The memory is by how much the process
grew. The exit code is 1 if there is a fault.

Run with ``python tests/benchmarks/hostile.py [--inputs N] [--seed N] [--json] [TARGET ...]``.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from tests.support.hostile_runs import Outcome, feed, targets


def memory() -> float:
    """The largest size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="only those whose names contain this")
    parser.add_argument("--inputs", type=int, default=40_000, help="of all targets together (default: 40000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        known = targets(Path(folder))
        chosen = [name for name in known if not args.targets or any(part in name for part in args.targets)]
        before, outcomes = memory(), dict[str, Outcome]()
        for number, name in enumerate(chosen):
            share = range(args.inputs // len(chosen) + (number < args.inputs % len(chosen)))
            outcomes[name] = outcome = feed(known[name], name, args.seed, share)
            if not args.json:
                figures = f"{outcome.read:6} read {outcome.refused:6} refused {len(outcome.faults):4} faults"
                print(f"{name:36}{figures} {1000 * outcome.slowest:8.0f} ms slowest", flush=True)
                for fault in outcome.faults[:5]:
                    print(f"    {fault}")
    total = {
        "inputs": sum(outcome.inputs for outcome in outcomes.values()),
        "read": sum(outcome.read for outcome in outcomes.values()),
        "refused": sum(outcome.refused for outcome in outcomes.values()),
        "faults": sum(len(outcome.faults) for outcome in outcomes.values()),
        "seconds": round(sum(outcome.seconds for outcome in outcomes.values()), 1),
        "slowest": round(max(outcome.slowest for outcome in outcomes.values()), 3),
        "mebibytes": round(memory() - before),
    }
    print(json.dumps(total))
    return 1 if total["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
