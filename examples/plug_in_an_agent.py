r"""An agent of your own as the solver of a self-play session: plain LangChain, nothing of Autotelic in it.

    pip install langchain langchain-openai
    autotelic self-play configs/quickstart.yaml solver=examples/plug_in_an_agent.py:agent solve.max_tokens=80 \
        "environment.families=[gcd, spell_backward]"

Its model calls go to the policy of the session, each is recorded with its tools and token ids, and what led to a right
answer is trained. The model has to be made where the graph is made: its address is another one in each episode.
"""

from __future__ import annotations

import math

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def greatest_common_divisor(left: int, right: int) -> int:
    """Tell the greatest common divisor of two whole numbers."""
    return math.gcd(left, right)


@tool
def backward(word: str) -> str:
    """Spell a word backward."""
    return word[::-1]


agent = create_agent(ChatOpenAI(model="policy"), [greatest_common_divisor, backward])
