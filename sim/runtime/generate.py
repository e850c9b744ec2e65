"""A real model generates text while a policy moves its experts between the host and a few slots."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from sim.capacity import CacheConfig
from sim.config import RunConfig
from sim.engine.counters import ATTENTION, COUNTERS, EXPERT, HOST, PARTS, SYNC
from sim.engine.device import Device
from sim.hardware import Hardware
from sim.metrics import StepTable
from sim.replay import BlockResult, Replay, assemble
from sim.runtime.backend import make_backend
from sim.runtime.executor import Executor, single_thread
from sim.runtime.forced import StepRecord
from sim.runtime.live_routing import LiveRouting, LiveStep, check_live, live_spec
from sim.runtime.load import Load, RunQueue, Snapshot
from sim.runtime.offloaded import HostTier, OneExpert, move_rest
from sim.runtime.run import RealRun, thread_columns, undisturbed
from sim.runtime.settings import RealSettings
from traces.measured_geometry import measure_geometry
from traces.moe_layers import family_name
from traces.tap import Routing, Tap
from traces.trace import DECODE, PREFILL, Geometry, Trace

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What generating under a policy gave.

    ``run``: as of a forced run. ``tokens``: generated ones of each prompt. ``trace``: the routing that the model
    chose, in float32. ``replay``: the same policy on that trace, to be simulated. ``logits``: [n, V] of each request,
    for the last token of its prompt and every generated one that was fed back.
    """

    run: RealRun
    tokens: list[list[int]]
    trace: Trace
    replay: Replay
    logits: list[NDArray[np.float32]]


class OffloadedModel:
    """A model with its experts in slots while the ``with`` block lasts; call it as often as you like inside.

    Load the model on the CPU where the device cannot hold it: only what is no routed expert moves there.

    Raises: UserError for a model that cannot be hooked, or a policy that needs what is not known while generating.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        policy: Policy,
        hardware: Hardware,
        settings: RealSettings,
        cache: CacheConfig | None = None,
        max_tokens: int = 1024,
        seed: int = 0,
        others: Trace | None = None,
    ) -> None:
        check_live(policy, hardware)
        self.model, self.settings, self.cache = model, settings, cache or CacheConfig()
        self.tap = Tap(
            model,
            self._on_route,
            on_layer_end=self._on_layer_end if "lookahead_after" in policy.needs() else None,
            lookahead="lookahead_before" in policy.needs(),
        )
        self.layers = self.tap.layers
        self.geometry: Geometry = measure_geometry(model, self.layers, family_name(model))
        self.spec = live_spec(self.geometry, policy, hardware, self.cache, max_tokens, seed, others)
        self.routing = LiveRouting(self.geometry, policy)
        self.tier = HostTier(model, self.layers, pinned=settings.device == "cuda" and settings.pinned)
        self.executor = Executor(
            self.spec,
            lambda slots: make_backend(settings, self.tier.layout, self.tier.bytes, slots),
            range(len(self.layers) * self.geometry.num_experts),
        )
        self.home = next(model.parameters()).device
        self.ends_late = policy.prediction.available_at_end()
        self.on_device = [OneExpert(layer, self.tier.names) for layer in self.layers]
        self.on_host = [OneExpert(layer, self.tier.names) for layer in self.layers]
        self.step: LiveStep | None = None
        self.queues = RunQueue()

    @property
    def device(self) -> Device:
        return self.executor.device

    def __enter__(self) -> Self:
        single_thread()
        move_rest(self.model, self.layers, self.executor.backend.device)
        self.executor.__enter__()
        self.tap.__enter__()
        for layer in self.layers:
            layer.experts.forward = self._forward_of(layer.index)  # type: ignore[method-assign]
        self.queues = RunQueue(threading.get_native_id(), self.executor.link.native_id or 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer in self.layers:
            del layer.experts.forward
        self.tap.__exit__(kind, error, trace)
        self.executor.__exit__(kind, error, trace)
        self.tier.give_back()
        move_rest(self.model, self.layers, self.home)
        self.queues.close()

    def begin_step(self, num_tokens: int, phase: int, group: int) -> LiveStep:
        """The next forward pass has so many tokens."""
        if self.cache.reset == "request":
            self.executor.enter_group(group)
        self.step = self.routing.step(num_tokens)
        self.executor.load(self.step.arrays(), phase, group)
        self.executor.clock.start()
        return self.step

    def end_step(self) -> tuple[list[int], list[int]]:
        """The forward pass is over -> (ns of each part, ns of each layer)."""
        self.executor.clock.mark(ATTENTION)
        return self.executor.clock.finish()

    def _on_route(self, routing: Routing) -> None:
        """The router has chosen: what the policy may know of it goes into the step's arrays."""
        assert self.step is not None
        clock = self.executor.clock
        clock.mark(ATTENTION)
        self.executor.backend.readback()
        clock.mark(SYNC)
        self.step.put(routing)
        clock.mark(HOST)

    def _on_layer_end(self, layer: int, logits: torch.Tensor) -> None:
        """The residual behind a layer is known, and with it what the next layer's gate says to it."""
        assert self.step is not None
        if self.ends_late:
            self.step.put_after(layer, logits, self.device)
            self.executor.end()

    def _forward_of(self, layer: int) -> Any:
        def forward(hidden_states: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
            flat = hidden_states.reshape(-1, hidden_states.shape[-1])
            output = self._experts(layer, flat).reshape(hidden_states.shape)
            if not self.ends_late or layer == len(self.layers) - 1:
                self.executor.end()
            return output

        return forward

    def _experts(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """The routed experts of a layer on the tokens [T, H], as the policy lets them run."""
        import torch

        assert self.step is not None
        executor = self.executor
        plan = executor.begin(layer)
        ids, weights = self.step.executed(layer, self.device)
        places = {e: np.nonzero((ids == e).T)[::-1] for e in (*plan.gpu_queue, *plan.cpu_queue)}
        on_host = hidden.cpu() if plan.cpu_queue else hidden
        given = torch.from_numpy(weights).to(self.step.weight_type)

        def computed_by(one: OneExpert, states: torch.Tensor) -> Any:
            def compute(expert: int, parameters: tuple[torch.Tensor, ...]) -> torch.Tensor:
                tokens, ranks = places[expert]
                share = given[tokens, ranks].to(states.device)
                with torch.no_grad():
                    return one(states[torch.from_numpy(tokens).to(states.device)], share, parameters)

            return compute

        executor.start_cpu(plan, computed_by(self.on_host[layer], on_host))
        outputs = executor.run(plan, computed_by(self.on_device[layer], hidden))
        final = torch.zeros_like(hidden)
        for expert in sorted(outputs):
            tokens = torch.from_numpy(places[expert][0]).to(hidden.device)
            final.index_add_(0, tokens, outputs[expert].to(hidden.device))
        executor.clock.mark(EXPERT)
        return final


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    policy: Policy,
    hardware: Hardware,
    settings: RealSettings | None = None,
    cache: CacheConfig | None = None,
    seed: int = 0,
    others: Trace | None = None,
) -> LiveRun:
    """Let a model continue prompts (token ids) greedily, one after the other, its experts in slots.

    Of ``settings`` device and link count, the sizes are the model's. ``hardware``: the costs that rules reckon with.
    The last generated token of a prompt is not fed back.
    """
    settings = settings or RealSettings()
    longest = max((len(prompt) for prompt in prompts), default=0)
    live = OffloadedModel(model, policy, hardware, settings, cache, max(1, longest), seed, others)
    rows = _Rows()
    tokens, logits = [], []
    with undisturbed(), live:
        before = Snapshot.now()
        for number, prompt in enumerate(prompts):
            found, seen = _continue(live, prompt, max_new_tokens, number, rows)
            tokens.append(found)
            logits.append(seen)
        load = Load.between(before, Snapshot.now())
    return _collected(live, rows, tokens, logits, load, seed, others, hardware)


class _Rows:
    """Results of the steps so far."""

    def __init__(self) -> None:
        self.steps: list[LiveStep] = []
        self.records: list[StepRecord] = []
        self.parts_ns: list[list[int]] = []
        self.counts: list[NDArray[np.int64]] = []
        self.lost: list[NDArray[np.float64]] = []
        self.lengths: list[int] = []
        self.prompts: list[int] = []
        self.phases: list[int] = []


def _continue(
    live: OffloadedModel, prompt: Sequence[int], max_new_tokens: int, number: int, rows: _Rows
) -> tuple[list[int], NDArray[np.float32]]:
    import torch

    where = next(live.model.parameters()).device
    given, cache, found, seen = list(prompt), None, [], []
    rows.prompts.append(len(given))
    rows.lengths.append(0)
    with torch.no_grad():
        for step in range(max_new_tokens):
            ids, phase = torch.tensor([given], device=where), DECODE if step else PREFILL
            counts, lost, waited = live.device.counts.copy(), live.device.lost.copy(), live.queues.read()
            live_step = live.begin_step(len(given), phase, number)
            output = live.model(input_ids=ids, past_key_values=cache, use_cache=True)
            parts, layer_ns = live.end_step()
            after = live.queues.read()
            with live.executor.guard:
                rows.counts.append(live.device.counts - counts)
                rows.lost.append(live.device.lost - lost)
            run_queue = [None if None in pair else pair[1] - pair[0] for pair in zip(waited, after, strict=True)]  # type: ignore[operator]
            last = output.logits[0, -1].float()
            rows.steps.append(live_step)
            rows.parts_ns.append(parts)
            rows.records.append(StepRecord(len(rows.records), layer_ns, run_queue, float(last.double().sum())))
            rows.phases += [phase] * len(given)
            rows.lengths[-1] += len(given)
            cache, given = output.past_key_values, [int(last.argmax())]
            found.append(given[0])
            seen.append(last.cpu().numpy())
    return found, np.stack(seen)


def _collected(
    live: OffloadedModel,
    rows: _Rows,
    tokens: list[list[int]],
    logits: list[NDArray[np.float32]],
    load: Load,
    seed: int,
    others: Trace | None,
    hardware: Hardware,
) -> LiveRun:
    trace = live.routing.trace(rows.steps, rows.lengths, rows.prompts, rows.phases)
    replay = assemble(trace, live.spec.policy, hardware, live.geometry, live.cache, RunConfig(seed=seed), others=others)
    table = StepTable(replace(replay, engine=_Finished(live)))
    done = 0
    for block in replay.schedule.blocks():
        result, steps = BlockResult.empty(block), slice(done, done + len(block))
        result.parts_ns[:] = np.array(rows.parts_ns[steps], np.int64).reshape(-1, len(PARTS))
        result.latency_ns[:] = result.parts_ns.sum(axis=1)
        result.counts[:] = np.array(rows.counts[steps], np.int64).reshape(-1, len(COUNTERS))
        result.lost[:] = np.array(rows.lost[steps]).reshape(-1, 2)
        table.add(result)
        done += len(block)
    run = RealRun(
        policy=live.spec.policy.name,
        settings=live.settings,
        label=live.settings.label,
        columns=table.columns()
        | thread_columns(rows.records)
        | {"checksum": np.array([record.checksum for record in rows.records])},
        layer_ns=np.array([record.layer_ns for record in rows.records], np.int64),
        metrics=table.metrics(),
        copies=np.array(live.executor.link.copies, np.int64).reshape(-1, 5),
        load=load,
    )
    return LiveRun(run, tokens, trace, replay, logits)


class _Finished:
    """The engine of a run that is over: it only answers what was busy how long."""

    def __init__(self, live: OffloadedModel) -> None:
        self.device = live.device
        self.link_busy_ns = live.executor.link.busy_ns
        self.cpu_busy_ns = live.executor.cpu.busy_ns

    def replay(self, block: Any, data: Any) -> BlockResult:
        raise RuntimeError("this run is over")

    def take_log(self) -> NDArray[np.int64]:
        return np.empty((0, 5), np.int64)

    def stop_log(self) -> None:
        """Nothing is kept."""
