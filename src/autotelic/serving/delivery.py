"""A server that always knows, and can show, which policy it answers with.

New weights are loaded in place, with nobody else talking to the server, and requests go on only when the proof holds.
A failed delivery leaves the gateway closed: nothing is answered until some policy is proved again. A server that dies
is started again with the policy that was proved last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from autotelic.core.errors import AutotelicError, DeliveryError, ServingError
from autotelic.core.hashing import sha256_of_weights
from autotelic.core.words import DeliveryRecord, PolicyFiles, Proof
from autotelic.serving.backends import LocalBackend, Unavailable
from autotelic.serving.canary import Rows, Tolerance, prove, server_logprobs
from autotelic.serving.config import ServingConfig
from autotelic.serving.gateway import Gateway
from autotelic.serving.server import MODEL_NAME, VLLMServer

__all__ = ["DeliveryKind", "PolicyServer"]

DeliveryKind = Literal["start", "train", "switch", "rollback", "recover"]

_RESTARTS = 3
_RESTART_WINDOW_SECONDS = 600.0
_CLOSED = "no policy is served: the server was not started. Call start with a policy first."


class PolicyServer:
    """The vLLM process, the gateway to it and the delivery of policies, as one object of one event loop.

    Args:
        config: how the server runs and what counts as proof.
        log: file that the server's output is appended to.
        on_record: called with every proved delivery, for the ledger.
        server: the process to own, if not vLLM as the config says.
    """

    def __init__(
        self,
        config: ServingConfig,
        *,
        log: Path,
        on_record: Callable[[DeliveryRecord], None] | None = None,
        server: VLLMServer | None = None,
    ) -> None:
        self.config = config
        self.on_record = on_record
        self.server = server if server is not None else VLLMServer(config, log)
        self._backend = self._connect()
        self.gateway = Gateway(self._backend, concurrency=config.max_num_seqs, recover=self.recover)
        self.gateway.block(_CLOSED)
        self._tolerance = Tolerance(max=config.proof_max, mean=config.proof_mean)
        self._proved: PolicyFiles | None = None
        self._hashes: dict[int, str] = {}
        self._held: PolicyFiles | None = None
        self._started = False
        self._recovery = asyncio.Lock()
        self._restarts: list[float] = []

    @property
    def policy(self) -> int | None:
        """Number of the policy that is proved and served, `None` if there is none."""
        return self.gateway.policy

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped; a server that died in between is brought back by the next request."""
        return self._started

    async def start(self, policy: PolicyFiles) -> DeliveryRecord:
        """Start vLLM on these weights and prove that it answers with them. Takes about 20 seconds on two cores.

        Raises:
            ServingError: the server did not start; the message ends with its log.
            DeliveryError: the weights are not the policy's.
        """
        return await self.deliver(policy, kind="start")

    async def deliver(
        self, policy: PolicyFiles, *, kind: DeliveryKind = "switch", finished_at: float | None = None
    ) -> DeliveryRecord:
        """Load `policy` in place and prove it; if it is the one being served, only prove it again.

        Waits for requests in flight and holds back new ones. A server whose weights are not known, because a load was
        cut off or not proved, is started anew.

        Args:
            policy: what to serve.
            kind: why, for the record.
            finished_at: Unix time at which training ended: the record's seconds count from there.

        Raises:
            DeliveryError: the proof failed, or the number belongs to other weights. The gateway refuses all requests
                until a later delivery is proved.
            ServingError: the server died and could not be brought back.
        """
        begun = finished_at if finished_at is not None else time.time()
        async with self.gateway.writing(), self._recovery:
            previous, self._proved = self._proved, None
            try:
                self._claim(policy)
                proof = await self._load(policy)
            except BaseException as error:
                what = str(error) if isinstance(error, AutotelicError) else f"The delivery was cut off ({error!r})."
                self.gateway.block(f"policy-{policy.number} was not delivered, so no policy is served. {what}")
                raise
            return self._accept(policy, previous, kind, begun, proof)

    async def recover(self) -> None:
        """Bring the server back with the policy that was proved last, if it is dead. Does nothing if it is well.

        Raises:
            ServingError: it died too often, or could not be started; the gateway then refuses all requests.
        """
        async with self._recovery:
            policy = self._proved
            if policy is None or await self.server.healthy():
                return
            begun = time.time()
            try:
                proof = await self._restart(policy)
            except BaseException as error:
                self._proved = None
                self.gateway.block(f"the model server died and could not be brought back. {error}")
                raise
            self._accept(policy, policy, "recover", begun, proof)

    async def stop(self) -> None:
        """Stop the server and refuse requests from now on."""
        self.gateway.block(_CLOSED)
        self._proved, self._held, self._started = None, None, False
        await self.server.stop()
        await self._backend.aclose()

    def _claim(self, policy: PolicyFiles) -> None:
        known = self._hashes.setdefault(policy.number, policy.sha256)
        if known != policy.sha256:
            raise DeliveryError(
                f"policy-{policy.number} was delivered with the weights {known[:16]} and now comes with "
                f"{policy.sha256[:16]}. A policy's number is never given to other weights: give the new ones the next."
            )

    async def _load(self, policy: PolicyFiles) -> Proof:
        """Get the weights into the server by the shortest way that can be proved."""
        held = self._held
        if held is None:
            return await self._boot(policy)
        try:
            if held.number == policy.number:
                self._held = None
                return prove(policy, await self._ask(policy), None, self._tolerance)
            return await self._swap(policy)
        except DeliveryError:
            raise
        except (Unavailable, ServingError) as error:
            self._held = None
            if await self.server.healthy():
                raise _undelivered(policy, error) from error
            return await self._restart(policy)

    async def _swap(self, policy: PolicyFiles) -> Proof:
        """Replace the weights of the running server."""
        before, _ = await asyncio.gather(self._ask(policy), _check_hash(policy))
        post, self._held = self._backend.post, None
        await post("/pause", mode="wait")
        try:
            await post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": policy.path}})
            dropped = await post("/reset_prefix_cache")
        finally:
            await post("/resume")
        if not dropped["success"]:
            raise DeliveryError(f"policy-{policy.number} is not proved: the old policy's prefix cache was not dropped.")
        return prove(policy, await self._ask(policy), before, self._tolerance)

    async def _restart(self, policy: PolicyFiles) -> Proof:
        """Start the process anew because it died, a bounded number of times."""
        now = time.monotonic()
        self._restarts = [then for then in self._restarts if now - then < _RESTART_WINDOW_SECONDS]
        if len(self._restarts) >= _RESTARTS:
            raise ServingError(
                f"the model server died {_RESTARTS + 1} times in {_RESTART_WINDOW_SECONDS / 60:.0f} minutes. "
                f"Its log is {self.server.log}; the last lines:\n{self.server.log_tail()}"
            )
        self._restarts.append(now)
        return await self._boot(policy)

    async def _boot(self, policy: PolicyFiles) -> Proof:
        """Start the process on the policy's weights."""
        self._started, self._held = True, None
        await self.server.stop()
        await self._backend.aclose()
        await _check_hash(policy)
        await self.server.start(Path(policy.path))
        self._backend = self.gateway.backend = self._connect()
        try:
            return prove(policy, await self._ask(policy), None, self._tolerance)
        except Unavailable as error:
            raise _undelivered(policy, error) from error

    def _connect(self) -> LocalBackend:
        server = self.server
        return LocalBackend(server.url, server.headers, MODEL_NAME, timeout=self.config.request_seconds)

    async def _ask(self, policy: PolicyFiles) -> Rows:
        return await server_logprobs(self._backend, MODEL_NAME, policy.canary.token_ids)

    def _accept(
        self, policy: PolicyFiles, previous: PolicyFiles | None, kind: DeliveryKind, begun: float, proof: Proof
    ) -> DeliveryRecord:
        self._proved = self._held = policy
        self.gateway.unblock(policy.number)
        record = DeliveryRecord(
            policy=policy.number,
            previous=previous.number if previous is not None else None,
            kind=kind,
            seconds=max(0.0, time.time() - begun),
            proof=proof,
        )
        if self.on_record is not None:
            self.on_record(record)
        return record


async def _check_hash(policy: PolicyFiles) -> None:
    found = await asyncio.to_thread(sha256_of_weights, policy.path)
    if found != policy.sha256:
        raise DeliveryError(
            f"policy-{policy.number} is not delivered: its weights in {policy.path} hash to {found[:16]}, its card "
            f"says {policy.sha256[:16]}. It was changed after it was made; train again or roll back to the champion."
        )


def _undelivered(policy: PolicyFiles, error: Exception) -> DeliveryError:
    return DeliveryError(
        f"policy-{policy.number} was not delivered: {error} Look at the server's log; the next delivery starts it anew."
    )
