"""Scaling-law experiments, read left to right:

    spec  ->  plan  ->  train  ->  record  ->  fitting  ->  report
    a run     many      its        what we     the          what we
              runs      curve      saw         law          say
               ^                                |
               +---------- next runs <----------+

`data` says which token comes at which step, `cost` counts parameters and FLOPs, `launch` says where runs execute, and
`cli` asks. Only `scaling.train` imports JAX: planning, fitting and reporting work on a login node.

For a table of runs, ours or anybody's, two names are enough:

    runs = scaling.load_runs("runs.csv", params="n_params")
    found = scaling.fit(runs, "chinchilla")
    found.predict(n, d), found.optimum(flops), found.interval(n, d), found.to_json()
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.fitting.fit import fit
    from scaling.fitting.observe import load_runs

__all__ = ["fit", "load_runs"]


def __getattr__(name: str) -> Any:
    """`fit` and `load_runs` on first use, so that `import scaling` costs nothing."""
    if name == "fit":
        from scaling.fitting.fit import fit

        return fit
    if name == "load_runs":
        from scaling.fitting.observe import load_runs

        return load_runs
    raise AttributeError(f"module 'scaling' has no attribute {name!r}")
