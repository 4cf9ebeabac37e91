"""The gateway as a LangChain chat model, so that any LangChain or LangGraph code runs on the local policy.

It is thin on purpose: messages go over as they are, and token ids, log-probabilities and the policy's number come back
in `response_metadata`.
"""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from pydantic import ConfigDict, Field

from autotelic.core.errors import UsageError
from autotelic.core.words import Completion, Message
from autotelic.serving.gateway import Gateway
from autotelic.serving.sampling import Sampling

__all__ = ["PolicyChatModel"]

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


class PolicyChatModel(BaseChatModel):
    """A LangChain chat model over a `Gateway`. Asynchronous: use `ainvoke` and its kin."""

    model_config = ConfigDict(arbitrary_types_allowed=True, use_attribute_docstrings=True)

    gateway: Gateway
    """Where calls go."""
    max_tokens: int = Field(default=256, ge=1)
    """Bound on each answer, tokens."""
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""

    @property
    def _llm_type(self) -> str:
        return "autotelic-policy"

    def guided_by(self, schema: dict[str, Any]) -> Runnable[Any, AIMessage]:
        """Return this model, its answers held to a JSON schema."""
        return self.bind(schema=schema)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain's signature
        **kwargs: Any,
    ) -> ChatResult:
        settings: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        settings |= {"stop": tuple(stop or ())} | kwargs
        try:
            sampling = Sampling(**settings)
        except TypeError as error:
            raise UsageError(f"this model does not take that: {error}. It takes the fields of Sampling.") from None
        found = await self.gateway.complete([_message(message) for message in messages], sampling)
        return ChatResult(generations=[ChatGeneration(message=_answer(completion)) for completion in found])

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise UsageError("the gateway answers only inside its event loop. Use await model.ainvoke(...), not invoke.")


def _message(message: BaseMessage) -> Message:
    role = _ROLES.get(message.type)
    if role is None or not isinstance(message.content, str):
        kind = message.type if role is None else f"{message.type} with parts"
        raise UsageError(
            f"a message of the kind {kind!r} cannot be sent. Send human, ai, system or tool messages of text."
        )
    return Message.model_validate({"role": role, "content": message.content})


def _answer(completion: Completion) -> AIMessage:
    total = completion.prompt_tokens + completion.completion_tokens
    return AIMessage(
        content=completion.text,
        response_metadata=completion.model_dump(include={"finish_reason", "token_ids", "logprobs", "policy"}),
        usage_metadata=UsageMetadata(
            input_tokens=completion.prompt_tokens, output_tokens=completion.completion_tokens, total_tokens=total
        ),
    )
