"""A server that always knows, and can show, which policy it answers with.

New weights are loaded in place, with nobody else talking to the server, and requests go on only when the proof holds.
A failed delivery leaves the gateway closed: nothing is answered until some policy is proved again. A server that dies
is started again with the policy that was proved last.

A policy that cannot be told from the one before cannot be proved in place. One that was just trained is refused as
`Indistinguishable`, and what was served before can be served again; any other (the champion, after such a policy) is
proved by a fresh process that can hold nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from autotelic.core.errors import AutotelicError, DeliveryError, ServingError
from autotelic.core.hashing import sha256_of_weights
from autotelic.core.words import DeliveryRecord, PolicyFiles, Proof
from autotelic.serving._weights import same_weights
from autotelic.serving.backends import LocalBackend, Unavailable
from autotelic.serving.canary import Indistinguishable, Rows, TokenIds, Tolerance, difference, prove, server_logprobs
from autotelic.serving.config import ServingConfig
from autotelic.serving.gateway import Gateway
from autotelic.serving.model import control_tokens
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
        self._foreseen: tuple[TokenIds, Rows] | None = None
        self._started = False
        self._recovery = asyncio.Lock()
        self._recovering: asyncio.Task[None] | None = None
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
        """Start vLLM on these weights and prove that it answers with them. Takes 17 seconds on two cores.

        Raises:
            ServingError: the server did not start; the message ends with its log.
            DeliveryError: the weights are not the policy's.
        """
        return await self.deliver(policy, kind="start")

    async def foresee(self, token_ids: TokenIds) -> None:
        """Ask now for what the next delivery's proof compares with: what the server says before the load.

        Waits for requests in flight and holds back new ones. If the server does not answer, the delivery asks again.

        Args:
            token_ids: of the canary of the policy to come, see `Canary`.
        """
        async with self.gateway.writing(), self._recovery:
            if self._held is not None:
                with suppress(Unavailable, ServingError):
                    self._foreseen = token_ids, await server_logprobs(self._backend, MODEL_NAME, token_ids)

    async def deliver(
        self, policy: PolicyFiles, *, kind: DeliveryKind = "switch", finished_at: float | None = None
    ) -> DeliveryRecord:
        """Load `policy` in place and prove it; if it is the one being served, only prove it again.

        Waits for requests in flight and holds back new ones. A server whose weights are not known, because a load was
        cut off or not proved, is started anew.

        Args:
            policy: what to serve.
            kind: why, for the record. `train` says that a policy equal to the one before is news.
            finished_at: Unix time at which training ended: the record's seconds count from there.

        Raises:
            Indistinguishable: `kind` is `train` and the policy cannot be told from the one before. Deliver that one.
            DeliveryError: the proof failed, or the number belongs to other weights. The gateway refuses all requests
                until a later delivery is proved, also in the case above.
            ServingError: the server died and could not be brought back.
        """
        begun = finished_at if finished_at is not None else time.time()
        async with self.gateway.writing(), self._recovery:
            previous, self._proved = self._proved, None
            try:
                self._claim(policy)
                proof = await self._load(policy, kind)
            except BaseException as error:
                what = str(error) if isinstance(error, AutotelicError) else f"The delivery was cut off ({error!r})."
                self.gateway.block(f"policy-{policy.number} was not delivered, so no policy is served. {what}")
                raise
            return self._accept(policy, previous, kind, begun, proof)

    async def recover(self) -> None:
        """Bring the server back with the policy that was proved last, if it is dead. Does nothing if it is well.

        Whoever else waits for the server waits for the same recovery, which goes on when one of them gives up.

        Raises:
            ServingError: it died too often, or could not be started; the gateway then refuses all requests.
        """
        if self._recovering is None or self._recovering.done():
            self._recovering = asyncio.create_task(self._recover())
        await asyncio.shield(self._recovering)

    async def _recover(self) -> None:
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
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.gather(self._recovering, return_exceptions=True)
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

    async def _load(self, policy: PolicyFiles, kind: DeliveryKind) -> Proof:
        """Get the weights into the server by the shortest way that can be proved."""
        held = self._held
        if held is None:
            return await self._boot(policy)
        try:
            if held.number == policy.number:
                self._held = None
                return prove(policy, await self._ask(policy), None, self._tolerance)
            return await self._swap(policy, held)
        except Indistinguishable:
            if kind == "train":
                raise
            return await self._boot(policy)
        except DeliveryError:
            raise
        except (Unavailable, ServingError) as error:
            self._held = None
            if await self.server.healthy():
                raise _undelivered(policy, error) from error
            return await self._restart(policy)

    async def _swap(self, policy: PolicyFiles, held: PolicyFiles) -> Proof:
        """Replace the weights of the running server, which holds those of `held`."""
        same = asyncio.to_thread(same_weights, Path(policy.path), Path(held.path))
        before, equal = await asyncio.gather(self._ask_before(policy), same)
        if equal or policy.sha256 == held.sha256:
            raise Indistinguishable(
                f"policy-{policy.number} has the very weights of policy-{held.number}: nothing was learned. "
                "Go on with that one, or train for longer or with a higher learning rate."
            )
        # Beside the load, which computes on one core: both read the same pages, and the gateway is closed.
        served, checked = await asyncio.gather(
            self._replace(policy, policy), _check_hash(policy), return_exceptions=True
        )
        if isinstance(checked, BaseException):
            await self._put_back(policy, held, before)
            raise checked
        if isinstance(served, BaseException):
            raise served
        try:
            return prove(policy, served, before, self._tolerance)
        except Indistinguishable:
            if difference(served, before)[1] < self._tolerance.change:
                await self._judge_the_load(policy, before)
            else:
                await self._put_back(policy, held, before)
            raise

    async def _ask_before(self, policy: PolicyFiles) -> Rows:
        """Return what the server says to the canary of `policy` with the weights that it has held for a while."""
        if self._foreseen is not None and self._foreseen[0] == policy.canary.token_ids:
            return self._foreseen[1]
        return await self._ask(policy)

    async def _replace(self, weights: PolicyFiles, asked: PolicyFiles) -> Rows:
        """Load `weights` in place and return what the server then says to the canary of `asked`."""
        post, self._held, self._foreseen = self._backend.post, None, None
        await post("/pause", mode="wait")
        try:
            await post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": weights.path}})
            dropped = await post("/reset_prefix_cache")
        finally:
            await post("/resume")
        if not dropped["success"]:
            raise DeliveryError(f"policy-{weights.number} is not proved: the old prefix cache was not dropped.")
        return await self._ask(asked)

    async def _put_back(self, policy: PolicyFiles, held: PolicyFiles, before: Rows) -> None:
        """Load `held` again, after `policy` moved the server, but not to where that could be proved.

        A server that repeats what it said before the move, and did not say in between, holds what it held. If it does
        not, or dies, the next delivery starts it anew.
        """
        with suppress(Unavailable, ServingError):
            await _check_hash(held)
            again = await self._replace(held, policy)
            if difference(again, before)[1] < self._tolerance.change:
                self._held = held

    async def _judge_the_load(self, policy: PolicyFiles, before: Rows) -> None:
        """Find out why a load of other weights changed no answer: ask a fresh process, which has no old ones.

        Raises:
            DeliveryError: that one answers otherwise, so the load in place did nothing.
        """
        await self._boot(policy)
        fresh, self._held = await self._ask(policy), None
        if difference(fresh, before)[1] >= self._tolerance.change:
            raise DeliveryError(
                f"policy-{policy.number} is not proved: after the load in place the server still holds the old "
                "weights; started anew on the new ones it answers otherwise. Loading in place does not work with this "
                "build of vLLM: report it, with the server's log."
            )

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
        self._started, self._held, self._foreseen = True, None, None
        await self.server.stop()
        await self._backend.aclose()
        await _check_hash(policy)
        await self.server.start(Path(policy.path))
        self._backend = self.gateway.backend = self._connect(control_tokens(Path(policy.path)))
        try:
            return prove(policy, await self._ask(policy), None, self._tolerance)
        except Unavailable as error:
            raise _undelivered(policy, error) from error

    def _connect(self, controls: frozenset[str] = frozenset()) -> LocalBackend:
        server, seconds = self.server, self.config.request_seconds
        return LocalBackend(server.url, server.headers, MODEL_NAME, timeout=seconds, controls=controls)

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
