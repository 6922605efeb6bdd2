"""About how long runs take here: by the table that `scaling bench` measured on this machine, else by constants."""

import functools
import heapq
import statistics
from dataclasses import dataclass, field

import numpy as np

from scaling.cost import flops_per_token, marginal_flops, optimizer_flops
from scaling.machine import Shape, Speed, measured, stamp
from scaling.plan.plan import Plan, Planned
from scaling.spec import DataSpec, EvalSpec, OptimSpec, RunSpec

# Seconds on one core of the machine of benchmarks/README.md: least squares of the relative error over the clocks of the
# 80 runs in results/reference/quickstart, 0.75 to 1.35 of each (5 and 95 %). An evaluated token costs 0.43 of a trained
# one there. Orders a plan's runs and warns of a long night; other machines differ by small factors.
SECONDS_PER_TOKEN, SECONDS_PER_FLOP, SECONDS_PER_RUN, EVALUATION_SHARE = 5.8e-7, 1.26e-11, 0.7, 0.43

# Of a sweep beside its workers: starting the command, forecast, fits and page; `benchmarks/start_up.py` measures them.
BESIDE_SECONDS = 3.0

AT_HAND_SECONDS = 1.5  # that reading a program from the cache takes, about

# What a token costs in shapes that were not measured: so many seconds for each of `_work`, times one factor that puts
# the whole at this machine's level. The measured shapes move each of them, and these say what is left open.
PRIOR = np.array([1e-11, 1e-10, 1e-10, 2e-5])
PRIOR_WEIGHT = 0.01  # against a measured shape: a term that is 100 % off weighs as a time that is 10 % off


def seconds(planned: Planned) -> float:
    """About how long a run keeps its worker, evaluation included and compilation left out."""
    return estimator().seconds(planned)


def estimator(workers: int | None = None) -> "Estimator":
    """By this machine's table, of what was measured with as many workers or the next number; see `Estimator.source`."""
    return _estimator(stamp(), workers)


@functools.lru_cache(maxsize=4)
def _estimator(_: tuple | None, workers: int | None) -> "Estimator":
    entry, fault = measured()
    speeds = entry.speeds if entry else ()
    counts = {speed.workers for speed in speeds}
    nearest = min(counts, key=lambda count: (abs(count - (workers or count)), -count), default=0)
    return Estimator(
        speeds=tuple(speed for speed in speeds if speed.workers == nearest),
        start=entry.start if entry else 0.0,
        workers=nearest,
        fault=fault,
    )


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """Estimates from measured speeds; from the constants above where there are none."""

    speeds: tuple[Speed, ...]  # all of the same number of workers
    start: float  # seconds until a worker is ready
    workers: int  # side by side when it was measured
    fault: str = ""  # why the table could not be read
    _terms: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def seconds(self, planned: Planned) -> float:
        """Of a run on its worker: its own steps, its evaluation and what comes with any run; compilation left out."""
        run = planned.run
        steps = run.steps - (run.branch.step if run.branch else 0)
        trained, evaluated = steps * run.batch_tokens, run.eval.tokens if planned.role != "trunk" else 0
        if not self.speeds:
            per_token = SECONDS_PER_TOKEN + SECONDS_PER_FLOP * marginal_flops(run) / max(1, trained)
            return SECONDS_PER_RUN + (trained + EVALUATION_SHARE * evaluated) * per_token
        known = self.exact(run)
        if known:
            return known.per_run + trained * known.train + evaluated * known.evaluate
        rest = statistics.median(speed.per_run for speed in self.speeds)
        return rest + trained * self._per_token("train", run) + evaluated * self._per_token("evaluate", run)

    def exact(self, run: RunSpec) -> Speed | None:
        """What was measured of this very shape."""
        shape = Shape.of(run)
        return next((speed for speed in self.speeds if speed.shape == shape), None)

    def compile(self, run: RunSpec) -> tuple[float, float]:
        """Seconds with nothing in the cache, and with everything there."""
        known = self.exact(run)
        if not known and self.speeds:
            known = min(self.speeds, key=lambda speed: abs(speed.shape.model.n_layers - run.model.n_layers))
        return (known.compile_cold, known.compile_cached) if known else (0.0, 0.0)

    def wall(self, plan: Plan, workers: int) -> float:
        """Of `scaling run` from beginning to end, each shape compiled once for the machine.

        Plays the sweep through as the supervisor runs it (`launch.local`): fitted runs first, held-out ones when these
        are over, the longest chain first of all; a branch after its trunk.
        """
        waiting = list(plan.runs)
        families = {
            p.run.id: [p, *(b for b in waiting if b.run.branch and b.run.branch.trunk == p.run.id)] for p in waiting
        }
        each = {p.run.id: self.seconds(p) for p in waiting}
        chain = {run_id: sum(each[p.run.id] for p in family) for run_id, family in families.items()}
        leads = {run_id: {p.role for p in family} for run_id, family in families.items()}
        fitted = {p.run.id for p in waiting if p.role == "fitted"}
        held_back = {run_id for run_id, roles in leads.items() if "held_out" in roles}
        free = [(self.start, number) for number in range(workers)]
        heapq.heapify(free)
        over: dict[str, float] = {}  # run -> when it ends
        compiled: dict[Shape, float] = {}  # when a shape is in the cache
        knows: list[dict[Shape, None]] = [{} for _ in range(workers)]  # by worker, the last one last

        def begins(planned: Planned) -> float | None:
            """When it may start; None while that is not known."""
            needs = [planned.run.branch.trunk] if planned.run.branch and planned.run.branch.trunk in each else []
            needs += fitted if planned.run.id in held_back else []
            return max((over[run_id] for run_id in needs), default=0.0) if all(n in over for n in needs) else None

        while waiting:
            now, number = heapq.heappop(free)
            known = [(p, at) for p in waiting if (at := begins(p)) is not None]
            if not (ready := [p for p, at in known if at <= now]):
                heapq.heappush(free, (min(at for _, at in known), number))  # it idles until then
                continue
            last = next(reversed(knows[number]), None)
            planned = max(
                ready,
                key=lambda p: (
                    "fitted" in leads[p.run.id],
                    "held_out" in leads[p.run.id],
                    chain[p.run.id] + AT_HAND_SECONDS * (bool(last) and p.run.model == last.model),
                ),
            )
            waiting.remove(planned)
            shape = Shape.of(planned.run)
            if shape not in knows[number]:
                cold, cached = self.compile(planned.run)
                now = max(now, compiled.get(shape, 0.0)) + (cached if shape in compiled else cold)
                compiled.setdefault(shape, now)
            knows[number].pop(shape, None)
            knows[number][shape] = None
            over[planned.run.id] = now + each[planned.run.id]
            heapq.heappush(free, (over[planned.run.id], number))
        return BESIDE_SECONDS + max(over.values()) if over else 0.0

    def source(self, plan: Plan) -> str:
        """Where the estimate of this plan is from, in words."""
        if not self.speeds:
            return "by constants of another machine's CPU; `scaling bench EXPERIMENT` measures this one"
        days = sorted({speed.date for speed in self.speeds})
        missed = len({Shape.of(p.run) for p in plan.runs if not self.exact(p.run)})
        of = f"by this machine's table of {days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}"
        side = f", measured with {self.workers} worker{'s' * (self.workers > 1)}"
        return f"{of}{side}" + (f"; {missed} of its shapes by interpolation" if missed else "")

    def _per_token(self, what: str, run: RunSpec) -> float:
        """Seconds per token of a shape that was not measured: non-negative least squares of the relative errors."""
        if what not in self._terms:
            works = np.array([_work(speed.shape, what) for speed in self.speeds])
            self._terms[what] = _fit(works, np.array([getattr(speed, what) for speed in self.speeds]))
        return float(_work(Shape.of(run), what) @ self._terms[what])


def _work(shape: Shape, what: str) -> np.ndarray:
    """What a token asks of the machine: FLOPs of products, elementwise values, and its share of a step's own work,
    which is FLOPs of the optimizer and layers to be started."""
    model = shape.model
    elementwise = (
        model.n_layers * (8 * model.d_model + 2 * model.d_ff + model.n_heads * model.context) + model.vocab_size
    )
    flops = flops_per_token(model, "exact")
    if what == "evaluate":  # one forward pass of three, in large calls
        return np.array([flops / 3, elementwise / 3, 0.0, 0.0])
    tokens = shape.batch * model.context
    return np.array([flops, elementwise, optimizer_flops(_run_of(shape)) / tokens, (model.n_layers + 2) / tokens])


def _run_of(shape: Shape) -> RunSpec:
    optim = OptimSpec(name=shape.optimizer, peak_lr=1.0)  # type: ignore[arg-type]
    return RunSpec(
        model=shape.model, optim=optim, data=DataSpec(source=""), eval=EvalSpec(tokens=0), batch=shape.batch, steps=1
    )


def _fit(work_RxW: np.ndarray, seconds_R: np.ndarray) -> np.ndarray:
    """Seconds for each kind of work, none below zero."""
    from scipy.optimize import nnls

    level = float(np.median(seconds_R / (work_RxW @ PRIOR)))
    scaled_RxW = work_RxW * PRIOR * level / seconds_R[:, None]
    drawn = np.sqrt(PRIOR_WEIGHT) * np.eye(len(PRIOR))
    share_W, _ = nnls(np.vstack([scaled_RxW, drawn]), np.concatenate([np.ones(len(seconds_R)), drawn.sum(axis=0)]))
    return share_W * PRIOR * level
