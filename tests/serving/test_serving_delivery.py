from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotelic.core.errors import DeliveryError, ServingError
from autotelic.core.hashing import sha256_of_weights
from autotelic.core.words import Message
from autotelic.serving import Indistinguishable, LocalBackend, Sampling
from autotelic.serving._weights import same_weights

pytestmark = pytest.mark.e2e

ASK = [Message(role="user", content="hi")]
Wait = Callable[[Callable[[], bool]], None]
Descendants = Callable[[int], dict[int, list[str]]]


async def answer(bench: Any) -> tuple[str, int | None]:
    found = await bench.server.gateway.complete(ASK)
    return found[0].text.split()[0], found[0].policy


async def test_start_then_deliver_in_place(bench: Any) -> None:
    assert bench.server.policy is None and not bench.server.running
    await bench.server.start(bench.policy(0, 1.0))
    assert bench.server.running and await answer(bench) == ("1.0", 0)
    record = await bench.server.deliver(bench.policy(1, 1.5), kind="train")
    assert await answer(bench) == ("1.5", 1)
    assert (record.policy, record.previous, record.kind) == (1, 0, "train")
    assert record.proof.to_trainer == pytest.approx(0, abs=1e-9)
    assert record.proof.to_previous == pytest.approx(0.5)
    assert [r.policy for r in bench.records] == [0, 1]
    sequence = [path for path in bench.calls() if "/v1" not in path]
    assert sequence == ["/pause", "/collective_rpc", "/reset_prefix_cache", "/resume"]


async def test_seconds_count_from_the_end_of_training(bench: Any) -> None:
    import time

    await bench.server.start(bench.policy(0, 1.0))
    record = await bench.server.deliver(bench.policy(1, 2.0), kind="train", finished_at=time.time() - 100)
    assert record.seconds >= 100


async def test_what_the_server_says_before_a_load_can_be_asked_early(bench: Any) -> None:
    base, other = bench.policy(0, 1.0), bench.policy(1, 1.5)
    await bench.server.foresee(other.canary.token_ids)
    assert not bench.server.running, "a server that is not there is not asked"
    await bench.server.start(base)
    asked = len(bench.calls())
    await bench.server.foresee(other.canary.token_ids)
    assert bench.calls()[asked:] == ["/v1/completions"]
    record = await bench.server.deliver(other, kind="train")
    assert record.proof.to_previous == pytest.approx(0.5)
    loading = ["/pause", "/collective_rpc", "/reset_prefix_cache", "/resume", "/v1/completions"]
    assert bench.calls()[asked + 1 :] == loading, "once before the load, once after"
    record = await bench.server.deliver(base)
    assert record.proof.to_previous == pytest.approx(0.5)
    assert bench.calls()[asked + 6 :] == ["/v1/completions", *loading], "what it said of other weights is not used"


async def test_the_served_policy_is_only_proved_again(bench: Any) -> None:
    policy = bench.policy(0, 1.0)
    await bench.server.start(policy)
    record = await bench.server.deliver(policy)
    assert record.proof.to_previous is None and "/collective_rpc" not in bench.calls()


async def test_a_server_that_no_longer_answers_as_proved_is_started_anew(bench: Any) -> None:
    base = bench.policy(0, 1.0)
    await bench.server.start(base)
    port = bench.server.server.port
    elsewhere = bench.policy(9, 3.0)
    process = bench.server.server
    intruder = LocalBackend(process.url, process.headers, "policy")
    await intruder.post("/collective_rpc", {"kwargs": {"weights_path": elsewhere.path}})
    await intruder.aclose()
    with pytest.raises(DeliveryError, match="differs from the trainer"):
        await bench.server.deliver(base)
    await bench.server.deliver(base)
    assert bench.server.server.port != port and await answer(bench) == ("1.0", 0)


async def test_nothing_is_answered_from_a_changed_file_and_the_server_gets_its_own_weights_back(bench: Any) -> None:
    base, bad = bench.policy(0, 1.0), bench.policy(1, 2.0)
    await bench.server.start(base)
    port = bench.server.server.port
    (Path(bad.path) / "model.safetensors").write_text("3.0")
    with pytest.raises(DeliveryError, match="its card"):
        await bench.server.deliver(bad)
    assert bench.server.policy is None
    with pytest.raises(DeliveryError, match="policy-1 was not delivered"):
        await answer(bench)
    await bench.server.deliver(base, kind="rollback")
    assert bench.server.server.port == port and await answer(bench) == ("1.0", 0)


async def test_weights_other_than_the_trainers_are_not_proved(bench: Any) -> None:
    base = bench.policy(0, 1.0)
    await bench.server.start(base)
    with pytest.raises(DeliveryError, match=r"differs from the trainer by 1\.0000"):
        await bench.server.deliver(bench.policy(1, 3.0, canary=2.0))
    with pytest.raises(DeliveryError):
        await answer(bench)
    await bench.server.deliver(base, kind="rollback")
    assert await answer(bench) == ("1.0", 0)


@pytest.mark.parametrize("canary", [1.05, 1.0])
async def test_a_server_that_keeps_the_old_weights_is_caught(bench: Any, canary: float) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    bench.set("stale")
    with pytest.raises(DeliveryError, match="still holds") as caught:
        await bench.server.deliver(bench.policy(1, 1.05, canary=canary), kind="train")
    assert not isinstance(caught.value, Indistinguishable)
    with pytest.raises(DeliveryError):
        await answer(bench)


@pytest.mark.parametrize("canary", [1.05, 1.0])
async def test_old_weights_under_a_new_card_are_not_even_loaded(bench: Any, canary: float) -> None:
    base = bench.policy(0, 1.0)
    await bench.server.start(base)
    port = bench.server.server.port
    with pytest.raises(Indistinguishable, match="very weights of policy-0"):
        await bench.server.deliver(bench.policy(1, 1.0, canary=canary), kind="train")
    with pytest.raises(DeliveryError, match="policy-1 was not delivered"):
        await answer(bench)
    await bench.server.deliver(base)
    assert "/collective_rpc" not in bench.calls() and bench.server.server.port == port
    assert await answer(bench) == ("1.0", 0)


async def test_a_policy_that_moved_by_less_than_the_noise_is_taken_back_in_place(bench: Any) -> None:
    base = bench.policy(0, 1.0)
    await bench.server.start(base)
    port = bench.server.server.port
    with pytest.raises(Indistinguishable, match="too little was learned"):
        await bench.server.deliver(bench.policy(1, 1.02, canary=0.98), kind="train")
    with pytest.raises(DeliveryError, match="policy-1 was not delivered"):
        await answer(bench)
    await bench.server.deliver(base)
    assert bench.calls().count("/collective_rpc") == bench.calls().count("/reset_prefix_cache") == 2
    assert bench.server.server.port == port and await answer(bench) == ("1.0", 0)


async def test_what_cannot_be_put_back_is_started_anew(bench: Any) -> None:
    base = bench.policy(0, 1.0)
    await bench.server.start(base)
    port = bench.server.server.port
    (Path(base.path) / "model.safetensors").write_text("1.03")
    with pytest.raises(Indistinguishable):
        await bench.server.deliver(bench.policy(1, 1.02, canary=0.98), kind="train")
    with pytest.raises(DeliveryError, match="its card"):
        await bench.server.deliver(base)
    (Path(base.path) / "model.safetensors").write_text("1.0")
    await bench.server.deliver(base)
    assert bench.server.server.port != port and await answer(bench) == ("1.0", 0)


async def test_other_weights_with_the_same_answers_are_told_from_a_load_that_does_nothing(bench: Any) -> None:
    base, other = bench.policy(0, 1.0), bench.policy(1, 1.0, name="other")
    (Path(other.path) / "model.safetensors").write_text("1.000")
    other = other.model_copy(update={"sha256": sha256_of_weights(other.path)})
    await bench.server.start(base)
    with pytest.raises(Indistinguishable, match=r"changed by 0\.000000"):
        await bench.server.deliver(other, kind="train")
    await bench.server.deliver(base)
    assert await answer(bench) == ("1.0", 0)


async def test_a_known_policy_that_looks_like_the_one_before_is_proved_by_a_fresh_process(bench: Any) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    port = bench.server.server.port
    record = await bench.server.deliver(bench.policy(1, 1.02, canary=0.98), kind="rollback")
    assert record.proof.to_previous is None and bench.server.server.port != port
    assert await answer(bench) == ("1.02", 1)


def tensors(directory: Path, *files: dict[str, bytes]) -> Path:
    """Write safetensors files, each with its tensors in the order given."""
    directory.mkdir()
    for number, content in enumerate(files):
        header: dict[str, Any] = {"__metadata__": {"written by": directory.name}}
        end = 0
        for name, data in content.items():
            header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [end, end + len(data)]}
            end += len(data)
        text = json.dumps(header).encode()
        file = len(text).to_bytes(8, "little") + text + b"".join(content.values())
        (directory / f"{number}.safetensors").write_bytes(file)
    return directory


def test_weights_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    one = tensors(tmp_path / "one", {"a": b"123", "b": b"4567"})
    assert same_weights(one, tensors(tmp_path / "turned", {"b": b"4567", "a": b"123"}))
    assert same_weights(one, tensors(tmp_path / "apart", {"b": b"4567"}, {"a": b"123"}))
    assert not same_weights(one, tensors(tmp_path / "other", {"a": b"123", "b": b"4568"}))
    assert not same_weights(one, tensors(tmp_path / "longer", {"a": b"123", "b": b"45678"}))
    assert not same_weights(one, tensors(tmp_path / "more", {"a": b"123", "b": b"4567", "c": b""}))
    (one / "0.safetensors").write_bytes(b"no header")
    assert not same_weights(one, one) and not same_weights(tmp_path / "none", tmp_path / "none")


async def test_a_number_is_never_given_to_other_weights(bench: Any) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    await bench.server.deliver(bench.policy(1, 2.0))
    with pytest.raises(DeliveryError, match="never given to other weights"):
        await bench.server.deliver(bench.policy(1, 2.5))


async def test_a_load_that_fails_leaves_nothing_served_and_the_next_delivery_starts_anew(bench: Any) -> None:
    base = bench.policy(0, 1.0)
    await bench.server.start(base)
    port = bench.server.server.port
    bench.set("break")
    with pytest.raises(DeliveryError, match="cannot load"):
        await bench.server.deliver(bench.policy(1, 2.0))
    assert "/resume" in bench.calls()
    await bench.server.deliver(base)
    assert bench.server.server.port != port and await answer(bench) == ("1.0", 0)


async def test_no_answer_comes_from_two_policies(bench: Any, wait_for: Wait) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    bench.set("hold")
    early = [asyncio.create_task(bench.server.gateway.complete(ASK)) for _ in range(3)]
    await asyncio.to_thread(wait_for, (bench.control / "held").exists)
    delivery = asyncio.create_task(bench.server.deliver(bench.policy(1, 2.0)))
    await asyncio.sleep(0)
    late = [asyncio.create_task(bench.server.gateway.complete(ASK)) for _ in range(3)]
    await asyncio.sleep(0)
    assert "/pause" not in bench.calls()
    bench.clear("hold")
    await delivery
    before = [(await task)[0] for task in early]
    after = [(await task)[0] for task in late]
    assert {(c.text.split()[0], c.text.split()[1], c.policy) for c in before} == {("1.0", "1.0", 0)}
    assert {(c.text.split()[0], c.text.split()[1], c.policy) for c in after} == {("2.0", "2.0", 1)}


async def test_a_dead_server_comes_back_with_the_proved_policy(bench: Any) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    await bench.server.deliver(bench.policy(1, 2.0))
    bench.set("die")
    answers = await asyncio.gather(*[answer(bench) for _ in range(4)])
    assert answers == [("2.0", 1)] * 4
    assert [(r.policy, r.kind) for r in bench.records][2:] == [(1, "recover")]


async def test_who_gives_up_while_the_server_comes_back_ends_it_for_nobody(bench: Any, wait_for: Wait) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    bench.set("die")
    impatient = asyncio.create_task(answer(bench))
    await asyncio.to_thread(wait_for, lambda: bool(bench.server.gateway.counters.retries))  # it found the server dead
    patient = asyncio.create_task(answer(bench))
    impatient.cancel()
    assert await patient == await answer(bench) == ("1.0", 0)
    assert [r.kind for r in bench.records] == ["start", "recover"]


async def test_a_stop_while_the_server_comes_back_is_the_end(
    bench: Any, wait_for: Wait, descendants: Descendants
) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    bench.set("die")
    waiting = asyncio.create_task(answer(bench))
    await asyncio.to_thread(wait_for, lambda: bool(bench.server.gateway.counters.retries))
    await bench.server.stop()
    with pytest.raises((ServingError, asyncio.CancelledError)):
        await waiting
    assert not any("fake_vllm.py" in line[1] for line in descendants(os.getpid()).values())
    with pytest.raises(DeliveryError, match="was not started"):
        await answer(bench)


async def test_a_server_that_keeps_dying_is_given_up(bench: Any) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    for _ in range(3):
        bench.set("die")
        assert await answer(bench) == ("1.0", 0)
    bench.set("die")
    with pytest.raises(ServingError, match="died 4 times"):
        await answer(bench)
    with pytest.raises(DeliveryError, match="could not be brought back"):
        await answer(bench)


async def test_a_server_killed_before_a_delivery_is_started_on_the_new_policy(
    bench: Any, wait_for: Wait, descendants: Descendants
) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    os.kill(next(pid for pid, line in descendants(os.getpid()).items() if "fake_vllm.py" in line[1]), signal.SIGKILL)
    await asyncio.to_thread(wait_for, lambda: not bench.server.server.running)
    await bench.server.deliver(bench.policy(1, 2.0))
    assert await answer(bench) == ("2.0", 1)


async def test_a_delivery_cut_off_while_waiting_changes_nothing(bench: Any, wait_for: Wait) -> None:
    base = bench.policy(0, 1.0)
    await bench.server.start(base)
    bench.set("hold")
    request = asyncio.create_task(bench.server.gateway.complete(ASK))
    await asyncio.to_thread(wait_for, (bench.control / "held").exists)
    delivery = asyncio.create_task(bench.server.deliver(bench.policy(1, 2.0)))
    await asyncio.sleep(0)
    delivery.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivery
    bench.clear("hold")
    assert (await request)[0].policy == 0
    assert await answer(bench) == ("1.0", 0)


async def test_stop_ends_everything(bench: Any, descendants: Descendants) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    await bench.server.stop()
    assert not bench.server.running and not descendants(os.getpid())
    with pytest.raises(DeliveryError, match="not started"):
        await bench.server.gateway.complete(ASK, Sampling())


async def test_requests_in_flight_when_the_server_is_killed_are_answered_and_counted_once(
    bench: Any, wait_for: Wait, descendants: Descendants
) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    bench.set("hold")
    asked = [asyncio.create_task(bench.server.gateway.complete(ASK, Sampling(n=2))) for _ in range(4)]
    await asyncio.to_thread(wait_for, (bench.control / "held").exists)
    os.kill(next(pid for pid, line in descendants(os.getpid()).items() if "fake_vllm.py" in line[1]), signal.SIGKILL)
    bench.clear("hold")
    answers = await asyncio.gather(*asked)
    assert [len(answer) for answer in answers] == [2] * 4 and {c.policy for found in answers for c in found} == {0}
    counters = bench.server.gateway.counters
    assert (counters.calls, counters.prompt_tokens, counters.completion_tokens) == (4, 4 * 7, 4 * 2 * 3)
    assert [(r.policy, r.kind) for r in bench.records] == [(0, "start"), (0, "recover")] and counters.retries >= 1
