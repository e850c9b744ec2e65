"""A model whose forward passes execute experts out of slots, as the policy decides at each router output."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from policies.needs import Need
from sim.assembly.replay import DeviceSetup
from sim.engine.decision.device import Device
from sim.execution.backend import make_backend
from sim.execution.executor import Executor, single_thread
from sim.execution.live_routing import check_live, live_spec
from sim.execution.load import RunQueue
from sim.execution.offloaded import HostTier, OneExpert, move_rest
from sim.execution.settings import RealSettings
from sim.live.router_output import Reads, Routed, StepArrays
from sim.live.weights import GateRule, replacement, substitutes
from sim.machine.parts import ATTENTION, EXPERT, HOST, SYNC
from traces.format.trace import Geometry, Trace
from traces.recording.measured_geometry import measure_geometry
from traces.recording.moe_layers import family_name
from traces.recording.tap import Routing, Tap

if TYPE_CHECKING:
    import torch


class OffloadedModel:
    """A model with its experts in slots while the ``with`` block lasts; call it as often as you like inside.

    Load the model on the CPU where the device cannot hold it: only what is no routed expert moves there.

    Raises: UserError for a model that cannot be hooked, or a policy that needs what is not known while generating.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        setup: DeviceSetup,
        settings: RealSettings,
        max_tokens: int = 1024,
        others: Trace | None = None,
    ) -> None:
        policy = setup.policy
        check_live(policy, setup.machine.hardware)
        self.model, self.settings, self.cache = model, settings, setup.cache
        self.tap = Tap(
            model,
            self._on_route,
            on_layer_end=self._on_layer_end if Need.LOOKAHEAD_AFTER in policy.needs() else None,
            lookahead=Need.LOOKAHEAD_BEFORE in policy.needs(),
        )
        self.layers = self.tap.layers
        self.geometry: Geometry = measure_geometry(model, self.layers, family_name(model))
        self.spec = live_spec(self.geometry, setup, max_tokens, others)
        self.reads = Reads.of(policy, recorded=True)
        self.gate = GateRule.of_layers(self.layers) if substitutes(policy) else GateRule.named(None)
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
        self.step: StepArrays | None = None
        self.routing: Routing | None = None
        self.routed: Routed | None = None
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
            layer.experts.forward = self._forward_of(layer.index)
        self.queues = RunQueue(threading.get_native_id(), self.executor.link.native_id or 0)
        return self

    def __exit__(self, *error: Any) -> None:
        for layer in self.layers:
            del layer.experts.forward
        self.tap.__exit__(*error)
        self.executor.__exit__(*error)
        self.tier.give_back()
        move_rest(self.model, self.layers, self.home)
        self.queues.close()

    def begin_step(self, num_tokens: int, phase: int, group: int) -> StepArrays:
        """The next forward pass has so many tokens."""
        if self.cache.resets:
            self.executor.enter_group(group)
        self.step = StepArrays(num_tokens, self.geometry, self.reads)
        self.executor.load(self.step.all(), phase, group)
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
        self.routing, self.routed = routing, Routed.of(routing, self.reads)
        self.step.fill(self.routed)
        clock.mark(HOST)

    def _on_layer_end(self, layer: int, logits: torch.Tensor) -> None:
        """The residual behind a layer is known, and with it what the next layer's gate says to it."""
        assert self.step is not None
        if self.ends_late:
            self.step.fill_ahead(layer, logits)
            self.device.arrays["lookahead"][0, : len(self.step.ids)] = self.step.lookahead[:, layer, 0]
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

        executor = self.executor
        plan = executor.begin(layer)
        ids, weights = self._executed()
        places = {e: np.nonzero((ids == e).T)[::-1] for e in (*plan.gpu_queue, *plan.cpu_queue)}
        on_host = hidden.cpu() if plan.cpu_queue else hidden

        def computed_by(module: OneExpert, states: torch.Tensor) -> Any:
            def compute(expert: int, parameters: tuple[torch.Tensor, ...]) -> torch.Tensor:
                tokens, ranks = places[expert]
                share = weights[tokens, ranks].to(states.device)
                with torch.no_grad():
                    return module(states[torch.from_numpy(tokens).to(states.device)], share, parameters)

            return compute

        executor.start_cpu(plan, computed_by(self.on_host[layer], on_host))
        outputs = executor.run(plan, computed_by(self.on_device[layer], hidden))
        final = torch.zeros_like(hidden)
        for expert in sorted(outputs):
            tokens = torch.from_numpy(places[expert][0]).to(hidden.device)
            final.index_add_(0, tokens, outputs[expert].to(hidden.device))
        executor.clock.mark(EXPERT)
        return final

    def _executed(self) -> tuple[NDArray[np.int32], torch.Tensor]:
        """What the policy lets run of the routed layer: ids [B, K] (DROPPED: none) and their weights [B, K]."""
        routing, routed = self.routing, self.routed
        assert routing is not None and routed is not None
        executed = self.device.arrays["executed_ids"][: len(routed.ids)]
        replaced = replacement(self.gate, routing, routed, executed, self.gate.best_scheme)
        weights = routing.topk_weights if replaced is None else replaced[1].to(routing.topk_weights.dtype)
        return routed.in_router_order(executed), weights.detach().cpu()
